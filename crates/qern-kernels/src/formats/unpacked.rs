//! Units in their unpacked form: plain byte lanes and f32 scales, as rows are dequantized from. A unit of a 32-value format:
//! 8 vectors of lanes, scales, minima; of a 256-value format: 64 vectors of lanes, `256 / SUB` vectors of scales, d, then
//! pairs of minima and dmin. Products never go this way: tiles unpack in registers.

use super::{BlockPanel, SuperPanel};
use crate::simd::Simd;

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
