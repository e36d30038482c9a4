//! Q5_0: 32 quants of 5 bits, offset 16, one half scale (ggml `block_q5_0`). Unit: 4 vectors of nibbles, 1 of fifth bits, scales.

use super::lanes::{bits, nibbles, or4, put_bits, put_half, put_words, u128_at};
use super::{BlockPanel, Pack};
use crate::simd::Simd;

/// The 32 fifth bits of a block, one a byte.
pub(super) fn fifth_bits(bits: &[u8]) -> [u128; 2] {
    let spread =
        |from: usize| (0..16).fold(0u128, |all, i| all | u128::from((bits[(from + i) / 8] >> ((from + i) % 8)) & 1) << (8 * i));
    [spread(0), spread(16)]
}

/// Q5_0.
pub(crate) struct Q5_0;

impl Pack for Q5_0 {
    const UNIT_BYTES: usize = 256 + 64 + 32;
    const OFFSET: i32 = 16;
    const MIN: bool = false;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        let [first, second] = fifth_bits(&block[2..6]);
        put_words(unit, row, u128_at(block, 6));
        put_bits(&mut unit[256..], row, first, second);
        put_half(&mut unit[320..], row, &block[..2]);
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl BlockPanel for Q5_0 {
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
}
