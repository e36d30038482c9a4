//! Times one matrix product per format: `matmul_bench [FORMAT] [TOKENS] [THREADS] [ROWS] [COLS]`.
//! Prints GB/s of weights and G operations/s, medians over half a second.

use qern_kernels::WeightFormat;
use qern_kernels::activation::Activations;
use qern_kernels::arena::Arena;
use qern_kernels::isa::Isa;
use qern_kernels::matmul::{Output, Product, matmul};
use qern_kernels::matrix::PackedMatrix;
use qern_kernels::memory::AlignedBytes;
use qern_kernels::pool::Pool;
use std::time::{Duration, Instant};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize, default: &str| args.get(i).cloned().unwrap_or_else(|| default.into());
    let formats = arg(0, "Q4_0,Q8_0,Q4_K,Q6_K,Q4_1,F16");
    let tokens: Vec<usize> = arg(1, "1,4,8,16,512").split(',').map(|t| t.parse().unwrap()).collect();
    let pool = Pool::new(arg(2, "2").parse().unwrap());
    let (rows, cols): (usize, usize) = (arg(3, "9728").parse().unwrap(), arg(4, "2560").parse().unwrap());
    let (isa, arena) = (Isa::active(), Arena::new());
    for name in formats.split(',') {
        let format = WeightFormat::ALL.into_iter().find(|f| f.name() == name).expect("a format name");
        let bytes = format.row_bytes(cols).unwrap() * rows;
        // Several copies, so that decode streams from memory as a model's layers do.
        let copies = std::env::var("COPIES").map_or((600_000_000 / bytes).clamp(1, 24), |c| c.parse().unwrap());
        let data: Vec<u8> = (0..bytes).map(|i| (i.wrapping_mul(2654435761) >> 13) as u8 & 0x3b).collect();
        let weights: Vec<_> =
            (0..copies).map(|_| PackedMatrix::pack(&pool, &arena, format, rows, cols, &data).unwrap()).collect();
        print!("{name:>7}");
        for &n in &tokens {
            let x: Vec<f32> = (0..n * cols).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
            let mut out = AlignedBytes::try_new_f32(n * rows).unwrap();
            let mut activations = Activations::new();
            activations.prepare(&pool, isa, weights[0].activation_kind(), &x, cols).unwrap();
            let mut times = vec![];
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(500) || times.len() < 3 {
                let t = Instant::now();
                let w = &weights[times.len() % copies];
                matmul(
                    &pool,
                    isa,
                    vec![Product {
                        weights: w,
                        activations: &activations,
                        output: Output::Store { out: out.as_f32_mut(), bias: None },
                    }],
                );
                times.push(t.elapsed().as_secs_f64());
            }
            times.sort_by(f64::total_cmp);
            let t = times[times.len() / 2];
            print!(
                "  n={n}: {:.1} GB/s {:.0} Gop/s",
                weights[0].bytes() as f64 / t / 1e9,
                2.0 * (n * rows * cols) as f64 / t / 1e9
            );
        }
        println!();
    }
}
