//! Low-rank products against an exact sum, and against themselves in other company.

use super::*;
use crate::arena::Arena;
use crate::test_values::uniform;
use half::{bf16, f16};

fn pack(format: WeightFormat, rows: usize, cols: usize, values: &[f32]) -> PackedMatrix {
    let bytes: Vec<u8> = match format {
        WeightFormat::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        WeightFormat::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    PackedMatrix::pack(&Pool::new(1), &Arena::new(), format, rows, cols, &bytes).unwrap()
}

fn values(matrix: &PackedMatrix) -> Vec<f64> {
    let mut out = vec![0.0; matrix.rows() * matrix.cols()];
    matrix.dequantize_rows(&Pool::new(1), Isa::Scalar, &(0..matrix.rows()).collect::<Vec<_>>(), &mut out);
    out.into_iter().map(f64::from).collect()
}

#[derive(Clone, Copy)]
struct Case {
    format: WeightFormat,
    rank: usize,
    cols: usize,
    rows: usize,
    num_tokens: usize,
    dora: bool,
    bias: bool,
}

const PLAIN: Case = Case { format: WeightFormat::F32, rank: 16, cols: 96, rows: 64, num_tokens: 3, dora: false, bias: false };

/// The addition against a sum in f64, with equal bits on every instruction set and number of threads, for every token alone too.
fn check(case: Case) {
    let Case { format, rank, cols, rows, num_tokens, dora, bias } = case;
    let a = pack(format, rank, cols, &uniform(1, rank * cols, 1.0));
    let b = pack(format, rows, rank, &uniform(2, rows * rank, 1.0));
    let x = uniform(3, num_tokens * cols, 2.0);
    let y = uniform(4, num_tokens * rows, 1.0);
    let (gain, bias) = (uniform(5, rows, 2.0), bias.then(|| uniform(6, rows, 3.0)));
    let rescale = dora.then_some(Rescale { gain: &gain, bias: bias.as_deref() });
    let scale = 0.75;
    let add = |isa, threads, tokens: Range<usize>| {
        let mut out = y[tokens.start * rows..tokens.end * rows].to_vec();
        let source = Source::Product { a: &a, x: &x[tokens.start * cols..tokens.end * cols] };
        let product = LowRank { source, b: &b, scale, rescale, out: &mut out };
        add_low_rank(&Pool::new(threads), isa, &mut FloatBuffer::new(), vec![product]).unwrap();
        out
    };
    let found = add(Isa::Scalar, 1, 0..num_tokens);
    let (a64, b64) = (values(&a), values(&b));
    for t in 0..num_tokens {
        let h: Vec<f64> = a64.chunks(cols).map(|a| a.iter().zip(&x[t * cols..]).map(|(a, &x)| a * f64::from(x)).sum()).collect();
        for i in 0..rows {
            let terms: Vec<f64> = b64[i * rank..(i + 1) * rank].iter().zip(&h).map(|(b, h)| b * h).collect();
            let delta = 0.75 * terms.iter().sum::<f64>();
            let (y, gain) = (f64::from(y[t * rows + i]), f64::from(gain[i]));
            let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[i]));
            let exact = if dora { gain * (y - bias + delta) + bias } else { y + delta };
            // Two sums of random signs: their errors stay near the square root of their lengths, times the size of the terms.
            let size = terms.iter().map(|t| t.abs()).sum::<f64>() + (cols as f64).sqrt() + 10.0;
            let error = (f64::from(found[t * rows + i]) - exact).abs();
            assert!(error <= size * 1e-6, "token {t} output {i}: {} for {exact}", found[t * rows + i]);
        }
    }
    for isa in Isa::available() {
        for threads in [1, 2] {
            assert!(add(isa, threads, 0..num_tokens) == found, "{isa} on {threads} threads differs");
        }
        for t in 0..num_tokens {
            assert!(add(isa, 1, t..t + 1) == found[t * rows..(t + 1) * rows], "token {t} alone differs on {isa}");
        }
    }
}

#[test]
fn additions_match_the_formula_with_equal_bits_alone_and_together_on_every_isa() {
    for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16] {
        for (rank, cols, rows, num_tokens) in [
            (16, 96, 64, 3),
            (1, 1, 1, 1),
            (8, 300, 70, 5),
            (17, 129, 33, 9),
            (64, 128, 16, 4),
            (4, 1000, 2000, 35),
            (16, 64, 64, 0),
        ] {
            check(Case { format, rank, cols, rows, num_tokens, ..PLAIN });
        }
    }
}

