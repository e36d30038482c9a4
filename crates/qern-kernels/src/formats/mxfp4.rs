//! MXFP4: 32 floats of 4 bits (E2M1, stored doubled as integers), one power-of-two scale (OCP Microscaling 1.0; ggml
//! `block_mxfp4`). Unit: 4 vectors of nibbles, scales as bfloat16, which holds every such power exactly.

use super::lanes::{lanes_of, lookup4, nibbles, put_half, put_words, u128_at};
use super::{BlockPanel, Pack};
use crate::dequantize::{MXFP4_LEVELS, e8m0_half};
use crate::simd::Simd;
use half::bf16;

/// Twice the value of each code, plus 12.
const LANES: [u8; 16] = lanes_of(MXFP4_LEVELS, 12);

/// MXFP4.
pub(crate) struct Mxfp4;

impl Pack for Mxfp4 {
    const UNIT_BYTES: usize = 256 + 32;
    const OFFSET: i32 = 12;
    const MIN: bool = false;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        put_words(unit, row, u128_at(block, 1));
        put_half(&mut unit[256..], row, &bf16::from_f32(e8m0_half(block[0])).to_le_bytes());
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl BlockPanel for Mxfp4 {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe { lookup4::<S>(&LANES, nibbles::<S>(unit, half)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load_bf16(unit.add(256).cast()) }
    }
}
