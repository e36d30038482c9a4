//! A model small enough to differentiate by hand: the mean of the embeddings so far, through a frozen matrix and a LoRA pair, to
//! logits. It stands for the real one in tests of everything around it.
#![allow(dead_code, reason = "each test binary uses its own part")]

use qern_train::random::{Draws, Purpose, fill_lora_a};
use qern_train::trainable::{Gradients, Losses, Parameter, ParameterId, ParameterKind, TrainBatch, Trainable, Which};
use qern_train::{Error, Result};

pub const VOCAB: usize = 31;
const DIM: usize = 6;
const RANK: usize = 2;
const A: ParameterId = 0;
const B: ParameterId = 1;

pub struct Toy {
    parameters: Vec<Parameter>,
    embedding: Vec<f32>,   // [VOCAB, DIM]
    head: Vec<f32>,        // [VOCAB, DIM]
    values: [Vec<f32>; 2], // A [RANK, DIM], B [VOCAB, RANK]
    dropout: f32,
    is_stale: bool,
}

impl Toy {
    pub fn new(seed: u64) -> Self {
        let mut draws = Draws::new(1, Purpose::Initial, 1 << 40);
        let mut matrix = || (0..VOCAB * DIM).map(|_| draws.uniform() * 2.0 - 1.0).collect();
        let (embedding, head) = (matrix(), matrix());
        let name = |part: &str| format!("model.layers.0.self_attn.q_proj.lora_{part}.weight");
        let parameters = vec![
            Parameter { name: name("A"), shape: vec![RANK, DIM], kind: ParameterKind::LoraA },
            Parameter { name: name("B"), shape: vec![VOCAB, RANK], kind: ParameterKind::LoraB },
        ];
        let mut a = vec![0.0; RANK * DIM];
        fill_lora_a(&mut a, DIM, seed, A);
        Self { parameters, embedding, head, values: [a, vec![0.0; VOCAB * RANK]], dropout: 0.0, is_stale: false }
    }

    pub fn with_dropout(self, dropout: f32) -> Self {
        Self { dropout, ..self }
    }

    /// What a token says is not a number: what comes after it has no finite loss.
    pub fn poisoned(mut self, token: usize) -> Self {
        self.embedding[token * DIM] = f32::NAN;
        self
    }

    /// Loss of the batch per sequence; adds to `gradients` where there are some.
    fn run(&self, batch: &TrainBatch, which: Which, mut gradients: Option<&mut Gradients>) -> Result<Losses> {
        assert!(!self.is_stale, "`values_changed` was not called");
        if let Some(token) = batch.tokens.iter().find(|&&token| token as usize >= VOCAB) {
            return Err(Error::Model(format!("tokens must be below {VOCAB}; given {token}")));
        }
        let mut losses = Losses::default();
        for (sequence_id, (tokens, weights)) in batch.sequences().enumerate() {
            let mut sum = [0.0f32; DIM];
            let mut loss = 0.0;
            for position in 1..tokens.len() {
                let previous = tokens[position - 1] as usize * DIM;
                for (sum, value) in sum.iter_mut().zip(&self.embedding[previous..]) {
                    *sum += value;
                }
                let hidden: Vec<f32> = sum.iter().map(|value| value / position as f32).collect();
                let kept = self.kept(batch, sequence_id, position);
                loss += self.token(&hidden, &kept, tokens[position] as usize, weights[position], which, gradients.as_deref_mut());
            }
            losses.per_sequence.push(loss);
        }
        Ok(losses)
    }

    /// The factor of each input of A: 0 where dropped.
    fn kept(&self, batch: &TrainBatch, sequence_id: usize, position: usize) -> [f32; DIM] {
        let Some(dropout) = batch.dropout.filter(|_| self.dropout > 0.0) else { return [1.0; DIM] };
        let counter = (dropout.batch_id << 32) + ((sequence_id as u64) << 16) + position as u64;
        let mut draws = Draws::new(dropout.seed, Purpose::Dropout, counter);
        std::array::from_fn(|_| if draws.uniform() < self.dropout { 0.0 } else { 1.0 / (1.0 - self.dropout) })
    }

    fn token(
        &self,
        hidden: &[f32],
        kept: &[f32],
        target: usize,
        weight: f32,
        which: Which,
        gradients: Option<&mut Gradients>,
    ) -> f64 {
        let [a, b] = &self.values;
        let input: Vec<f32> = hidden.iter().zip(kept).map(|(hidden, kept)| hidden * kept).collect();
        let dot = |row: &[f32], x: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        let down: Vec<f32> = a.chunks(DIM).map(|row| dot(row, &input)).collect();
        let adapted = if which == Which::Adapted { 1.0 } else { 0.0 };
        let logits: Vec<f32> =
            (0..VOCAB).map(|v| dot(&self.head[v * DIM..], hidden) + adapted * dot(&b[v * RANK..][..RANK], &down)).collect();
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let total: f32 = logits.iter().map(|logit| (logit - max).exp()).sum();
        if let Some(gradients) = gradients {
            let slope: Vec<f32> =
                (0..VOCAB).map(|v| weight * ((logits[v] - max).exp() / total - if v == target { 1.0 } else { 0.0 })).collect();
            let (to_a, to_b) = gradients.pair_mut(A, B);
            for r in 0..RANK {
                let back: f32 = (0..VOCAB).map(|v| slope[v] * b[v * RANK + r]).sum();
                for (to, input) in to_a[r * DIM..].iter_mut().zip(&input) {
                    *to += back * input;
                }
                for v in 0..VOCAB {
                    to_b[v * RANK + r] += slope[v] * down[r];
                }
            }
        }
        f64::from(weight) * f64::from(max + total.ln() - logits[target])
    }
}

impl Trainable for Toy {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn values(&self, id: ParameterId) -> &[f32] {
        &self.values[id]
    }

    fn values_mut(&mut self, id: ParameterId) -> &mut [f32] {
        self.is_stale = true;
        &mut self.values[id]
    }

    fn values_changed(&mut self) -> Result<()> {
        self.is_stale = false;
        Ok(())
    }

    fn accumulate(&mut self, batch: &TrainBatch, gradients: &mut Gradients) -> Result<Losses> {
        self.run(batch, Which::Adapted, Some(gradients))
    }

    fn losses(&mut self, batch: &TrainBatch, which: Which) -> Result<Losses> {
        self.run(batch, which, None)
    }

    fn memory_bytes(&self) -> usize {
        4 * (self.embedding.len() + self.head.len() + self.values.iter().map(Vec::len).sum::<usize>())
    }
}