#[test]
fn rescaling_multiplies_all_but_the_bias() {
    for rows in [64, 70, 7] {
        check(Case { rows, dora: true, ..PLAIN });
        check(Case { rows, dora: true, bias: true, ..PLAIN });
    }
}

#[test]
fn several_products_of_one_call_do_not_see_each_other() {
    let (a, b) = (pack(WeightFormat::F32, 8, 64, &uniform(1, 512, 1.0)), pack(WeightFormat::F32, 40, 8, &uniform(2, 320, 1.0)));
    let (a2, b2) =
        (pack(WeightFormat::BF16, 20, 64, &uniform(3, 1280, 1.0)), pack(WeightFormat::F16, 32, 20, &uniform(4, 640, 1.0)));
    let (x, h) = (uniform(5, 10 * 64, 1.0), uniform(6, 3 * 8, 1.0));
    let pool = Pool::new(2);
    let mut scratch = FloatBuffer::new();
    fn product<'a>(source: Source<'a>, b: &'a PackedMatrix, out: &'a mut [f32]) -> LowRank<'a> {
        LowRank { source, b, scale: 1.5, rescale: None, out }
    }
    let (mut one, mut two, mut three) = (vec![1.0; 4 * 40], vec![2.0; 6 * 32], vec![3.0; 3 * 40]);
    let x1 = &x[..4 * 64];
    let x2 = &x[4 * 64..];
    let together = vec![
        product(Source::Product { a: &a, x: x1 }, &b, &mut one),
        product(Source::Rows(&h), &b, &mut three),
        product(Source::Product { a: &a2, x: x2 }, &b2, &mut two),
    ];
    add_low_rank(&pool, Isa::active(), &mut scratch, together).unwrap();
    let mut alone = |source, b, len, value| {
        let mut out = vec![value; len];
        add_low_rank(&pool, Isa::active(), &mut scratch, vec![product(source, b, &mut out)]).unwrap();
        out
    };
    assert!(one == alone(Source::Product { a: &a, x: x1 }, &b, 160, 1.0));
    assert!(two == alone(Source::Product { a: &a2, x: x2 }, &b2, 192, 2.0));
    assert!(three == alone(Source::Rows(&h), &b, 120, 3.0));
}

#[test]
fn row_norms_are_those_of_the_sum_with_equal_bits_on_every_isa() {
    for (rows, cols, rank) in [(40, 64, 16), (5, 77, 3), (1, 1, 1)] {
        let (w_values, scale) = (uniform(1, rows * cols, 1.0), 0.5);
        let w = pack(WeightFormat::F32, rows, cols, &w_values);
        let a = pack(WeightFormat::F32, rank, cols, &uniform(2, rank * cols, 1.0));
        let b = pack(WeightFormat::F32, rows, rank, &uniform(3, rows * rank, 1.0));
        let (a64, b64) = (values(&a), values(&b));
        let found = row_norms(&Pool::new(2), Isa::Scalar, &w, &a, &b, scale);
        for i in 0..rows {
            let value = |j: usize| {
                let delta: f64 = (0..rank).map(|k| b64[i * rank + k] * a64[k * cols + j]).sum();
                f64::from(w_values[i * cols + j]) + 0.5 * delta
            };
            let exact = (0..cols).map(|j| value(j).powi(2)).sum::<f64>().sqrt();
            assert!((f64::from(found[i]) - exact).abs() <= 1e-6 * exact, "row {i}: {} for {exact}", found[i]);
        }
        for isa in Isa::available() {
            assert!(row_norms(&Pool::new(1), isa, &w, &a, &b, scale) == found, "{isa} differs");
        }
    }
}

#[test]
fn sums_are_added_whole() {
    for len in [0, 1, 16 << 10, 50_000] {
        let (x, mut out) = (uniform(1, len, 1.0), uniform(2, len, 1.0));
        let expected: Vec<f32> = x.iter().zip(&out).map(|(x, y)| y + x).collect();
        add(&Pool::new(2), &x, &mut out);
        assert!(out == expected);
    }
}
