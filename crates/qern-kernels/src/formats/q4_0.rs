//! Q4_0: 32 quants of 4 bits, offset 8, one half scale (ggml `block_q4_0`). Unit: 4 vectors of nibbles, 16 scales.

use super::lanes::{nibbles, put_half, put_words, u128_at};
use super::{BlockPanel, Pack};
use crate::simd::Simd;

/// Q4_0.
pub(crate) struct Q4_0;

impl Pack for Q4_0 {
    const UNIT_BYTES: usize = 256 + 32;
    const OFFSET: i32 = 8;
    const MIN: bool = false;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        // The file pairs columns j and j + 16 in a byte, as the panel does.
        put_words(unit, row, u128_at(block, 2));
        put_half(&mut unit[256..], row, &block[..2]);
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl BlockPanel for Q4_0 {
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
}
