//! The seam between the training loop and the mathematics: what the loop asks of a model, and the batches it hands to it. The
//! loop knows no layers; the model knows no data sets, no optimizer and no steps.

use qern_model::batch::TokenId;

use crate::Result;

/// A model of which some parameters are trained. Everything here is deterministic: the same parameters and the same batch give
/// the same bits, for any number of threads.
pub trait Trainable {
    /// The trained parameters, in an order that never changes for one model and one adapter specification. A `ParameterId` is an
    /// index into it.
    fn parameters(&self) -> &[Parameter];

    /// The values of a parameter, row after row. // [shape product]
    fn values(&self, id: ParameterId) -> &[f32];

    /// The same, to be changed: by the optimizer, or by a checkpoint that is resumed. The loop calls `values_changed` after
    /// it has changed any, before it runs the model again.
    fn values_mut(&mut self, id: ParameterId) -> &mut [f32];

    /// Some values were changed; what the model derived from them (packed copies, norms) is stale.
    fn values_changed(&mut self) -> Result<()>;

    /// Runs the batch forward and backward, and **adds** to `gradients` the gradient of
    /// `sum over i of weights[i] * -ln p(tokens[i] | the tokens before it in its own sequence)`.
    /// Added in one fixed order. Returns the sums per sequence. Values that are not finite are returned as they are; the loop
    /// refuses them.
    fn accumulate(&mut self, batch: &TrainBatch, gradients: &mut Gradients) -> Result<Losses>;

    /// Only the sums per sequence, without gradients, in less memory. With the batch's dropout, if it has one; evaluation has
    /// none.
    fn losses(&mut self, batch: &TrainBatch, which: Which) -> Result<Losses>;

    /// Bytes of memory that the model holds now, with its base weights.
    fn memory_bytes(&self) -> usize;
}

/// The index of a trained parameter in [`Trainable::parameters`].
pub type ParameterId = usize;

/// A trained parameter: what it is, not its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The name of the tensor in PEFT's file without its leading `base_model.model.`, such as
    /// `model.layers.3.self_attn.q_proj.lora_A.weight`.
    pub name: String,
    /// Its dimensions: `[rank, in_features]` for A, `[out_features, rank]` for B, `[out_features]` for a magnitude.
    pub shape: Vec<usize>,
    /// Its part in the adapter; optimizers treat parts differently.
    pub kind: ParameterKind,
}

/// The part of a parameter in an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParameterKind {
    /// The factor that takes the input down to the rank.
    LoraA,
    /// The factor that takes the rank up to the output; zero at first.
    LoraB,
    /// DoRA's magnitude per output feature.
    Magnitude,
    /// A whole tensor of the base that is trained and saved (`modules_to_save`).
    Full,
}

/// Whether the adapter takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The model as trained so far.
    Adapted,
    /// The base alone; DPO's reference model.
    Base,
}

/// Sequences to train on, one after the other. They do not see each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainBatch {
    /// The tokens of all sequences. // [num_tokens]
    pub tokens: Vec<TokenId>,
    /// The weight of each token's loss, 0 for those that are not learnt. That of the first token of every sequence is 0, for
    /// nothing predicts it. Negative for what is unlearnt (DPO). // [num_tokens]
    pub weights: Vec<f32>,
    /// Where the sequences begin, and the number of tokens as the last. // [num_sequences + 1]
    pub boundaries: Vec<usize>,
    /// The row of the data file that each sequence came from, for messages. // [num_sequences]
    pub rows: Vec<u64>,
    /// Which activations to drop; `None` drops none whatever the adapter's rate.
    pub dropout: Option<Dropout>,
}

/// Names the random numbers that decide which activations are dropped. Together with the module, the sequence's index in its
/// batch and the position in the sequence it decides each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dropout {
    /// Of the run.
    pub seed: u64,
    /// The batches of the run that came before.
    pub batch_id: u64,
}

