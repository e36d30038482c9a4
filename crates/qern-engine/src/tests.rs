//! The engine over a toy model whose answers are known: no request may notice another, nor how it was computed.

mod adapters;
mod answers;
mod beam;
mod constrained;
mod embeddings;
mod independence;
mod lifecycle;
mod soak;
mod thread;
pub(crate) mod toy;
