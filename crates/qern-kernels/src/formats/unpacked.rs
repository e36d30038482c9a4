//! Units in their unpacked form: plain byte lanes and f32 scales, as rows are dequantized from. A unit of a 32-value format:
//! 8 vectors of lanes, scales, minima; of a 256-value format: 64 vectors of lanes, `256 / SUB` vectors of scales, d, then
//! pairs of minima and dmin. Products never go this way: tiles unpack in registers.

use super::{BlockPanel, SuperPanel};
use crate::activation::ActivationKind;
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
    if min { dmin_at(sub) + 64 } else { d_at(sub) + 64 }
}

/// Where `d` stands behind the scales.
const fn d_at(sub: usize) -> usize {
    SUPER_SCALES + 64 * (256 / sub)
}

/// Where `dmin` stands behind the pairs of minima.
const fn dmin_at(sub: usize) -> usize {
    d_at(sub) + 64 + 32 * (256 / sub)
}

/// Unpacks a unit.
///
/// # Safety
/// `unit` is one of the format, `out` has `block_unit_bytes(F::MIN)` bytes, the CPU has the instruction set `S`.
#[inline(always)]
pub(crate) unsafe fn unpack_block<S: Simd, F: BlockPanel>(unit: *const u8, out: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        store_lanes::<S>(F::lanes::<S>(unit, 0), out);
        store_lanes::<S>(F::lanes::<S>(unit, 1), out.add(256));
        S::store(out.add(BLOCK_SCALE).cast(), F::scale::<S>(unit));
        if F::MIN {
            S::store(out.add(BLOCK_MIN).cast(), F::min::<S>(unit));
        }
    }
}

/// Unpacks a unit.
///
/// # Safety
/// As `unpack_block`, with `super_unit_bytes(F::SUB, F::MIN)`.
#[inline(always)]
pub(crate) unsafe fn unpack_super<S: Simd, F: SuperPanel>(unit: *const u8, out: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        let num_subs = 256 / F::SUB;
        for sub in 0..8 {
            store_lanes::<S>(F::lanes::<S>(unit, sub, 0), out.add(512 * sub));
            store_lanes::<S>(F::lanes::<S>(unit, sub, 1), out.add(512 * sub + 256));
        }
        for i in 0..num_subs {
            S::store(out.add(SUPER_SCALES + 64 * i).cast(), F::scale::<S>(unit, i));
        }
        S::store(out.add(d_at(F::SUB)).cast(), F::d::<S>(unit));
        if F::MIN {
            for pair in 0..num_subs / 2 {
                S::store_ints(out.add(d_at(F::SUB) + 64 + 64 * pair).cast(), F::min_pair::<S>(unit, pair));
            }
            S::store(out.add(dmin_at(F::SUB)).cast(), F::dmin::<S>(unit));
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

/// Row `r` of an unpacked unit, in ggml's order of operations.
pub(crate) fn dequantize_unit(kind: ActivationKind, unit: &[u8], r: usize, out: &mut [f32]) {
    let float = |at: usize| f32::from_le_bytes(unit[at + 4 * r..at + 4 * r + 4].try_into().expect("4 bytes"));
    let lane = |k: usize| f32::from(unit[64 * (k / 4) + 4 * r + k % 4]);
    match kind {
        ActivationKind::Float => unreachable!("float formats have no unpacked form"),
        ActivationKind::Block { offset } => {
            let scale = float(BLOCK_SCALE);
            let min = if unit.len() > BLOCK_MIN { float(BLOCK_MIN) } else { 0.0 };
            for (k, out) in out.iter_mut().enumerate() {
                *out = (lane(k) - offset as f32) * scale + min;
            }
        }
        ActivationKind::Super { sub, offset, min } => {
            let d = float(d_at(sub));
            for (index, out) in out.chunks_exact_mut(sub).enumerate() {
                let scale = d * float(SUPER_SCALES + 64 * index);
                let minimum = if min {
                    let at = d_at(sub) + 64 + 64 * (index / 2) + 4 * r + 2 * (index % 2);
                    float(dmin_at(sub)) * f32::from(u16::from_le_bytes([unit[at], unit[at + 1]]))
                } else {
                    0.0
                };
                for (k, out) in out.iter_mut().enumerate() {
                    *out = scale * (lane(index * sub + k) - offset as f32) - minimum;
                }
            }
        }
    }
}
