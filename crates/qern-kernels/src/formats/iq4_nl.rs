//! IQ4_NL: 32 indices of 4 bits into a table of signed bytes, one half scale (ggml `block_iq4_nl`). Unit as Q4_0.

use super::lanes::{IQ4_LANES, lookup4, nibbles, put_half, put_words, u128_at};
use super::{BlockPanel, Pack, WIDE_OFFSET};
use crate::simd::Simd;

/// IQ4_NL.
pub(crate) struct Iq4Nl;

impl Pack for Iq4Nl {
    const UNIT_BYTES: usize = 256 + 32;
    const OFFSET: i32 = WIDE_OFFSET;
    const MIN: bool = false;

    fn pack(block: &[u8], row: usize, unit: &mut [u8]) {
        put_words(unit, row, u128_at(block, 2));
        put_half(&mut unit[256..], row, &block[..2]);
    }
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl BlockPanel for Iq4Nl {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe { lookup4::<S>(&IQ4_LANES, nibbles::<S>(unit, half)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load_f16(unit.add(256).cast()) }
    }
}
