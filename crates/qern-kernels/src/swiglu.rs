//! The gated activation of the feed-forward block: SwiGLU (Shazeer 2020, "GLU variants improve transformer").

use crate::disjoint::Disjoint;
use crate::exp::exp;
use crate::isa::Isa;
use crate::pool::Pool;
use crate::simd::{Simd, dispatch};

/// `out = silu(gate) * up` element by element, with `silu(x) = x / (1 + exp(-x))`. All three have one length.
pub fn swiglu(pool: &Pool, gate: &[f32], up: &[f32], out: &mut [f32]) {
    swiglu_on(Isa::active(), pool, gate, up, out);
}

fn swiglu_on(isa: Isa, pool: &Pool, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert_eq!(gate.len(), up.len(), "`gate` and `up` must have one length");
    assert_eq!(gate.len(), out.len(), "`gate` and `out` must have one length");
    let out = Disjoint::new(out);
    pool.for_chunks(gate.len(), 8192, &|range| {
        // SAFETY: chunks do not overlap.
        let out = unsafe { out.part(range.clone()) };
        let (gate, up, n) = (gate[range.clone()].as_ptr(), up[range].as_ptr(), out.len());
        let out = out.as_mut_ptr();
        dispatch!(isa, swiglu_row [] (gate: *const f32, up: *const f32, n: usize, out: *mut f32));
    });
}

/// `n` elements; `out` may be `gate` or `up`.
///
/// # Safety
/// The contract of [`Simd`]; `gate`, `up` and `out` are valid for `n` values.
#[inline(always)]
pub(crate) unsafe fn swiglu_row<S: Simd>(gate: *const f32, up: *const f32, n: usize, out: *mut f32) {
    // SAFETY: every access is below `n`, or bounded by `load_first` and `store_first`.
    unsafe {
        let mut i = 0;
        while i + 16 <= n {
            S::store(out.add(i), S::mul(silu::<S>(S::load(gate.add(i))), S::load(up.add(i))));
            i += 16;
        }
        if i < n {
            let v = S::mul(silu::<S>(S::load_first(gate.add(i), n - i)), S::load_first(up.add(i), n - i));
            S::store_first(out.add(i), v, n - i);
        }
    }
}

/// `x / (1 + exp(-x))`.
///
/// # Safety
/// The contract of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn silu<S: Simd>(x: S::Floats) -> S::Floats {
    // SAFETY: the caller's promise.
    unsafe { S::div(x, S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), x)))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_values::uniform;

    fn check(gate: &[f32], up: &[f32]) {
        let mut bits = None;
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; gate.len()];
            swiglu_on(isa, &Pool::new(2), gate, up, &mut out);
            for ((&g, &u), &y) in gate.iter().zip(up).zip(&out) {
                let (g, u) = (f64::from(g), f64::from(u));
                let exact = g / (1.0 + (-g).exp()) * u;
                // 2 ulp of exp, half an ulp each of sum, quotient and product; the rest covers results below the normals,
                // where exp(-g) has overflowed.
                let bound = exact.abs() * 4.0 * f64::from(f32::EPSILON) + 1e-36 * u.abs().max(1.0);
                assert!((f64::from(y) - exact).abs() <= bound, "{isa}: {y} for {exact} (gate {g}, up {u})");
            }
            let these: Vec<u32> = out.iter().map(|y| y.to_bits()).collect();
            assert_eq!(*bits.get_or_insert(these.clone()), these, "{isa} differs");
        }
    }

    #[test]
    fn every_length_matches_the_formula_with_equal_bits_on_every_isa() {
        for n in [0, 1, 15, 16, 17, 1000, 8191, 8192, 20_000] {
            check(&uniform(n as u64, n, 12.0), &uniform(n as u64 + 1, n, 3.0));
        }
    }

    #[test]
    fn zeros_and_extremes() {
        let gate = [0.0, -0.0, 1e-30, -1e-30, 88.0, -88.0, 89.0, -89.0, 1e4, -1e4, 1e30, -1e30];
        check(&gate, &[1.0; 12]);
        check(&gate, &[-2.5; 12]);
        check(&gate, &[0.0; 12]);
    }
}
