//! RMSNorm (Zhang and Sennrich 2019): rows scaled to a root mean square of one, then by a weight. The normalization of
//! heads before rotation is fused into `rope`, and that of activations before quantization into the matmul's packing; both
//! use the row function here.

use crate::disjoint::Disjoint;
use crate::isa::Isa;
use crate::pool::Pool;
use crate::simd::{Simd, dispatch};

/// `out = x / sqrt(mean(x^2) + eps) * weight`, row by row. `x` and `out` are `[num_rows, n]`, `weight` is `[n]`. A row's
/// result does not depend on the others.
pub fn rms_norm(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    rms_norm_on(Isa::active(), pool, x, weight, eps, out);
}

fn rms_norm_on(isa: Isa, pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    assert!(n > 0, "`weight` must not be empty");
    assert_eq!(x.len(), out.len(), "`x` and `out` must have one length");
    assert_eq!(x.len() % n, 0, "`x` must hold whole rows of {n}");
    // About 16 kB a chunk: a handful of rows is not worth waking another thread.
    let chunk = (4096 / n).max(1);
    let out = Disjoint::new(out);
    pool.for_chunks(x.len() / n, chunk, &|rows| {
        // SAFETY: chunks do not overlap.
        let out = unsafe { out.part(rows.start * n..rows.end * n) };
        let x = &x[rows.start * n..rows.end * n];
        dispatch!(isa, rows_body [] (x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]));
    });
}

#[inline(always)]
unsafe fn rows_body<S: Simd>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    for row in 0..x.len() / n {
        // SAFETY: the row lies within both slices, which have one length.
        unsafe { rms_norm_row::<S>(x.as_ptr().add(row * n), weight.as_ptr(), n, eps, out.as_mut_ptr().add(row * n)) };
    }
}

/// One row of `n` values; `out` may be `x`. The squares are summed in 64 lanes (value `i` in lane `i % 64`, the last
/// incomplete 64 in lanes `i % 16`), and these as a tree.
///
/// # Safety
/// The contract of [`Simd`]; `x`, `weight` and `out` are valid for `n` values.
#[inline(always)]
pub(crate) unsafe fn rms_norm_row<S: Simd>(x: *const f32, weight: *const f32, n: usize, eps: f32, out: *mut f32) {
    // SAFETY: every access is below `n`, or bounded by `load_first` and `store_first`.
    unsafe {
        let mut sums = [S::splat(0.0); 4];
        let mut i = 0;
        while i + 64 <= n {
            let mut lane = 0;
            while lane < 4 {
                let v = S::load(x.add(i + 16 * lane));
                sums[lane] = S::fma(v, v, sums[lane]);
                lane += 1;
            }
            i += 64;
        }
        while i + 16 <= n {
            let v = S::load(x.add(i));
            sums[0] = S::fma(v, v, sums[0]);
            i += 16;
        }
        if i < n {
            let v = S::load_first(x.add(i), n - i);
            sums[0] = S::fma(v, v, sums[0]);
        }
        let sum = S::sum_lanes(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
        // An infinite sum must not make a row of zeros.
        let sum = if sum.is_finite() { sum } else { f32::NAN };
        let scale = S::splat(1.0 / (sum / n as f32 + eps).sqrt());
        let mut i = 0;
        while i + 16 <= n {
            S::store(out.add(i), S::mul(S::mul(S::load(x.add(i)), scale), S::load(weight.add(i))));
            i += 16;
        }
        if i < n {
            let v = S::mul(S::mul(S::load_first(x.add(i), n - i), scale), S::load_first(weight.add(i), n - i));
            S::store_first(out.add(i), v, n - i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_values::uniform;

    fn exact(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
        let row = |x: &[f32]| {
            let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (mean + f64::from(eps)).sqrt();
            x.iter().zip(weight).map(|(&x, &w)| f64::from(x) * scale * f64::from(w)).collect::<Vec<_>>()
        };
        x.chunks(weight.len()).flat_map(row).collect()
    }

    fn check(x: &[f32], weight: &[f32], eps: f32) {
        let exact = exact(x, weight, eps);
        let mut bits = None;
        for isa in Isa::available() {
            for num_threads in [1, 3] {
                let mut out = vec![f32::NAN; x.len()];
                rms_norm_on(isa, &Pool::new(num_threads), x, weight, eps, &mut out);
                for (&y, &exact) in out.iter().zip(&exact) {
                    // Half an ulp for each of: division by n, eps, root, reciprocal, two products; and the sum of squares,
                    // whose error grows with the additions per lane (n / 64) but enters by its root.
                    let bound = exact.abs() * (8.0 + weight.len() as f64 / 128.0) * f64::from(f32::EPSILON);
                    assert!((f64::from(y) - exact).abs() <= bound + 1e-38, "{isa}: {y} for {exact}, n = {}", weight.len());
                }
                let these: Vec<u32> = out.iter().map(|y| y.to_bits()).collect();
                assert_eq!(*bits.get_or_insert(these.clone()), these, "{isa} differs");
            }
        }
    }

    #[test]
    fn rows_of_every_size_match_the_formula_with_equal_bits_on_every_isa() {
        for n in [1, 2, 15, 16, 17, 63, 64, 65, 80, 127, 128, 129, 576, 1000, 2560] {
            for num_rows in [1, 3, 70] {
                check(&uniform(n as u64, num_rows * n, 3.0), &uniform(7, n, 2.0), 1e-6);
            }
        }
    }

    #[test]
    fn zeros_and_extremes() {
        check(&[0.0; 48], &[1.0; 48], 1e-5);
        check(&[1e-20; 48], &[1.0; 48], 1e-5);
        check(&[1e17; 48], &[1.0; 48], 1e-5);
        check(&[], &[1.0; 48], 1e-5);
    }

    #[test]
    fn a_row_whose_squares_overflow_is_no_row_of_zeros() {
        for isa in Isa::available() {
            let mut x = vec![1.0f32; 70];
            x[3] = 2e19;
            let mut out = vec![0.0; 70];
            rms_norm_on(isa, &Pool::new(1), &x, &[1.0; 70], 1e-6, &mut out);
            assert!(out.iter().all(|y| y.is_nan()), "{isa}: {out:?}");
        }
    }
}
