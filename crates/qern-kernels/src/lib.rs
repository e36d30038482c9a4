//! Numbers for Qern: weight formats and their packed panels, matrix multiplication, attention, normalization, rotary
//! embedding, activation functions, and the thread pool that runs them. Knows nothing of models, tokens or file formats.
//!
//! Rule of the crate: every output element is accumulated in one fixed order, so a result never depends on the batch it
//! was computed in or on the number of threads.

pub mod format;

pub use format::WeightFormat;
