//! Q2_K: 16 sub-blocks of 16 quants of 2 bits with 4-bit scales and minima, two half factors (ggml `block_q2_K`). Unit: 8 x 2
//! vectors of bit pairs, 16 x 16 bytes of scale (low nibble) and minimum (high), d, dmin.

use super::lanes::{pair_up, pairs, put_half, put_pairs, u128_at};
use super::{Pack, SuperPanel};
use crate::simd::Simd;

const SUB_BYTES: usize = 128;
// Scales first, so that a product reads the unit from front to back.
const SCALES: usize = 0;
const D: usize = SCALES + 256;
const SUBS: usize = D + 64;

/// Q2_K.
pub(crate) struct Q2K;

impl Pack for Q2K {
    const UNIT_BYTES: usize = SUBS + 8 * SUB_BYTES;
    const OFFSET: i32 = 0;
    const MIN: bool = true;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        for i in 0..16 {
            unit[SCALES + 16 * i + row] = block[i];
        }
        for sub in 0..8 {
            let (low, shift) = (16 + 32 * (sub / 4), 2 * (sub % 4));
            put_pairs(&mut unit[SUBS + SUB_BYTES * sub..], row, u128_at(block, low) >> shift, u128_at(block, low + 16) >> shift);
        }
        put_half(&mut unit[D..], row, &block[80..82]);
        put_half(&mut unit[D + 32..], row, &block[82..84]);
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl SuperPanel for Q2K {
    const SUB: usize = 16;
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, sub: usize, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe { pairs::<S>(unit.add(SUBS + SUB_BYTES * sub), half, 0) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(unit: *const u8, index: usize) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::to_floats(S::and_ints(S::load_u8_ints(unit.add(SCALES + 16 * index)), S::splat_int(15))) }
    }
    #[inline(always)]
    unsafe fn min_pair<S: Simd>(unit: *const u8, pair: usize) -> S::Ints {
        // SAFETY: the trait's contract.
        unsafe {
            let min = |i: usize| S::shr_ints(S::load_u8_ints(unit.add(SCALES + 16 * i)), 4);
            pair_up::<S>(min(2 * pair), min(2 * pair + 1))
        }
    }
    #[inline(always)]
    unsafe fn d<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load_f16(unit.add(D).cast()) }
    }
    #[inline(always)]
    unsafe fn dmin<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load_f16(unit.add(D + 32).cast()) }
    }
}
