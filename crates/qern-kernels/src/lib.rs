//! Numbers for Qern: weight formats and their packed panels, matrix multiplication, attention, normalization, rotary
//! embedding, activation functions, and the thread pool that runs them. Knows nothing of models, tokens or file formats.
//!
//! Rule of the crate: every output element is accumulated in one fixed order, so a result never depends on the batch it
//! was computed in or on the number of threads.

pub mod activation;
mod arch;
pub mod arena;
pub mod attention;
pub mod cores;
pub mod dequantize;
mod disjoint;
mod exp;
pub mod float_buffer;
pub mod format;
mod formats;
pub mod isa;
pub mod kv;
pub mod low_rank;
pub mod machine;
pub mod matmul;
pub mod matrix;
pub mod memory;
pub mod memory_limits;
pub mod mmap;
pub mod norm;
pub mod pool;
pub mod rope;
mod simd;
pub mod swiglu;
mod tables;
#[cfg(test)]
mod test_values;
mod tile;

pub use format::WeightFormat;
