//! Q8_0: 32 signed bytes, one half scale (ggml `block_q8_0`). Unit: 8 vectors of bytes (stored plus 128), scales.

use super::lanes::{bytes, put_bytes, put_half, u128_at};
use super::{BlockPanel, Pack, WIDE_OFFSET};
use crate::simd::Simd;

/// Q8_0.
pub(crate) struct Q8_0;

impl Pack for Q8_0 {
    const UNIT_BYTES: usize = 512 + 32;
    const OFFSET: i32 = WIDE_OFFSET;
    const MIN: bool = false;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        let flip = bytes(0x80);
        put_bytes(unit, row, u128_at(block, 2) ^ flip, u128_at(block, 18) ^ flip);
        put_half(&mut unit[512..], row, &block[..2]);
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl BlockPanel for Q8_0 {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe {
            let lane = |g: usize| S::load_bytes(unit.add(256 * half + 64 * g));
            [lane(0), lane(1), lane(2), lane(3)]
        }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load_f16(unit.add(512).cast()) }
    }
}
