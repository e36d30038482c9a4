//! Q4_K: 8 sub-blocks of 32 quants of 4 bits with 6-bit scales and minima, two half factors (ggml `block_q4_K`). Unit: 8 x 4
//! vectors of nibbles, 3 vectors of scales and minima, d, dmin.

use super::lanes::{nibbles, pair_up, put_half, put_nibbles, six_bits, u128_at};
use super::{Pack, SuperPanel};
use crate::simd::Simd;

const SUB_BYTES: usize = 256;
// Scales first, so that a product reads the unit from front to back.
const SCALES: usize = 0;
const D: usize = SCALES + six_bits::BYTES;
const SUBS: usize = D + 64;

/// Q4_K.
pub(crate) struct Q4K;

impl Pack for Q4K {
    const UNIT_BYTES: usize = SUBS + 8 * SUB_BYTES;
    const OFFSET: i32 = 0;
    const MIN: bool = true;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        for pair in 0..4 {
            // The file holds sub-blocks 2 pair and 2 pair + 1 in the low and high nibbles of the same 32 bytes.
            let (first, second) = (u128_at(block, 16 + 32 * pair), u128_at(block, 32 + 32 * pair));
            let at = SUBS + 2 * pair * SUB_BYTES;
            put_nibbles(&mut unit[at..], row, first, second);
            put_nibbles(&mut unit[at + SUB_BYTES..], row, first >> 4, second >> 4);
        }
        six_bits::put(&mut unit[SCALES..], row, block[4..16].try_into().expect("12 bytes"));
        put_half(&mut unit[D..], row, &block[..2]);
        put_half(&mut unit[D + 32..], row, &block[2..4]);
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl SuperPanel for Q4K {
    const SUB: usize = 32;
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, sub: usize, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe { nibbles::<S>(unit.add(SUBS + SUB_BYTES * sub), half) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(unit: *const u8, index: usize) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::to_floats(six_bits::scale::<S>(unit.add(SCALES), index)) }
    }
    #[inline(always)]
    unsafe fn min_pair<S: Simd>(unit: *const u8, pair: usize) -> S::Ints {
        // SAFETY: the trait's contract.
        unsafe {
            let minima = unit.add(SCALES);
            pair_up::<S>(six_bits::min::<S>(minima, 2 * pair), six_bits::min::<S>(minima, 2 * pair + 1))
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
