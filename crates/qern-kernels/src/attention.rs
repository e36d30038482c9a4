//! Causal attention of a ragged batch over paged keys and values. Here: what it promises, and how the work is cut into jobs.
//! How a job walks its pages is in `attention/walk`, the register tiles in `attention/tile`. Keys are rotated and stored
//! before (`rope`, `kv`).
//!
//! The order of operations of one query is fixed by its position alone. Blocks of 64 positions are walked in order with an
//! online softmax (Milakov and Gimelshein 2018); 16 blocks at absolute positions make a segment, which starts afresh, and
//! the segments' results are merged in order. So a query's bits do not depend on the other queries of its tile, on chunks,
//! on the batch, or on the number of threads, although segments of a long decode are walked in parallel.

mod scratch;
#[cfg(test)]
mod tests;
mod tile;
mod walk;

pub use scratch::AttentionScratch;

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::disjoint::Disjoint;
use crate::isa::Isa;
use crate::kv::{KvPages, PAGE_LEN};
use crate::memory::OutOfMemory;
use crate::pool::Pool;
use crate::simd::dispatch;
use scratch::{Job, Split};
use walk::run_job;

/// What all sequences of a call share.
#[derive(Clone, Copy, Debug)]
pub struct AttentionParams {
    /// Query heads; a multiple of the key-value heads. Query head `h` reads key-value head `h / (num_heads / num_kv_heads)`.
    pub num_heads: usize,
    /// Multiplies the scores: usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How many positions a query sees, its own included. All where `None`.
    pub sliding_window: Option<usize>,
}

/// The queries of one sequence: consecutive tokens, in consecutive rows of the batch.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSequence<'a> {
    /// Pages of the sequence from position 0 on. Those wholly before the window are not read.
    pub pages: &'a [u32],
    /// Row of the first token.
    pub first_row: usize,
    /// How many tokens.
    pub num_tokens: usize,
    /// Position of the first token. Keys and values up to the last token's position are stored.
    pub position: usize,
}

/// What is attended to, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInput<'a> {
    /// Keys and values.
    pub pages: &'a KvPages,
    /// Whose keys and values.
    pub layer: usize,
    /// `[num_tokens, num_heads, head_dim]`, rotated.
    pub queries: &'a [f32],
    /// Rows of different sequences do not overlap, and are in order.
    pub sequences: &'a [AttentionSequence<'a>],
    /// What all sequences share.
    pub params: AttentionParams,
}

/// `out = softmax(scale * q k^T) v` for every query over the positions it sees. `out` is `[num_tokens, num_heads, head_dim]`;
/// rows of no sequence are left as they are.
pub fn attention(
    pool: &Pool,
    scratch: &mut AttentionScratch,
    input: &AttentionInput<'_>,
    out: &mut [f32],
) -> Result<(), OutOfMemory> {
    attention_on(Isa::active(), pool, scratch, input, out)
}

/// Positions that are walked as one, whatever the number of threads.
const SEGMENT_BLOCKS: usize = 16;
/// Query rows that share keys and values converted to f32, where that leaves the threads enough jobs.
const MAX_ROWS: usize = 192;
/// As few rows as that are a job only where there are no more.
const MIN_ROWS: usize = 48;
/// Jobs a thread, such that their ends are close together.
const MIN_JOBS: usize = 8;
/// Up to this many rows, the segments of a walk are jobs of their own.
const MAX_SPLIT_ROWS: usize = 16;

fn attention_on(
    isa: Isa,
    pool: &Pool,
    scratch: &mut AttentionScratch,
    input: &AttentionInput<'_>,
    out: &mut [f32],
) -> Result<(), OutOfMemory> {
    check(input, out);
    plan(scratch, pool.num_threads(), input)?;
    let next = AtomicUsize::new(0);
    let out = Disjoint::new(out);
    let shared = &*scratch;
    pool.run(&|thread_id| {
        let call = &Call { input, out: &out, scratch: shared, thread_id };
        while let Some(job) = shared.jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            dispatch!(isa, run_job [] (call: &Call<'_>, job: &Job));
        }
    });
    Ok(())
}

/// One thread's view of a call.
struct Call<'a> {
    input: &'a AttentionInput<'a>,
    /// `[num_tokens, num_heads, head_dim]`
    out: &'a Disjoint<'a, f32>,
    scratch: &'a AttentionScratch,
    thread_id: usize,
}

