//! Measures attention beside what the machine can do: `cargo run --release -p qern-kernels --example attention_bench`.
//!
//! Decode is compared with the time it takes to read as many bytes (of memory that fits no cache), prefill with the peak of
//! fused multiply-adds. All of a round is measured in turn, several rounds long; medians are printed.

use std::time::Instant;

use qern_kernels::attention::{AttentionInput, AttentionParams, AttentionScratch, AttentionSequence, attention};
use qern_kernels::isa::Isa;
use qern_kernels::kv::{KvFormat, KvGeometry, KvPages, KvRows, KvSlot, PAGE_LEN};
use qern_kernels::machine::{measure_float_peak, measure_read_bandwidth};
use qern_kernels::pool::Pool;

const ROUNDS: usize = 7;
const HEAD_DIM: usize = 128;
const NUM_HEADS: usize = 16;
const NUM_KV_HEADS: usize = 8;
const NUM_LAYERS: usize = 28;
const DEPTH: usize = 4096;
const PREFILL: usize = 512;

fn main() {
    let pool = Pool::new(0);
    println!("{}, {} threads, {NUM_HEADS}/{NUM_KV_HEADS} heads of {HEAD_DIM}", Isa::active(), pool.num_threads());
    let mut models = [KvFormat::F16, KvFormat::Q8].map(|format| Model::new(&pool, format));
    let (mut read, mut fma) = (vec![], vec![]);
    let mut times = [[const { vec![] }; 3], [const { vec![] }; 3]];
    for _ in 0..ROUNDS {
        read.push(measure_read_bandwidth(&pool).expect("memory to read"));
        fma.push(measure_float_peak(&pool));
        for (model, times) in models.iter_mut().zip(&mut times) {
            times[0].push(model.step(&pool, DEPTH - 1, 1));
            times[1].push(model.step(&pool, 0, PREFILL));
            times[2].push(model.step(&pool, DEPTH - PREFILL, PREFILL));
        }
    }
    let (read, fma) = (median(read), median(fma));
    println!("machine: reads {:.1} GB/s, {:.0} GFLOP/s", read / 1e9, fma / 1e9);
    for (model, times) in models.iter().zip(times) {
        let [decode, prefill, deep] = times.map(median);
        let format = model.pages.geometry().format;
        let bytes = (model.pages.page_bytes() * DEPTH.div_ceil(PAGE_LEN)) as f64;
        println!(
            "{format:?} decode at {DEPTH}: {:.2} ms, {:.1} GB/s, {:.0}% of reading",
            decode * 1e3,
            bytes / decode / 1e9,
            100.0 * bytes / decode / read
        );
        for (name, seconds, start) in [("prefill", prefill, 0), ("prefill of the last", deep, DEPTH - PREFILL)] {
            let seen: usize = (start..start + PREFILL).map(|position| position + 1).sum();
            let work = (4 * seen * HEAD_DIM * NUM_HEADS * NUM_LAYERS) as f64;
            println!(
                "{format:?} {name} {PREFILL}: {:.1} ms, {:.0} GFLOP/s, {:.0}% of FMA peak",
                seconds * 1e3,
                work / seconds / 1e9,
                100.0 * work / seconds / fma
            );
        }
    }
}

struct Model {
    pages: KvPages,
    table: Vec<u32>,
    scratch: AttentionScratch,
    queries: Vec<f32>, // [PREFILL, NUM_HEADS, HEAD_DIM]
    out: Vec<f32>,     // [PREFILL, NUM_HEADS, HEAD_DIM]
}

impl Model {
    fn new(pool: &Pool, format: KvFormat) -> Self {
        let geometry = KvGeometry { num_layers: NUM_LAYERS, num_kv_heads: NUM_KV_HEADS, head_dim: HEAD_DIM, format };
        let num_pages = DEPTH / PAGE_LEN;
        let mut pages = KvPages::new(geometry, num_pages).expect("pages");
        // Pages in no order, as a server's are.
        let table: Vec<u32> = (0..num_pages).map(|i| ((i * 29 + 5) % num_pages) as u32).collect();
        let slots: Vec<KvSlot> =
            (0..DEPTH).map(|p| KvSlot { page: table[p / PAGE_LEN], offset: (p % PAGE_LEN) as u32 }).collect();
        let wave = |len: usize, step: f32| (0..len).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
        let (k, v) = (wave(DEPTH * NUM_KV_HEADS * HEAD_DIM, 0.37), wave(DEPTH * NUM_KV_HEADS * HEAD_DIM, 0.73));
        for layer in 0..NUM_LAYERS {
            pages.append(pool, layer, &KvRows { slots: &slots, k: &k, v: &v });
        }
        let queries = wave(PREFILL * NUM_HEADS * HEAD_DIM, 0.11);
        let out = vec![0.0; queries.len()];
        Self { pages, table, scratch: AttentionScratch::new(), queries, out }
    }

    /// Seconds for all layers.
    fn step(&mut self, pool: &Pool, position: usize, num_tokens: usize) -> f64 {
        let len = num_tokens * NUM_HEADS * HEAD_DIM;
        let sequences = [AttentionSequence { pages: &self.table, first_row: 0, num_tokens, position }];
        let params = AttentionParams { num_heads: NUM_HEADS, scale: 0.088, sliding_window: None };
        let start = Instant::now();
        for layer in 0..NUM_LAYERS {
            let queries = &self.queries[..len];
            let input = AttentionInput { pages: &self.pages, layer, queries, sequences: &sequences, params };
            attention(pool, &mut self.scratch, &input, &mut self.out[..len]).expect("memory for scratch");
        }
        start.elapsed().as_secs_f64()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
