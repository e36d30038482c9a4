//! Numbers for Qern: weight formats and their packed panels, matrix multiplication, attention, normalization, rotary
//! embedding, activation functions, and the thread pool that runs them. Knows nothing of models, tokens or file formats.
//!
//! Rule of the crate: every output element is accumulated in one fixed order, so a result never depends on the batch it
//! was computed in or on the number of threads.

mod arch;
pub mod attention;
pub mod cores;
pub mod dequantize;
mod disjoint;
mod exp;
pub mod format;
mod tile;
mod tables;
pub mod matrix;
pub mod matmul;
mod formats;
pub mod activation;
pub mod isa;
pub mod kv;
pub mod machine;
pub mod memory;
pub mod memory_limits;
pub mod mmap;
pub mod norm;
pub mod pool;
pub mod rope;
mod simd;
pub mod swiglu;
#[cfg(test)]
mod test_values;

pub use format::WeightFormat;
