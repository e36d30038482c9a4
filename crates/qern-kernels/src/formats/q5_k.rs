//! Q5_K: 8 sub-blocks of 32 quants of 5 bits with 6-bit scales and minima, two half factors (ggml `block_q5_K`). Unit: 8 x (4
//! vectors of nibbles, 1 of fifth bits), 3 vectors of scales and minima, d, dmin.

use super::lanes::{bits, nibbles, or4, pair_up, put_bits, put_half, put_nibbles, six_bits, u128_at};
use super::{Pack, SuperPanel};
use crate::simd::Simd;

const SUB_BYTES: usize = 320;
// Scales first, so that a product reads the unit from front to back.
const SCALES: usize = 0;
const D: usize = SCALES + six_bits::BYTES;
const SUBS: usize = D + 64;

/// Q5_K.
pub(crate) struct Q5K;

impl Pack for Q5K {
    const UNIT_BYTES: usize = SUBS + 8 * SUB_BYTES;
    const OFFSET: i32 = 0;
    const MIN: bool = true;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        let fifth = [u128_at(block, 16), u128_at(block, 32)];
        for sub in 0..8 {
            let shift = 4 * (sub % 2);
            let quants = 48 + 32 * (sub / 2);
            let unit = &mut unit[SUBS + SUB_BYTES * sub..];
            put_nibbles(unit, row, u128_at(block, quants) >> shift, u128_at(block, quants + 16) >> shift);
            put_bits(&mut unit[256..], row, fifth[0] >> sub, fifth[1] >> sub);
        }
        six_bits::put(&mut unit[SCALES..], row, block[4..16].try_into().expect("12 bytes"));
        put_half(&mut unit[D..], row, &block[..2]);
        put_half(&mut unit[D + 32..], row, &block[2..4]);
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl SuperPanel for Q5K {
    const SUB: usize = 32;
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, sub: usize, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe {
            let unit = unit.add(SUBS + SUB_BYTES * sub);
            or4::<S>(nibbles::<S>(unit, half), bits::<S>(unit.add(256), half, 4))
        }
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
