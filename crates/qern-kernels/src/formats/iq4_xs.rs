//! IQ4_XS: 8 sub-blocks of 32 indices of 4 bits into the table of IQ4_NL, with 6-bit scales less 32, one half factor (ggml
//! `block_iq4_xs`). Unit: 8 x 4 vectors of nibbles, 8 x 16 scales as signed bytes, d.

use super::lanes::{IQ4_LANES, lookup4, nibbles, put_half, put_words, u128_at};
use super::{Pack, SuperPanel, WIDE_OFFSET};
use crate::simd::Simd;

const SUB_BYTES: usize = 256;
// Scales first, so that a product reads the unit from front to back.
const SCALES: usize = 0;
const D: usize = SCALES + 128;
const SUBS: usize = D + 32;

/// IQ4_XS.
pub(crate) struct Iq4Xs;

impl Pack for Iq4Xs {
    const UNIT_BYTES: usize = SUBS + 8 * SUB_BYTES;
    const OFFSET: i32 = WIDE_OFFSET;
    const MIN: bool = false;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        let high = u16::from_le_bytes([block[2], block[3]]);
        for sub in 0..8 {
            put_words(&mut unit[SUBS + SUB_BYTES * sub..], row, u128_at(block, 8 + 16 * sub));
            let low = (block[4 + sub / 2] >> (4 * (sub % 2))) & 15;
            let scale = i16::from(low) | (((high >> (2 * sub)) & 3) << 4) as i16;
            unit[SCALES + 16 * sub + row] = (scale - 32) as i8 as u8;
        }
        put_half(&mut unit[D..], row, &block[..2]);
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl SuperPanel for Iq4Xs {
    const SUB: usize = 32;
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, sub: usize, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe { lookup4::<S>(&IQ4_LANES, nibbles::<S>(unit.add(SUBS + SUB_BYTES * sub), half)) }
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
