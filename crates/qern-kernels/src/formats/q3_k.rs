//! Q3_K: 16 sub-blocks of 16 quants of 3 bits, offset 4, with 6-bit scales, one half factor (ggml `block_q3_K`). Unit: 8 x (2
//! vectors of low bit pairs, 1 of third bits), 16 x 16 scales as signed bytes, d.

use super::lanes::{bits, or4, pairs, put_bits, put_half, put_pairs, u128_at};
use super::{Pack, SuperPanel};
use crate::dequantize::scales_q3_k;
use crate::simd::Simd;

const SUB_BYTES: usize = 192;
// Scales first, so that a product reads the unit from front to back.
const SCALES: usize = 0;
const D: usize = SCALES + 256;
const SUBS: usize = D + 32;

/// Q3_K.
pub(crate) struct Q3K;

impl Pack for Q3K {
    const UNIT_BYTES: usize = SUBS + 8 * SUB_BYTES;
    const OFFSET: i32 = 4;
    const MIN: bool = false;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        let third = [u128_at(block, 0), u128_at(block, 16)];
        for sub in 0..8 {
            let (low, shift) = (32 + 32 * (sub / 4), 2 * (sub % 4));
            let unit = &mut unit[SUBS + SUB_BYTES * sub..];
            put_pairs(unit, row, u128_at(block, low) >> shift, u128_at(block, low + 16) >> shift);
            put_bits(&mut unit[128..], row, third[0] >> sub, third[1] >> sub);
        }
        let scales = scales_q3_k(block[96..108].try_into().expect("12 bytes"));
        for (i, scale) in scales.into_iter().enumerate() {
            unit[SCALES + 16 * i + row] = scale as u8;
        }
        put_half(&mut unit[D..], row, &block[108..110]);
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl SuperPanel for Q3K {
    const SUB: usize = 16;
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, sub: usize, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe {
            let unit = unit.add(SUBS + SUB_BYTES * sub);
            or4::<S>(pairs::<S>(unit, half, 0), bits::<S>(unit.add(128), half, 2))
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
