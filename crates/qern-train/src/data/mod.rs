//! From a file of examples to token sequences with loss masks, in batches. Knows no parameters and no steps.
//!
//! `rows` reads files, `example` finds out what a row means, `encode` makes tokens and masks of it, `load` does all of that to a
//! file, `order` decides what is held out and which examples share a step.

mod encode;
mod example;
mod load;
mod order;
pub mod rows;

pub use encode::{Encoder, Sequence, TrainOn};
pub use example::{Example, Kind, Reading};
pub use load::{DataReport, Dataset, LoadSettings, load};
pub use order::{Order, OrderSettings, StepSize, batches, hold_out};

/// An example, encoded: one sequence, or the chosen and the rejected one of a preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it stands in its file: the line, or the number of the row, from 1.
    pub row: u64,
    /// One, or two for a preference.
    pub sequences: Vec<Sequence>,
}

impl Item {
    /// Tokens of its sequences.
    pub fn num_tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len()).sum()
    }

    /// Tokens of its sequences whose loss counts.
    pub fn num_trained(&self) -> usize {
        self.sequences.iter().map(Sequence::num_trained).sum()
    }
}
