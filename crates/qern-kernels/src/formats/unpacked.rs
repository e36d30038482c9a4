//! Panels in their unpacked form: plain byte lanes and f32 scales in a scratch buffer, made once per panel and read by
//! every tile of a large batch. They are panel formats themselves, so the tile kernels are the same.

use super::{BlockPanel, Shape, SuperPanel};
use crate::simd::Simd;

/// The unpacked form of a 32-value format: 8 vectors of lanes, scales, minima.
pub(crate) struct UnpackedBlock<const WIDE: bool, const MIN: bool>;

/// The unpacked form of a 256-value format: 64 vectors of lanes, `256 / SUB` vectors of scales, d, then pairs of minima and
/// dmin.
pub(crate) struct UnpackedSuper<const SUB: usize, const WIDE: bool, const MIN: bool>;

const BLOCK_SCALE: usize = 512;
const BLOCK_MIN: usize = BLOCK_SCALE + 64;
const SUPER_SCALES: usize = 4096;

/// Bytes of the unpacked form of 32-value units.
pub(crate) const fn block_unit_bytes(min: bool) -> usize {
    if min { BLOCK_MIN + 64 } else { BLOCK_MIN }
}

/// Bytes of the unpacked form of 256-value units.
pub(crate) const fn super_unit_bytes(sub: usize, min: bool) -> usize {
    let scales = 256 / sub * 64;
    SUPER_SCALES + scales + 64 + if min { scales / 2 + 64 } else { 0 }
}

/// Unpacks `num_units` units of a panel.
///
/// # Safety
/// `panel` holds the units, `out` has `num_units * block_unit_bytes(F::MIN)` bytes, the CPU has the instruction set `S`.
#[inline(always)]
pub(crate) unsafe fn unpack_block<S: Simd, F: BlockPanel>(panel: *const u8, num_units: usize, out: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        for u in 0..num_units {
            let unit = panel.add(u * F::UNIT_BYTES);
            let out = out.add(u * block_unit_bytes(F::MIN));
            store_lanes::<S>(F::lanes::<S>(unit, 0), out);
            store_lanes::<S>(F::lanes::<S>(unit, 1), out.add(256));
            S::store(out.add(BLOCK_SCALE).cast(), F::scale::<S>(unit));
            if F::MIN {
                S::store(out.add(BLOCK_MIN).cast(), F::min::<S>(unit));
            }
        }
    }
}

/// Unpacks `num_units` units of a panel.
///
/// # Safety
/// As `unpack_block`, with `super_unit_bytes(F::SUB, F::MIN)`.
#[inline(always)]
pub(crate) unsafe fn unpack_super<S: Simd, F: SuperPanel>(panel: *const u8, num_units: usize, out: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        let num_subs = 256 / F::SUB;
        let d = SUPER_SCALES + 64 * num_subs;
        for u in 0..num_units {
            let unit = panel.add(u * F::UNIT_BYTES);
            let out = out.add(u * super_unit_bytes(F::SUB, F::MIN));
            for sub in 0..8 {
                store_lanes::<S>(F::lanes::<S>(unit, sub, 0), out.add(512 * sub));
                store_lanes::<S>(F::lanes::<S>(unit, sub, 1), out.add(512 * sub + 256));
            }
            for i in 0..num_subs {
                S::store(out.add(SUPER_SCALES + 64 * i).cast(), F::scale::<S>(unit, i));
            }
            S::store(out.add(d).cast(), F::d::<S>(unit));
            if F::MIN {
                for pair in 0..num_subs / 2 {
                    S::store_ints(out.add(d + 64 + 64 * pair).cast(), F::min_pair::<S>(unit, pair));
                }
                S::store(out.add(d + 64 + 32 * num_subs).cast(), F::dmin::<S>(unit));
            }
        }
    }
}

#[inline(always)]
unsafe fn store_lanes<S: Simd>(lanes: [S::Bytes; 4], out: *mut u8) {
    // SAFETY: the caller vouches for 256 bytes and for the instruction set.
    unsafe {
        for (g, lane) in lanes.into_iter().enumerate() {
            S::store_bytes(out.add(64 * g), lane);
        }
    }
}

#[inline(always)]
unsafe fn load_lanes<S: Simd>(at: *const u8) -> [S::Bytes; 4] {
    // SAFETY: the caller vouches for 256 bytes and for the instruction set.
    unsafe { [S::load_bytes(at), S::load_bytes(at.add(64)), S::load_bytes(at.add(128)), S::load_bytes(at.add(192))] }
}

impl<const WIDE: bool, const MIN: bool> Shape for UnpackedBlock<WIDE, MIN> {
    const UNIT_BYTES: usize = block_unit_bytes(MIN);
    const WIDE: bool = WIDE;
    const MIN: bool = MIN;
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl<const WIDE: bool, const MIN: bool> BlockPanel for UnpackedBlock<WIDE, MIN> {
    type Unpacked = Self;
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe { load_lanes::<S>(unit.add(256 * half)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load(unit.add(BLOCK_SCALE).cast()) }
    }
    #[inline(always)]
    unsafe fn min<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load(unit.add(BLOCK_MIN).cast()) }
    }
}

impl<const SUB: usize, const WIDE: bool, const MIN: bool> Shape for UnpackedSuper<SUB, WIDE, MIN> {
    const UNIT_BYTES: usize = super_unit_bytes(SUB, MIN);
    const WIDE: bool = WIDE;
    const MIN: bool = MIN;
}

impl<const SUB: usize, const WIDE: bool, const MIN: bool> UnpackedSuper<SUB, WIDE, MIN> {
    const D: usize = SUPER_SCALES + 64 * (256 / SUB);
}

// SAFETY: reads stay within `UNIT_BYTES`.
unsafe impl<const SUB: usize, const WIDE: bool, const MIN: bool> SuperPanel for UnpackedSuper<SUB, WIDE, MIN> {
    type Unpacked = Self;
    const SUB: usize = SUB;
    #[inline(always)]
    unsafe fn lanes<S: Simd>(unit: *const u8, sub: usize, half: usize) -> [S::Bytes; 4] {
        // SAFETY: the trait's contract.
        unsafe { load_lanes::<S>(unit.add(512 * sub + 256 * half)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(unit: *const u8, index: usize) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load(unit.add(SUPER_SCALES + 64 * index).cast()) }
    }
    #[inline(always)]
    unsafe fn min_pair<S: Simd>(unit: *const u8, pair: usize) -> S::Ints {
        // SAFETY: the trait's contract.
        unsafe { S::load_ints(unit.add(Self::D + 64 + 64 * pair).cast()) }
    }
    #[inline(always)]
    unsafe fn d<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load(unit.add(Self::D).cast()) }
    }
    #[inline(always)]
    unsafe fn dmin<S: Simd>(unit: *const u8) -> S::Floats {
        // SAFETY: the trait's contract.
        unsafe { S::load(unit.add(Self::D + 64 + 32 * (256 / SUB)).cast()) }
    }
}
