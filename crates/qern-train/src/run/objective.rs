//! What training makes smaller: the mean loss of the learnt tokens, or that of preferences (Rafailov et al. 2023, DPO).

use crate::Result;
use crate::trainable::{Gradients, Losses, TrainBatch, Trainable, Which};

/// What is made smaller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// The negative logarithm of the learnt tokens' probability.
    Likelihood,
    /// `-ln sigmoid(beta * (gain of the chosen - gain of the rejected))`, where a gain is the logarithm of how much likelier the
    /// adapter makes a sequence than the base. Sequences 2i and 2i + 1 of a batch are chosen and rejected.
    Preference {
        /// How far from the base the model may go: smaller is further.
        beta: f64,
    },
}

/// A loss over some examples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// The sum.
    pub sum: f64,
    /// What the sum is over: learnt tokens, or preferences.
    pub weight: f64,
    /// Preferences that the model shares.
    pub num_preferred: Option<u64>,
}

/// A batch's share.
pub struct Part {
    /// Its score.
    pub score: Score,
    /// The sequences' losses.
    pub losses: Losses,
}

impl Score {
    /// Adds the share of another batch.
    pub fn add(&mut self, other: Self) {
        self.sum += other.sum;
        self.weight += other.weight;
        if let Some(num) = other.num_preferred {
            *self.num_preferred.get_or_insert(0) += num;
        }
    }

    /// The mean.
    pub fn loss(&self) -> f64 {
        self.sum / self.weight
    }

    /// The part of the preferences that the model shares.
    pub fn preference_accuracy(&self) -> Option<f64> {
        self.num_preferred.map(|num| num as f64 / self.weight)
    }
}

impl Objective {
    /// The batch's loss; adds its gradient. The batch's weights are changed to those that were used.
    pub fn accumulate(self, model: &mut dyn Trainable, batch: &mut TrainBatch, gradients: &mut Gradients) -> Result<Part> {
        let Self::Preference { beta } = self else {
            let losses = model.accumulate(batch, gradients)?;
            return Ok(Part { score: likelihood(batch, &losses), losses });
        };
        let (part, margins) = preference(beta, model, batch)?;
        // The gradient of -ln sigmoid(beta * margin) by the chosen sequence's loss is beta * sigmoid(-beta * margin), and by the
        // rejected one's its opposite: tokens weighted by it have the same gradient. Dropout is the same in both passes.
        for (pair, margin) in margins.iter().enumerate() {
            let slope = (beta * sigmoid(-beta * margin)) as f32;
            for (sequence, sign) in [(2 * pair, 1.0), (2 * pair + 1, -1.0)] {
                let range = batch.boundaries[sequence]..batch.boundaries[sequence + 1];
                batch.weights[range].iter_mut().for_each(|weight| *weight *= sign * slope);
            }
        }
        model.accumulate(batch, gradients)?;
        Ok(part)
    }

    /// The batch's loss.
    pub fn evaluate(self, model: &mut dyn Trainable, batch: &TrainBatch) -> Result<Part> {
        match self {
            Self::Likelihood => {
                let losses = model.losses(batch, Which::Adapted)?;
                Ok(Part { score: likelihood(batch, &losses), losses })
            }
            Self::Preference { beta } => preference(beta, model, batch).map(|(part, _)| part),
        }
    }
}

fn likelihood(batch: &TrainBatch, losses: &Losses) -> Score {
    Score { sum: losses.sum(), weight: batch.total_weight(), num_preferred: None }
}

/// The loss, and how much more the chosen sequence of each pair gained than the rejected one.
fn preference(beta: f64, model: &mut dyn Trainable, batch: &TrainBatch) -> Result<(Part, Vec<f64>)> {
    let base = model.losses(&TrainBatch { dropout: None, ..batch.clone() }, Which::Base)?;
    let losses = model.losses(batch, Which::Adapted)?;
    let gain = |sequence: usize| base.per_sequence[sequence] - losses.per_sequence[sequence];
    let margins: Vec<f64> = (0..batch.num_sequences() / 2).map(|pair| gain(2 * pair) - gain(2 * pair + 1)).collect();
    let score = Score {
        sum: margins.iter().map(|margin| softplus(-beta * margin)).sum(),
        weight: margins.len() as f64,
        num_preferred: Some(margins.iter().filter(|&&margin| margin > 0.0).count() as u64),
    };
    Ok((Part { score, losses }, margins))
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)`, without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
