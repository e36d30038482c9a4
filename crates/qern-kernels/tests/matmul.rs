//! Packed matrices and their products on every instruction set, against ggml's values and a naive f64 product.

use qern_kernels::WeightFormat::{self, *};
use qern_kernels::activation::Activations;
use qern_kernels::arena::Arena;
use qern_kernels::dequantize::dequantize;
use qern_kernels::isa::Isa;
use qern_kernels::matmul::{Output, Product, matmul};
use qern_kernels::matrix::PackedMatrix;
use qern_kernels::pool::Pool;

/// A small generator (SplitMix64), so that cases are the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Where the half floats of a block stand.
fn half_offsets(format: WeightFormat) -> &'static [usize] {
    match format {
        Q8_0 | Q4_0 | Q5_0 | IQ4_NL | IQ4_XS => &[0],
        Q4_1 | Q5_1 | Q4_K | Q5_K => &[0, 2],
        Q2_K => &[80, 82],
        Q3_K => &[108],
        Q6_K => &[208],
        F32 | F16 | BF16 | MXFP4 => &[],
    }
}

/// Blocks with every bit random but for scales of moderate size.
fn random_blocks(format: WeightFormat, num_values: usize, random: &mut Random) -> Vec<u8> {
    match format {
        F32 => (0..num_values).flat_map(|_| random.float().to_le_bytes()).collect(),
        F16 => (0..num_values).flat_map(|_| half::f16::from_f32(random.float()).to_le_bytes()).collect(),
        BF16 => (0..num_values).flat_map(|_| half::bf16::from_f32(random.float()).to_le_bytes()).collect(),
        _ => {
            let mut bytes: Vec<u8> = (0..format.row_bytes(num_values).unwrap()).map(|_| random.next() as u8).collect();
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                for &at in half_offsets(format) {
                    block[at..at + 2].copy_from_slice(&half::f16::from_f32(random.float() * 0.05).to_le_bytes());
                }
                if format == MXFP4 {
                    block[0] = 115 + block[0] % 12;
                }
            }
            bytes
        }
    }
}

fn product(isa: Isa, pool: &Pool, weights: &PackedMatrix, x: &[f32]) -> Vec<f32> {
    let mut activations = Activations::new();
    activations.prepare(pool, isa, weights.activation_kind(), x, weights.cols()).unwrap();
    let mut out = vec![f32::NAN; x.len() / weights.cols() * weights.rows()];
    matmul(pool, isa, vec![Product { weights, activations: &activations, output: Output::Store { out: &mut out, bias: None } }]);
    out
}

/// Blocks that `quantized` values of one activation scale: 32 or 256.
fn quantized_activations(format: WeightFormat, x: &[f32]) -> Vec<f64> {
    if format.is_float() {
        return x.iter().map(|&x| f64::from(x)).collect();
    }
    x.chunks(format.block_len())
        .flat_map(|block| {
            let largest = block.iter().fold(0f32, |m, x| m.max(x.abs()));
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            block.iter().map(move |x| f64::from((x * inverse).round_ties_even()) * f64::from(largest / 127.0))
        })
        .collect()
}

#[test]
fn packed_rows_dequantize_to_the_bits_of_the_file_format() {
    let pool = Pool::new(2);
    let mut random = Random(7);
    for format in WeightFormat::ALL {
        for (rows, cols) in [(1, 256), (16, 512), (37, 768)] {
            let bytes = random_blocks(format, rows * cols, &mut random);
            let mut expected = vec![0.0; rows * cols];
            dequantize(format, &bytes, &mut expected);
            let weights = PackedMatrix::pack(&pool, &Arena::new(), format, rows, cols, &bytes).unwrap();
            for isa in Isa::available() {
                let mut row = vec![f32::NAN; cols];
                for r in 0..rows {
                    weights.dequantize_row(isa, r, &mut row);
                    assert_eq!(row, expected[r * cols..(r + 1) * cols], "{format} {rows}x{cols} row {r} on {isa}");
                }
            }
        }
    }
}

