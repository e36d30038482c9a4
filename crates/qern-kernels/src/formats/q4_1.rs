//! Q4_1: 32 quants of 4 bits, one half scale, one half minimum (ggml `block_q4_1`). Unit: 4 vectors of nibbles, scales, minima.

use super::lanes::{nibbles, put_half, put_words, u128_at};
use super::{BlockPanel, Pack};
use crate::simd::Simd;

/// Q4_1.
pub(crate) struct Q4_1;

impl Pack for Q4_1 {
    const UNIT_BYTES: usize = 256 + 64;
    const OFFSET: i32 = 0;
    const MIN: bool = true;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        put_words(unit, row, u128_at(block, 4));
        put_half(&mut unit[256..], row, &block[..2]);
        put_half(&mut unit[288..], row, &block[2..4]);
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl BlockPanel for Q4_1 {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe { nibbles::<S>(unit, half) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load_f16(unit.add(256).cast()) }
    }
    #[inline(always)]
    unsafe fn min<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load_f16(unit.add(288).cast()) }
    }
}
