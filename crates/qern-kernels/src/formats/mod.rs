//! The panel of each weight format. A panel holds 16 rows of a matrix, interleaved so that one 64-byte vector is four
//! consecutive columns of all sixteen rows. A format is one file: how a block of the file packs losslessly into a panel
//! and how a panel unpacks into unsigned 8-bit lanes with scales, offsets and minima. What is done with the lanes is in
//! `tile`.

pub(crate) mod float;
mod iq4_nl;
mod iq4_xs;
mod lanes;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
pub(crate) mod unpacked;

pub(crate) use iq4_nl::Iq4Nl;
pub(crate) use iq4_xs::Iq4Xs;
pub(crate) use mxfp4::Mxfp4;
pub(crate) use q2_k::Q2K;
pub(crate) use q3_k::Q3K;
pub(crate) use q4_0::Q4_0;
pub(crate) use q4_1::Q4_1;
pub(crate) use q4_k::Q4K;
pub(crate) use q5_0::Q5_0;
pub(crate) use q5_1::Q5_1;
pub(crate) use q5_k::Q5K;
pub(crate) use q6_k::Q6K;
pub(crate) use q8_0::Q8_0;

use crate::simd::Simd;

/// Rows of a panel.
pub(crate) const PANEL_ROWS: usize = 16;

/// What the lanes of a format that uses the whole byte exceed its quants by.
pub(crate) const WIDE_OFFSET: i32 = 128;

/// How the blocks of a file are laid out in a panel. A unit holds one block of each of the panel's 16 rows.
pub(crate) trait Pack: 'static {
    /// Bytes of a unit.
    const UNIT_BYTES: usize;
    /// What an unsigned lane exceeds its quant by: `quant = lane - OFFSET`.
    const OFFSET: i32;
    /// Whether blocks carry minima (then `OFFSET` is 0).
    const MIN: bool;
    /// Whether lanes use the whole byte, so that a dot product of pairs overflows 16 bits.
    const WIDE: bool = Self::OFFSET == WIDE_OFFSET;
    /// Writes one block of the file as row `row` of a unit.
    fn pack(block: &[u8], row: usize, unit: &mut [u8]);
}

/// A format of 32-value blocks with one scale: `value = scale * (lane - OFFSET) + min`.
///
/// # Safety
/// `unit` points at `UNIT_BYTES` readable bytes, and the CPU has the instruction set `S`.
#[allow(clippy::missing_safety_doc)]
pub(crate) unsafe trait BlockPanel: Pack {
    /// Lanes of columns `16 half .. 16 half + 16`, four columns a vector.
    unsafe fn lanes<S: Simd>(unit: *const u8, half: usize) -> [S::Bytes; 4];
    /// Scales of the 16 rows.
    unsafe fn scale<S: Simd>(unit: *const u8) -> S::Floats;
    /// Minima of the 16 rows, added; only where `MIN`.
    #[inline(always)]
    unsafe fn min<S: Simd>(_unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::splat(0.0) }
    }
}

/// A format of 256-value blocks with integer scales per 16 or 32 values:
/// `value = (d * scale) * (lane - OFFSET) - dmin * min`.
///
/// # Safety
/// As `BlockPanel`.
#[allow(clippy::missing_safety_doc)]
pub(crate) unsafe trait SuperPanel: Pack {
    /// Values under one integer scale: 16 or 32.
    const SUB: usize;
    /// Lanes of columns `32 sub + 16 half ..` of the block, four columns a vector.
    unsafe fn lanes<S: Simd>(unit: *const u8, sub: usize, half: usize) -> [S::Bytes; 4];
    /// Integer scales, as floats, of the 16 rows for columns `SUB * index ..`.
    unsafe fn scale<S: Simd>(unit: *const u8, index: usize) -> S::Floats;
    /// Integer minima of sub-blocks `2 pair` (low half) and `2 pair + 1` (high half) of each row; only where `MIN`.
    #[inline(always)]
    unsafe fn min_pair<S: Simd>(_unit: *const u8, _pair: usize) -> S::Ints {
        // SAFETY: the trait's contract.
        unsafe { S::splat_int(0) }
    }
    /// The block scales `d` of the 16 rows.
    unsafe fn d<S: Simd>(unit: *const u8) -> S::Floats;
    /// The block minimum scales `dmin` of the 16 rows; only where `MIN`.
    #[inline(always)]
    unsafe fn dmin<S: Simd>(_unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::splat(0.0) }
    }
}