#[test]
fn products_agree_with_an_exact_product_of_the_same_numbers() {
    let pool = Pool::new(2);
    let mut random = Random(11);
    for format in WeightFormat::ALL {
        for (rows, cols, n) in [(16, 256, 1), (48, 512, 2), (33, 768, 5), (16, 2560, 13), (64, 256, 40)] {
            let bytes = random_blocks(format, rows * cols, &mut random);
            let mut w = vec![0.0; rows * cols];
            dequantize(format, &bytes, &mut w);
            let weights = PackedMatrix::pack(&pool, &Arena::new(), format, rows, cols, &bytes).unwrap();
            // Zeros, extremes and a block of nothing among ordinary values.
            let mut x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
            x[0] = 100.0;
            x[cols - 1] = -300.0;
            x[cols - 256..cols - 64].fill(0.0);
            let q = quantized_activations(format, &x);
            for isa in Isa::available() {
                let y = product(isa, &pool, &weights, &x);
                for t in 0..n {
                    for r in 0..rows {
                        let terms = || (0..cols).map(|k| f64::from(w[r * cols + k]) * q[t * cols + k]);
                        let (exact, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                        // Minima make large terms cancel: size them by the lanes' share too.
                        let size = size + q[t * cols..(t + 1) * cols].iter().map(|q| q.abs()).sum::<f64>();
                        // f32 sums of at most cols / 16 block results, each rounded a few times.
                        let bound = size * 4.0 * f64::from(f32::EPSILON) * (cols as f64 / 16.0).sqrt();
                        let error = (f64::from(y[t * rows + r]) - exact).abs();
                        assert!(error <= bound, "{format} {rows}x{cols} n={n} [{t},{r}] on {isa}: error {error}, bound {bound}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch_on_every_instruction_set_and_any_number_of_threads() {
    let mut random = Random(13);
    let pools = [Pool::new(1), Pool::new(2), Pool::new(3)];
    for format in WeightFormat::ALL {
        let (rows, cols, n) = (80, 512, 29);
        let weights =
            PackedMatrix::pack(&pools[0], &Arena::new(), format, rows, cols, &random_blocks(format, rows * cols, &mut random))
                .unwrap();
        let mut x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
        // Too small for an inverse scale.
        x[..256].fill(1e-37);
        let one_by_one: Vec<f32> = x.chunks(cols).flat_map(|x| product(Isa::Scalar, &pools[0], &weights, x)).collect();
        for isa in Isa::available() {
            for pool in &pools {
                for batch in [1, 2, 3, 4, 5, 7, 8, 11, 12, 16, n] {
                    let batched: Vec<f32> = x.chunks(batch * cols).flat_map(|x| product(isa, pool, &weights, x)).collect();
                    let threads = pool.num_threads();
                    assert!(batched == one_by_one, "{format} in batches of {batch} on {isa} with {threads} threads");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so_in_its_own_row() {
    let pool = Pool::new(1);
    let mut random = Random(19);
    for format in WeightFormat::ALL {
        let (rows, cols, n) = (16, 512, 3);
        let bytes = random_blocks(format, rows * cols, &mut random);
        let weights = PackedMatrix::pack(&pool, &Arena::new(), format, rows, cols, &bytes).unwrap();
        for isa in Isa::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
                let clean = product(isa, &pool, &weights, &x);
                // The last of a block too: a maximum that loses a NaN keeps that one.
                x[cols + if bad.is_nan() { 300 } else { 511 }] = bad;
                let y = product(isa, &pool, &weights, &x);
                assert!(y[rows..2 * rows].iter().all(|y| !y.is_finite()), "{format} on {isa}: {bad} became a number");
                assert_eq!((&y[..rows], &y[2 * rows..]), (&clean[..rows], &clean[2 * rows..]), "{format} on {isa}: {bad} spread");
            }
        }
    }
}

#[test]
fn outputs_are_biased_added_and_gated() {
    let pool = Pool::new(2);
    let isa = Isa::active();
    let mut random = Random(17);
    let (rows, cols, n) = (40, 256, 6);
    let [gate, up] = [(); 2].map(|()| {
        PackedMatrix::pack(&pool, &Arena::new(), Q4_0, rows, cols, &random_blocks(Q4_0, rows * cols, &mut random)).unwrap()
    });
    let x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
    let (y, u) = (product(isa, &pool, &gate, &x), product(isa, &pool, &up, &x));
    let bias: Vec<f32> = (0..rows).map(|_| random.float()).collect();
    let residual: Vec<f32> = (0..n * rows).map(|_| random.float()).collect();
    let mut activations = Activations::new();
    activations.prepare(&pool, isa, gate.activation_kind(), &x, cols).unwrap();
    let (mut biased, mut added, mut gated) = (vec![0.0; n * rows], residual.clone(), vec![0.0; n * rows]);
    let activations = &activations;
    matmul(
        &pool,
        isa,
        vec![
            Product { weights: &gate, activations, output: Output::Store { out: &mut biased, bias: Some(&bias) } },
            Product { weights: &gate, activations, output: Output::Add { out: &mut added } },
            Product { weights: &gate, activations, output: Output::SwiGlu { up: &up, activations, out: &mut gated } },
        ],
    );
    for i in 0..n * rows {
        assert_eq!(biased[i], y[i] + bias[i % rows]);
        assert_eq!(added[i], residual[i] + y[i]);
        let exact = f64::from(y[i]) / (1.0 + (-f64::from(y[i])).exp()) * f64::from(u[i]);
        assert!((f64::from(gated[i]) - exact).abs() <= 1e-6 * exact.abs() + 1e-30, "{} is not {exact}", gated[i]);
    }
}

#[test]
fn matrices_of_a_wrong_size_are_refused() {
    let pool = Pool::new(1);
    let check = |format, rows, cols, len: usize, message: &str| {
        let error = PackedMatrix::pack(&pool, &Arena::new(), format, rows, cols, &vec![0; len]).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    check(Q4_0, 16, 33, 0, "whole 32-value blocks");
    check(Q4_K, 16, 128, 0, "whole 256-value blocks");
    check(Q4_0, 16, 32, 17 * 18, "takes 288 bytes; given 306");
    check(F32, usize::MAX / 2, 64, 0, "fit the address space");
}