/// The loss of a batch, in nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Losses {
    /// The weighted sum over each sequence's tokens. // [num_sequences]
    pub per_sequence: Vec<f64>,
}

impl Losses {
    /// The sum over the sequences, in their order.
    pub fn sum(&self) -> f64 {
        self.per_sequence.iter().sum()
    }
}

impl TrainBatch {
    /// Appends a sequence; the loss of its first token never counts.
    ///
    /// # Panics
    /// If it is empty, or tokens and weights differ in number.
    pub fn push(&mut self, tokens: &[TokenId], weights: &[f32], row: u64) {
        assert!(!tokens.is_empty() && tokens.len() == weights.len(), "a sequence has tokens, each with its weight");
        if self.boundaries.is_empty() {
            self.boundaries.push(0);
        }
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.weights.extend_from_slice(weights);
        self.weights[start] = 0.0;
        self.boundaries.push(self.tokens.len());
        self.rows.push(row);
    }

    /// Sequences in the batch.
    pub fn num_sequences(&self) -> usize {
        self.rows.len()
    }

    /// The tokens and weights of each sequence, in order.
    pub fn sequences(&self) -> impl Iterator<Item = (&[TokenId], &[f32])> {
        self.boundaries.windows(2).map(|ends| (&self.tokens[ends[0]..ends[1]], &self.weights[ends[0]..ends[1]]))
    }

    /// Tokens whose loss counts.
    pub fn num_trained(&self) -> usize {
        self.weights.iter().filter(|&&weight| weight != 0.0).count()
    }

    /// The sum of all weights, by which a mean loss is divided.
    pub fn total_weight(&self) -> f64 {
        self.weights.iter().map(|&weight| f64::from(weight)).sum()
    }
}

/// A gradient for every parameter, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    values: Vec<Vec<f32>>, // [num_parameters][shape product]
}

impl Gradients {
    /// All zero, in the shapes of these parameters.
    pub fn zeros(parameters: &[Parameter]) -> Self {
        Self { values: parameters.iter().map(|parameter| vec![0.0; parameter.num_values()]).collect() }
    }

    /// The gradient of a parameter, as its values are laid out.
    pub fn get(&self, id: ParameterId) -> &[f32] {
        &self.values[id]
    }

    /// The same, to be added to.
    pub fn get_mut(&mut self, id: ParameterId) -> &mut [f32] {
        &mut self.values[id]
    }

    /// Two gradients at once, such as those of A and B of one module.
    ///
    /// # Panics
    /// If both are the same parameter.
    pub fn pair_mut(&mut self, a: ParameterId, b: ParameterId) -> (&mut [f32], &mut [f32]) {
        let [a, b] = self.values.get_disjoint_mut([a, b]).expect("two different parameters");
        (a, b)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.iter().map(Vec::as_slice)
    }

    /// Multiplies every value.
    pub fn scale(&mut self, factor: f32) {
        self.values.iter_mut().flatten().for_each(|value| *value *= factor);
    }

    /// Sets every value to zero.
    pub fn clear(&mut self) {
        self.values.iter_mut().for_each(|values| values.fill(0.0));
    }
}

impl Parameter {
    /// The product of the dimensions.
    pub fn num_values(&self) -> usize {
        self.shape.iter().product()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_predicts_the_first_token_of_a_sequence() {
        let mut batch = TrainBatch::default();
        batch.push(&[5, 6, 7], &[1.0, 0.0, 1.0], 1);
        batch.push(&[8, 9], &[1.0, 1.0], 2);
        assert_eq!(batch.weights, [0.0, 0.0, 1.0, 0.0, 1.0]);
        assert_eq!(batch.boundaries, [0, 3, 5]);
        assert_eq!((batch.num_trained(), batch.total_weight(), batch.num_sequences()), (2, 2.0, 2));
        assert_eq!(batch.sequences().map(|(tokens, _)| tokens.to_vec()).collect::<Vec<_>>(), [vec![5, 6, 7], vec![8, 9]]);
    }
}
