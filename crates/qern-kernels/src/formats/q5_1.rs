//! Q5_1: 32 quants of 5 bits, one half scale, one half minimum (ggml `block_q5_1`). Unit: 4 vectors of nibbles, 1 of fifth bits,
//! scales, minima.

use super::lanes::{bits, nibbles, or4, put_bits, put_half, put_words, u128_at};
use super::q5_0::fifth_bits;
use super::{BlockPanel, Pack};
use crate::simd::Simd;

/// Q5_1.
pub(crate) struct Q5_1;

impl Pack for Q5_1 {
    const UNIT_BYTES: usize = 256 + 64 + 64;
    const OFFSET: i32 = 0;
    const MIN: bool = true;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        let [first, second] = fifth_bits(&block[4..8]);
        put_words(unit, row, u128_at(block, 8));
        put_bits(&mut unit[256..], row, first, second);
        put_half(&mut unit[320..], row, &block[..2]);
        put_half(&mut unit[352..], row, &block[2..4]);
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl BlockPanel for Q5_1 {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe { or4::<S>(nibbles::<S>(unit, half), bits::<S>(unit.add(256), half, 4)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load_f16(unit.add(320).cast()) }
    }
    #[inline(always)]
    unsafe fn min<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load_f16(unit.add(352).cast()) }
    }
}
