//! Attention against softmax in f64 over the stored keys and values, and the promise that a query's bits depend on nothing
//! but itself and its positions.

use super::*;
use crate::kv::{KvFormat, KvGeometry, KvRows, KvSlot};
use crate::test_values::uniform;
use half::f16;
use std::sync::Mutex;

/// Sequences with all their keys and values stored, on pages in no order, in which someone else's values were before.
struct Stored {
    pools: [Pool; 4],                 // of 1 to 4 threads
    scratch: Mutex<AttentionScratch>, // what earlier calls left in it must not matter
    pages: KvPages,
    num_heads: usize,
    tables: Vec<Vec<u32>>,
    queries: Vec<Vec<f32>>, // [num_sequences][len, num_heads, head_dim]
    keys: Vec<Vec<f32>>,    // [num_sequences][len, num_kv_heads, head_dim]
    values: Vec<Vec<f32>>,  // [num_sequences][len, num_kv_heads, head_dim]
}

#[derive(Clone, Copy)]
struct Shape {
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    format: KvFormat,
}

const LAYER: usize = 1;

impl Stored {
    fn new(shape: Shape, lens: &[usize]) -> Self {
        let Shape { num_heads, num_kv_heads, head_dim, format } = shape;
        let pools = [1, 2, 3, 4].map(Pool::new);
        let num_pages = lens.iter().map(|len| len.div_ceil(PAGE_LEN)).sum::<usize>() + 1;
        let mut pages = KvPages::new(KvGeometry { num_layers: 2, num_kv_heads, head_dim, format }, num_pages).unwrap();
        let stale = vec![-1e30; PAGE_LEN * num_kv_heads * head_dim];
        for page in 0..num_pages as u32 {
            let slots: Vec<KvSlot> = (0..PAGE_LEN as u32).map(|offset| KvSlot { page, offset }).collect();
            pages.append(&pools[1], LAYER, &KvRows { slots: &slots, k: &stale, v: &stale });
        }
        let mut stored = Self {
            pools,
            scratch: Mutex::default(),
            pages,
            num_heads,
            tables: vec![],
            queries: vec![],
            keys: vec![],
            values: vec![],
        };
        let mut free = num_pages as u32;
        for (i, &len) in lens.iter().enumerate() {
            let table: Vec<u32> = (0..len.div_ceil(PAGE_LEN))
                .map(|_| {
                    free -= 1;
                    free
                })
                .collect();
            let slots: Vec<KvSlot> =
                (0..len).map(|p| KvSlot { page: table[p / PAGE_LEN], offset: (p % PAGE_LEN) as u32 }).collect();
            let seed = 10 * i as u64 + len as u64;
            let (k, v) =
                (uniform(seed, len * num_kv_heads * head_dim, 2.0), uniform(seed + 1, len * num_kv_heads * head_dim, 3.0));
            stored.pages.append(&stored.pools[1], LAYER, &KvRows { slots: &slots, k: &k, v: &v });
            stored.tables.push(table);
            stored.queries.push(uniform(seed + 2, len * num_heads * head_dim, 2.0));
            stored.keys.push(k);
            stored.values.push(v);
        }
        stored
    }

    fn params(&self, sliding_window: Option<usize>) -> AttentionParams {
        let scale = 1.0 / (self.pages.geometry().head_dim as f32).sqrt();
        AttentionParams { num_heads: self.num_heads, scale, sliding_window }
    }

    /// The outputs of one call for tokens `start..start + len` of each sequence named, one after the other.
    fn attend(&self, with: With, parts: &[(usize, usize, usize)]) -> Vec<Vec<f32>> {
        let row = self.num_heads * self.pages.geometry().head_dim;
        let (mut queries, mut sequences) = (vec![], vec![]);
        for &(id, start, len) in parts {
            let first_row = queries.len() / row;
            sequences.push(AttentionSequence { pages: &self.tables[id], first_row, num_tokens: len, position: start });
            queries.extend_from_slice(&self.queries[id][start * row..(start + len) * row]);
        }
        let mut out = vec![f32::NAN; queries.len()];
        let params = self.params(with.window);
        let input = AttentionInput { pages: &self.pages, layer: LAYER, queries: &queries, sequences: &sequences, params };
        let mut scratch = self.scratch.lock().unwrap();
        attention_on(with.isa, &self.pools[with.num_threads - 1], &mut scratch, &input, &mut out).unwrap();
        sequences.iter().map(|s| out[s.first_row * row..][..s.num_tokens * row].to_vec()).collect()
    }

    /// A whole sequence in chunks, each with its outputs computed alone.
    fn attend_in_chunks(&self, with: With, id: usize, chunk: usize) -> Vec<f32> {
        let len = self.keys[id].len() / (self.pages.geometry().num_kv_heads * self.pages.geometry().head_dim);
        (0..len).step_by(chunk).flat_map(|start| self.attend(with, &[(id, start, chunk.min(len - start))]).remove(0)).collect()
    }

