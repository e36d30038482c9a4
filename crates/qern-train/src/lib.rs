//! Examples to adapters: data sets and loss masks, the optimizer, checkpoints, evaluation. Knows nothing of scheduling or HTTP.
//!
//! Reading order: `trainable` is the seam between the training loop and the mathematics of a model; `adapter` says what is trained.
#![forbid(unsafe_code)]

pub mod adapter;
pub mod error;
pub mod random;
pub mod trainable;

pub use error::{Error, Result};
