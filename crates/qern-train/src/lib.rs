//! Examples to adapters: data sets and loss masks, the optimizer, checkpoints, evaluation. Knows nothing of scheduling or HTTP.
//!
//! Reading order: `trainable` is the seam between the training loop and the mathematics of a model. `config` says what is asked for;
//! `data` makes sequences with masks of files; `run` is the loop, with `optim` for a step and `checkpoint` for what is kept;
//! `adapter` is what comes out, `report` what is told of it.
#![forbid(unsafe_code)]

pub mod adapter;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod error;
pub mod optim;
pub mod random;
pub mod report;
pub mod run;
pub mod trainable;

pub use error::{Error, Result};

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