    /// Key or value of a position and head as stored: rounded to the format.
    fn rounded(&self, x: &[f32]) -> Vec<f64> {
        match self.pages.geometry().format {
            KvFormat::F32 => x.iter().map(|&x| f64::from(x)).collect(),
            KvFormat::F16 => x.iter().map(|&x| f64::from(f16::from_f32(x).to_f32())).collect(),
            KvFormat::Q8 => {
                let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
                let (scale, inverse) = (largest / 127.0, 127.0 / largest);
                x.iter().map(|&x| f64::from((x * inverse).round_ties_even()) * f64::from(scale)).collect()
            }
        }
    }

    /// Softmax attention of one token in f64: `[num_heads, head_dim]`.
    fn exact(&self, id: usize, position: usize, window: Option<usize>) -> Vec<f64> {
        let KvGeometry { num_kv_heads, head_dim, .. } = *self.pages.geometry();
        let start = window.map_or(0, |window| (position + 1).saturating_sub(window));
        let group = self.num_heads / num_kv_heads;
        let scale = f64::from(self.params(None).scale);
        let mut out = vec![];
        for head in 0..self.num_heads {
            let query = &self.queries[id][(position * self.num_heads + head) * head_dim..][..head_dim];
            let at = |p: usize| (p * num_kv_heads + head / group) * head_dim;
            let dot = |key: &[f64]| key.iter().zip(query).map(|(k, &q)| k * f64::from(q)).sum::<f64>() * scale;
            let scores: Vec<f64> = (start..=position).map(|p| dot(&self.rounded(&self.keys[id][at(p)..][..head_dim]))).collect();
            let max = scores.iter().fold(f64::MIN, |m, &s| m.max(s));
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut row = vec![0.0; head_dim];
            for (i, weight) in weights.iter().enumerate() {
                let value = self.rounded(&self.values[id][at(start + i)..][..head_dim]);
                row.iter_mut().zip(value).for_each(|(o, v)| *o += weight / sum * v);
            }
            out.extend(row);
        }
        out
    }
}

#[derive(Clone, Copy)]
struct With {
    isa: Isa,
    num_threads: usize,
    window: Option<usize>,
}

