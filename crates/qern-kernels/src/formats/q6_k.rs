//! Q6_K: 16 sub-blocks of 16 quants of 6 bits, offset 32, with 8-bit scales, one half factor (ggml `block_q6_K`). Unit: 8 x (4
//! vectors of nibbles, 2 of high bit pairs), 16 x 16 scales, d.

use super::lanes::{nibbles, or4, pairs, put_half, put_nibbles, put_pairs, u128_at};
use super::{Pack, SuperPanel};
use crate::simd::Simd;

const SUB_BYTES: usize = 384;
// Scales first, so that a product reads the unit from front to back.
const SCALES: usize = 0;
const D: usize = SCALES + 256;
const SUBS: usize = D + 32;

/// Q6_K.
pub(crate) struct Q6K;

impl Pack for Q6K {
    const UNIT_BYTES: usize = SUBS + 8 * SUB_BYTES;
    const OFFSET: i32 = 32;
    const MIN: bool = false;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        for sub in 0..8 {
            // Each half of the block: 64 bytes of nibbles, then (at 128) 32 bytes of four bit pairs.
            let (half, quarter) = (sub / 4, sub % 4);
            let low = 64 * half + 32 * (quarter % 2);
            let high = 128 + 32 * half;
            let nibble = 4 * (quarter / 2);
            let unit = &mut unit[SUBS + SUB_BYTES * sub..];
            put_nibbles(unit, row, u128_at(block, low) >> nibble, u128_at(block, low + 16) >> nibble);
            put_pairs(&mut unit[256..], row, u128_at(block, high) >> (2 * quarter), u128_at(block, high + 16) >> (2 * quarter));
        }
        for i in 0..16 {
            unit[SCALES + 16 * i + row] = block[192 + i];
        }
        put_half(&mut unit[D..], row, &block[208..210]);
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl SuperPanel for Q6K {
    const SUB: usize = 16;
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, sub: usize, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe {
            let unit = unit.add(SUBS + SUB_BYTES * sub);
            or4::<S>(nibbles::<S>(unit, half), pairs::<S>(unit.add(256), half, 4))
        }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(unit: *const u8, index: usize) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::to_floats(S::load_i8_ints(unit.add(SCALES + 16 * index).cast())) }
    }
    #[inline(always)]
    unsafe fn d<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load_f16(unit.add(D).cast()) }
    }
}
