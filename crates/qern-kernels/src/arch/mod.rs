//! The implementations of `Simd`. Intrinsics appear here and nowhere else.

pub(crate) mod probe;
pub(crate) mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