fn with(num_threads: usize) -> With {
    With { isa: Isa::active(), num_threads, window: None }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Every token of one sequence, on every instruction set, against f64; the bits equal on all of them.
fn check(shape: Shape, len: usize, window: Option<usize>) {
    let stored = Stored::new(shape, &[len]);
    let row = shape.num_heads * shape.head_dim;
    let mut first = None;
    for isa in Isa::available() {
        let out = stored.attend(With { isa, num_threads: 2, window }, &[(0, 0, len)]).remove(0);
        for position in (0..len).step_by(13).chain([len - 1]) {
            for (&y, exact) in out[position * row..][..row].iter().zip(stored.exact(0, position, window)) {
                // Scores reach 4 sqrt(head_dim) and carry about sqrt(head_dim) half ulps; a weight's relative error is the
                // score's absolute one, and values are below 3.
                let bound = 3.0 * 4.0 * shape.head_dim as f64 * f64::from(f32::EPSILON);
                assert!((f64::from(y) - exact).abs() <= bound, "{isa}: {y} for {exact} at {position} of {len}");
            }
        }
        assert_eq!(*first.get_or_insert_with(|| bits(&out)), bits(&out), "{isa} differs");
    }
}

const FORMATS: [KvFormat; 3] = [KvFormat::F32, KvFormat::F16, KvFormat::Q8];

#[test]
fn every_shape_matches_softmax_in_f64_with_equal_bits_on_every_isa() {
    for format in FORMATS {
        for (num_heads, num_kv_heads, head_dim) in
            [(1, 1, 16), (2, 1, 32), (9, 3, 64), (4, 2, 80), (5, 1, 96), (8, 2, 128), (7, 1, 64), (2, 2, 256), (50, 1, 16)]
        {
            let shape = Shape { num_heads, num_kv_heads, head_dim, format };
            for len in [1, 2, 63, 64, 65, 200] {
                check(shape, len, None);
            }
        }
        check(Shape { num_heads: 3, num_kv_heads: 1, head_dim: 16, format }, 1100, None);
    }
}

#[test]
fn a_window_hides_what_is_before_it() {
    for format in FORMATS {
        let shape = Shape { num_heads: 6, num_kv_heads: 2, head_dim: 32, format };
        for window in [1, 2, 63, 64, 65, 100] {
            check(shape, 200, Some(window));
        }
        check(Shape { num_heads: 2, num_kv_heads: 1, head_dim: 16, format }, 1200, Some(1000));
    }
}

#[test]
fn chunks_do_not_change_bits() {
    for format in FORMATS {
        for shape in [
            Shape { num_heads: 6, num_kv_heads: 2, head_dim: 64, format },
            Shape { num_heads: 4, num_kv_heads: 2, head_dim: 80, format },
        ] {
            for window in [None, Some(90), Some(1100)] {
                let stored = Stored::new(shape, &[1300]);
                let with = With { window, ..with(2) };
                let whole = bits(&stored.attend_in_chunks(with, 0, 1300));
                for chunk in [1, 3, 7, 64, 512] {
                    assert_eq!(bits(&stored.attend_in_chunks(with, 0, chunk)), whole, "chunks of {chunk}");
                }
            }
        }
    }
}

#[test]
fn batches_and_threads_do_not_change_bits() {
    for format in FORMATS {
        let shape = Shape { num_heads: 9, num_kv_heads: 3, head_dim: 64, format };
        let stored = Stored::new(shape, &[1, 70, 2500, 300, 64]);
        // Decodes, drafts and prefill chunks together.
        let parts = [(0, 0, 1), (1, 69, 1), (2, 2400, 100), (2, 2499, 1), (3, 0, 300), (2, 2490, 5), (4, 63, 1), (3, 17, 30)];
        let alone: Vec<Vec<u32>> = parts.iter().map(|&part| bits(&stored.attend(with(1), &[part])[0])).collect();
        for num_threads in 1..=4 {
            let together = stored.attend(with(num_threads), &parts);
            for ((together, alone), part) in together.iter().zip(&alone).zip(parts) {
                assert_eq!(bits(together), *alone, "{part:?}, {num_threads} threads");
            }
        }
        let row = shape.num_heads * shape.head_dim;
        let decoded = bits(&stored.attend(with(3), &[(2, 2499, 1)])[0]);
        assert_eq!(bits(&stored.attend(with(1), &[(2, 2400, 100)])[0])[99 * row..], decoded, "decode after prefill");
    }
}

#[test]
fn eight_bits_stay_close_to_half_floats() {
    let shape = |format| Shape { num_heads: 4, num_kv_heads: 2, head_dim: 64, format };
    let [f16, q8] =
        [KvFormat::F16, KvFormat::Q8].map(|format| Stored::new(shape(format), &[500]).attend(with(1), &[(0, 0, 500)]).remove(0));
    // A value is off by at most 3 / 254. A score is off by a sum of 64 products of queries below 2 and errors below 2 / 254,
    // over sqrt(64): uniform and independent, a standard deviation of 2 / sqrt(3) * (2 / 127) / sqrt(12) = 0.0053; weights
    // follow it, times values below 3. Five deviations.
    for (a, b) in f16.iter().zip(&q8) {
        assert!((a - b).abs() <= 3.0 / 254.0 + 3.0 * 5.0 * 0.0053, "{a} {b}");
    }
}

#[test]
fn equal_scores_average_and_large_ones_select() {
    for format in FORMATS {
        let shape = Shape { num_heads: 1, num_kv_heads: 1, head_dim: 16, format };
        let mut stored = Stored::new(shape, &[130]);
        stored.queries[0].fill(0.0);
        let out = stored.attend(with(1), &[(0, 129, 1)]).remove(0);
        let exact = stored.exact(0, 129, None);
        assert!(out.iter().zip(exact).all(|(&y, e)| (f64::from(y) - e).abs() < 1e-5));
        stored.queries[0].fill(1e4);
        let out = stored.attend(with(1), &[(0, 129, 1)]).remove(0);
        let exact = stored.exact(0, 129, None);
        assert!(out.iter().zip(exact).all(|(&y, e)| (f64::from(y) - e).abs() < 1e-5));
    }
}

#[test]
fn rows_of_no_sequence_are_left_alone() {
    let stored = Stored::new(Shape { num_heads: 1, num_kv_heads: 1, head_dim: 16, format: KvFormat::F16 }, &[3]);
    let sequence = AttentionSequence { pages: &stored.tables[0], first_row: 1, num_tokens: 1, position: 2 };
    let mut out = vec![7.0; 3 * 16];
    let queries = vec![0.0; 3 * 16];
    let params = stored.params(None);
    let input = AttentionInput { pages: &stored.pages, layer: LAYER, queries: &queries, sequences: &[sequence], params };
    attention(&Pool::new(1), &mut AttentionScratch::new(), &input, &mut out).unwrap();
    assert!(out[..16].iter().chain(&out[32..]).all(|&x| x == 7.0) && out[16..32].iter().all(|&x| x != 7.0));
}

#[test]
#[should_panic(expected = "1 pages for 65")]
fn too_few_pages_are_refused() {
    let stored = Stored::new(Shape { num_heads: 1, num_kv_heads: 1, head_dim: 16, format: KvFormat::F16 }, &[3]);
    let sequence = AttentionSequence { pages: &stored.tables[0], first_row: 0, num_tokens: 1, position: 64 };
    let params = stored.params(None);
    let input = AttentionInput { pages: &stored.pages, layer: LAYER, queries: &[0.0; 16], sequences: &[sequence], params };
    attention(&Pool::new(1), &mut AttentionScratch::new(), &input, &mut [0.0; 16]).unwrap();
}