impl Call<'_> {
    /// Query heads of a key-value head.
    fn group(&self) -> usize {
        self.input.params.num_heads / self.input.pages.geometry().num_kv_heads
    }
}

/// Everything that the kernels rely on.
fn check(input: &AttentionInput<'_>, out: &[f32]) {
    let AttentionInput { pages, layer, queries, sequences, params } = *input;
    let geometry = pages.geometry();
    let row = params.num_heads * geometry.head_dim;
    assert!(row > 0 && params.num_heads % geometry.num_kv_heads == 0, "{} query heads", params.num_heads);
    assert!(layer < geometry.num_layers, "layer {layer} of {}", geometry.num_layers);
    assert!(params.sliding_window != Some(0), "a window must hold at least the query's own position");
    assert_eq!(queries.len(), out.len(), "`queries` and `out` must have one shape");
    assert_eq!(queries.len() % row, 0, "`queries` must be rows of {row}");
    let mut end_row = 0;
    for sequence in sequences {
        assert!(sequence.first_row >= end_row, "rows of sequences must not overlap and be in order");
        end_row = sequence.first_row + sequence.num_tokens;
        assert!(end_row <= queries.len() / row, "rows to {end_row} of {}", queries.len() / row);
        let num_positions = sequence.position + sequence.num_tokens;
        assert!(sequence.pages.len() * PAGE_LEN >= num_positions, "{} pages for {num_positions}", sequence.pages.len());
    }
}

/// The blocks that tokens of a sequence see: those of the first one's window to the last one's own.
fn blocks(sequence: &AttentionSequence<'_>, first: usize, len: usize, window: Option<usize>) -> std::ops::Range<usize> {
    let start = window.map_or(0, |window| (sequence.position + first + 1).saturating_sub(window));
    start / PAGE_LEN..(sequence.position + first + len - 1) / PAGE_LEN + 1
}

/// Cuts the call into jobs, the long ones first.
fn plan(scratch: &mut AttentionScratch, num_threads: usize, input: &AttentionInput<'_>) -> Result<(), OutOfMemory> {
    let geometry = input.pages.geometry();
    let group = input.params.num_heads / geometry.num_kv_heads;
    let num_rows = input.sequences.iter().map(|sequence| sequence.num_tokens).sum::<usize>() * input.params.num_heads;
    let max_rows = (num_rows / (MIN_JOBS * num_threads)).clamp(MIN_ROWS, MAX_ROWS);
    let max_tokens = (max_rows / group).max(1);
    scratch.start(num_threads, (max_tokens * group).min(longest(input) * group), geometry.head_dim)?;
    for (sequence_id, sequence) in input.sequences.iter().enumerate() {
        for tile in (0..sequence.num_tokens.div_ceil(max_tokens)).rev() {
            let first_token = tile * max_tokens;
            let num_tokens = (sequence.num_tokens - first_token).min(max_tokens);
            let blocks = blocks(sequence, first_token, num_tokens, input.params.sliding_window);
            let segments = blocks.start / SEGMENT_BLOCKS..blocks.end.div_ceil(SEGMENT_BLOCKS);
            for kv_head in 0..geometry.num_kv_heads {
                let job = |blocks, split| Job { sequence_id, kv_head, first_token, num_tokens, blocks, split };
                if num_tokens * group > MAX_SPLIT_ROWS || segments.len() == 1 {
                    scratch.jobs.push(job(blocks.clone(), None));
                    continue;
                }
                let (first, counter) = scratch.add_split(segments.len(), num_tokens * group, geometry.head_dim);
                for (index, segment) in segments.clone().enumerate() {
                    let start = (segment * SEGMENT_BLOCKS).max(blocks.start);
                    let end = ((segment + 1) * SEGMENT_BLOCKS).min(blocks.end);
                    let split = Split { first, index, num_segments: segments.len(), counter };
                    scratch.jobs.push(job(start..end, Some(split)));
                }
            }
        }
    }
    scratch.reserve_partials()
}

fn longest(input: &AttentionInput<'_>) -> usize {
    input.sequences.iter().map(|sequence| sequence.num_tokens).max().unwrap_or(0)
}
