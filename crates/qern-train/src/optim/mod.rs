//! From gradients to new values: AdamW, clipping, the learning rate over time. Knows no models and no data.

mod adamw;
mod clip;
mod schedule;

pub use adamw::{AdamW, AdamWSettings};
pub use clip::clip;
pub use schedule::{Decay, Schedule};
