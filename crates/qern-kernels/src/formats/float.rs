//! F32, F16 and BF16: a panel is `[column][16 rows]` of the file's own elements.

use super::PANEL_ROWS;
use crate::simd::Simd;

/// A float format.
///
/// # Safety
/// `column` points at 16 elements, and the CPU has the instruction set `S`.
#[allow(clippy::missing_safety_doc)]
pub(crate) unsafe trait FloatPanel: 'static {
    /// Bytes of an element.
    const ELEMENT_BYTES: usize;
    /// One column of the 16 rows.
    unsafe fn column<S: Simd>(column: *const u8) -> S::Floats;
}

/// 32-bit IEEE floats.
pub(crate) struct F32;
/// 16-bit IEEE floats.
pub(crate) struct F16;
/// bfloat16.
pub(crate) struct Bf16;

// SAFETY: 16 elements are read.
unsafe impl FloatPanel for F32 {
    const ELEMENT_BYTES: usize = 4;
    #[inline(always)]
    unsafe fn column<S: Simd>(column: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load(column.cast()) }
    }
}

// SAFETY: 16 elements are read.
unsafe impl FloatPanel for F16 {
    const ELEMENT_BYTES: usize = 2;
    #[inline(always)]
    unsafe fn column<S: Simd>(column: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load_f16(column.cast()) }
    }
}

// SAFETY: 16 elements are read.
unsafe impl FloatPanel for Bf16 {
    const ELEMENT_BYTES: usize = 2;
    #[inline(always)]
    unsafe fn column<S: Simd>(column: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load_bf16(column.cast()) }
    }
}

/// Interleaves up to 16 rows of a float matrix: `rows` yields each row's bytes.
pub(crate) fn pack_panel<'a>(element_bytes: usize, rows: impl Iterator<Item = &'a [u8]>, panel: &mut [u8]) {
    for (r, row) in rows.enumerate() {
        for (column, element) in row.chunks_exact(element_bytes).enumerate() {
            panel[(column * PANEL_ROWS + r) * element_bytes..][..element_bytes].copy_from_slice(element);
        }
    }
}
