//! The exponential function over vectors. Not here: what is normalized with it.

use crate::simd::Simd;

/// `e^x`, within 2 ulp: overflows to infinity, underflows through the subnormal numbers to zero, and keeps NaN.
///
/// # Safety
/// The contract of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::Floats) -> S::Floats {
    // SAFETY: the caller's promise.
    unsafe {
        // Beyond these the result is 0 or infinity; the operand order keeps NaN.
        let x = S::min(S::splat(89.0), S::max(S::splat(-104.0), x));
        let (mantissa, n) = reduce::<S>(x);
        // 2^n in two factors, since n reaches from -150 to 128. Only the last product rounds.
        let half = S::to_ints(S::mul(S::to_floats(n), S::splat(0.5)));
        S::mul(S::mul(mantissa, S::pow2(half)), S::pow2(S::sub_ints(n, half)))
    }
}

/// `e^x` for `x <= 0`, within 2 ulp, but 0 where the result would be below 2^-126.5. Keeps NaN. For softmax, whose largest term is
/// 1.
///
/// # Safety
/// The contract of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn exp_nonpositive<S: Simd>(x: S::Floats) -> S::Floats {
    // SAFETY: the caller's promise.
    unsafe {
        // At -88 the exponent is -127, for which `pow2` gives 0.
        let (mantissa, n) = reduce::<S>(S::max(S::splat(-88.0), x));
        S::mul(mantissa, S::pow2(n))
    }
}

/// `(m, n)` with `e^x = m 2^n`, `m` in [0.7, 1.42]. Range reduction and polynomial of Cephes' `expf` (S. Moshier,
/// netlib.org/cephes, single/expf.c), with fused multiply-adds.
#[inline(always)]
#[allow(clippy::excessive_precision)] // As printed there.
unsafe fn reduce<S: Simd>(x: S::Floats) -> (S::Floats, S::Ints) {
    const LN2_HI: f32 = 0.693359375;
    const LN2_LO: f32 = -2.12194440e-4;
    const POLYNOMIAL: [f32; 6] =
        [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1];
    // SAFETY: the caller's promise.
    unsafe {
        let n = S::to_ints(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(S::to_floats(n), S::splat(-LN2_HI), x);
        let r = S::fma(S::to_floats(n), S::splat(-LN2_LO), r);
        let mut p = S::splat(POLYNOMIAL[0]);
        let mut i = 1;
        while i < 6 {
            p = S::fma(p, r, S::splat(POLYNOMIAL[i]));
            i += 1;
        }
        (S::add(S::fma(p, S::mul(r, r), r), S::splat(1.0)), n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::simd::dispatch;

    #[inline(always)]
    unsafe fn map<S: Simd, const NONPOSITIVE: bool>(x: &[f32], out: &mut [f32]) {
        for i in (0..x.len()).step_by(16) {
            let n = (x.len() - i).min(16);
            // SAFETY: the slices hold n more values.
            unsafe {
                let v = S::load_first(x.as_ptr().add(i), n);
                let y = if NONPOSITIVE { exp_nonpositive::<S>(v) } else { exp::<S>(v) };
                S::store_first(out.as_mut_ptr().add(i), y, n);
            }
        }
    }

    fn exp_of(isa: Isa, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        let out = &mut y[..];
        dispatch!(isa, map [false] (x: &[f32], out: &mut [f32]));
        y
    }

    fn exp_nonpositive_of(isa: Isa, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        let out = &mut y[..];
        dispatch!(isa, map [true] (x: &[f32], out: &mut [f32]));
        y
    }

    /// Distance in units of the last place of the exact result (of the smallest subnormal below 2^-126).
    fn ulps(y: f32, exact: f64) -> f64 {
        let ulp = 2f64.powi((exact.log2().floor() as i32).max(-126) - 23);
        (f64::from(y) - exact).abs() / ulp
    }

    #[test]
    fn exp_is_within_two_ulps_and_equal_on_every_isa() {
        let x: Vec<f32> = (0..400_000).map(|i| -104.0 + 192.7 * (i as f32 / 400_000.0)).collect();
        let scalar = exp_of(Isa::Scalar, &x);
        for (&x, &y) in x.iter().zip(&scalar) {
            assert!(ulps(y, f64::from(x).exp()) <= 2.0, "exp({x}) = {y}");
        }
        for isa in Isa::available() {
            assert!(exp_of(isa, &x).iter().zip(&scalar).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa}");
        }
    }

    #[test]
    fn exp_of_extremes() {
        for isa in Isa::available() {
            let check = |x: f32, expect: f32| assert_eq!(exp_of(isa, &[x]), [expect], "exp({x}) on {isa}");
            check(0.0, 1.0);
            check(-0.0, 1.0);
            check(f32::NEG_INFINITY, 0.0);
            check(-200.0, 0.0);
            check(-103.5, f32::from_bits(1));
            check(88.8, f32::INFINITY);
            check(1e30, f32::INFINITY);
            check(f32::INFINITY, f32::INFINITY);
            assert!(exp_of(isa, &[f32::NAN])[0].is_nan());
        }
    }

    #[test]
    fn exp_nonpositive_flushes_to_zero_and_agrees_elsewhere() {
        let x: Vec<f32> = (0..100_000).map(|i| -87.0 * (i as f32 / 100_000.0)).collect();
        for isa in Isa::available() {
            assert_eq!(exp_nonpositive_of(isa, &x), exp_of(isa, &x), "{isa}");
            let flushed = [-88.0, -1e30, f32::NEG_INFINITY, f32::MIN];
            assert!(exp_nonpositive_of(isa, &flushed).iter().all(|y| y.to_bits() == 0), "{isa}");
            assert_eq!(exp_nonpositive_of(isa, &[0.0]), [1.0]);
            assert!(exp_nonpositive_of(isa, &[f32::NAN])[0].is_nan());
        }
    }
}
