//! The walk of one job: its queries over its blocks, with the online softmax, and the merging of segments. Cuts no work.

// Tiles are indexed as in the formulas.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::scratch::{Job, Partial, ThreadBuffers};
use super::tile::{Convert, F16, F32, I8, MAX_TILE_ROWS, Prefetch, Scores, Source, WeightedSums, max_tile_rows, with_rows};
use super::{AttentionSequence, Call, SEGMENT_BLOCKS};
use crate::exp::exp_nonpositive;
use crate::kv::{Block, KvFormat, PAGE_LEN};
use crate::simd::{Kernel, Simd};

/// Up to this many rows, keys and values are read from the page itself; more convert them to f32 once.
const MAX_DIRECT_ROWS: usize = 8;

/// # Safety
/// The contract of [`Simd`]; `super::check` has passed, the job is one of the call's, and no one else runs it.
#[inline(always)]
pub(super) unsafe fn run_job<S: Simd>(call: &Call<'_>, job: &Job) {
    // SAFETY: the caller's promise.
    unsafe {
        match call.input.pages.geometry().format {
            KvFormat::F32 => run_format::<S, F32, false>(call, job),
            KvFormat::F16 => run_format::<S, F16, false>(call, job),
            KvFormat::Q8 => run_format::<S, I8, true>(call, job),
        }
    }
}

/// What a job's rows are: row `i` is query head `i % group` of the job's key-value head, of token `i / group`.
struct Rows<'a> {
    sequence: &'a AttentionSequence<'a>,
    num_rows: usize,
    group: usize,
    head_dim: usize,
    /// Position of the first row.
    position: usize,
    window: Option<usize>,
}

impl Rows<'_> {
    /// The positions of a block that a row sees.
    #[inline(always)]
    fn seen(&self, row: usize, block: usize) -> Range<usize> {
        let end = self.position + row / self.group + 1;
        let start = self.window.map_or(0, |window| end.saturating_sub(window));
        let within = |position: usize| position.saturating_sub(block * PAGE_LEN).min(PAGE_LEN);
        within(start)..within(end)
    }

    /// How many register tiles the rows make.
    #[inline(always)]
    fn num_tiles<S: Simd, K: Source>(&self) -> usize {
        let direct = self.num_rows <= MAX_DIRECT_ROWS;
        self.num_rows.div_ceil(if direct { max_tile_rows::<S, K>() } else { max_tile_rows::<S, F32>() })
    }

    /// Rows of register tile `tile` of `num_tiles`: as even as they can be.
    #[inline(always)]
    fn tile(&self, tile: usize, num_tiles: usize) -> Range<usize> {
        tile * self.num_rows / num_tiles..(tile + 1) * self.num_rows / num_tiles
    }
}

#[inline(always)]
unsafe fn run_format<S: Simd, K: Source, const SCALED: bool>(call: &Call<'_>, job: &Job) {
    let head_dim = call.input.pages.geometry().head_dim;
    let sequence = &call.input.sequences[job.sequence_id];
    let rows = &Rows {
        sequence,
        num_rows: job.num_tokens * call.group(),
        group: call.group(),
        head_dim,
        position: sequence.position + job.first_token,
        window: call.input.params.sliding_window,
    };
    // SAFETY: the caller's promise; the buffers are this thread's, and partials are those of the job's own split.
    unsafe {
        let buffers = &mut call.scratch.buffers(call.thread_id, rows.num_rows, head_dim);
        pack_queries(call, job, rows, rows.num_tiles::<S, K>(), buffers.queries);
        if let Some(split) = &job.split {
            buffers.segment = call.scratch.partial(split, split.index, rows.num_rows, head_dim);
            clear::<S>(rows, buffers.segment);
            walk_segment::<S, K, SCALED>(call, job, rows, buffers, job.blocks.clone());
            // The last one to finish sees what the others wrote, and merges all in order.
            let counter = &call.scratch.counters[split.counter];
            if counter.fetch_add(1, Ordering::AcqRel) + 1 < split.num_segments {
                return;
            }
            clear::<S>(rows, buffers.total);
            for index in 0..split.num_segments {
                let partial = call.scratch.partial(split, index, rows.num_rows, head_dim);
                merge::<S>(rows, buffers.total, partial);
            }
        } else {
            clear::<S>(rows, buffers.total);
            let mut start = job.blocks.start;
            while start < job.blocks.end {
                let end = ((start / SEGMENT_BLOCKS + 1) * SEGMENT_BLOCKS).min(job.blocks.end);
                clear::<S>(rows, buffers.segment);
                walk_segment::<S, K, SCALED>(call, job, rows, buffers, start..end);
                merge::<S>(rows, buffers.total, buffers.segment);
                start = end;
            }
        }
        write_out::<S>(call, job, rows, buffers.total);
    }
}

/// Queries times scale, transposed within each register tile.
#[inline(always)]
unsafe fn pack_queries(call: &Call<'_>, job: &Job, rows: &Rows<'_>, num_tiles: usize, packed: *mut f32) {
    let scale = call.input.params.scale;
    for tile in 0..num_tiles {
        let tile = rows.tile(tile, num_tiles);
        for row in tile.clone() {
            let query = &call.input.queries[row_start(call, job, rows, row)..][..rows.head_dim];
            for (d, x) in query.iter().enumerate() {
                // SAFETY: the packed queries hold `num_rows * head_dim` values.
                unsafe { packed.add(tile.start * rows.head_dim + d * tile.len() + row - tile.start).write(x * scale) };
            }
        }
    }
}

/// Where a row starts in `queries` and `out`.
#[inline(always)]
fn row_start(call: &Call<'_>, job: &Job, rows: &Rows<'_>, row: usize) -> usize {
    let token = rows.sequence.first_row + job.first_token + row / rows.group;
    (token * call.input.params.num_heads + job.kv_head * rows.group + row % rows.group) * rows.head_dim
}

/// No positions yet. The maximum is finite so that its difference to a row of masked scores is not NaN.
#[inline(always)]
unsafe fn clear<S: Simd>(rows: &Rows<'_>, partial: Partial) {
    // SAFETY: the partial holds `num_rows` rows.
    unsafe {
        for row in 0..rows.num_rows {
            partial.max.add(row).write(f32::MIN);
            S::store(partial.sum.add(row * 16), S::splat(0.0));
            for i in (0..rows.head_dim).step_by(16) {
                S::store(partial.acc.add(row * rows.head_dim + i), S::splat(0.0));
            }
        }
    }
}

/// `total` of the segments before, and one more.
#[inline(always)]
unsafe fn merge<S: Simd>(rows: &Rows<'_>, total: Partial, segment: Partial) {
    // SAFETY: both hold `num_rows` rows.
    unsafe {
        for row in 0..rows.num_rows {
            let (a, b) = (*total.max.add(row), *segment.max.add(row));
            let max = if b > a { b } else { a };
            total.max.add(row).write(max);
            let old = exp_nonpositive::<S>(S::splat(a - max));
            let new = exp_nonpositive::<S>(S::splat(b - max));
            let blend = |total: *mut f32, segment: *const f32| {
                S::store(total, S::fma(S::load(segment), new, S::mul(S::load(total), old)));
            };
            blend(total.sum.add(row * 16), segment.sum.add(row * 16));
            for i in (0..rows.head_dim).step_by(16) {
                let at = row * rows.head_dim + i;
                blend(total.acc.add(at), segment.acc.add(at));
            }
        }
    }
}

#[inline(always)]
unsafe fn write_out<S: Simd>(call: &Call<'_>, job: &Job, rows: &Rows<'_>, total: Partial) {
    for row in 0..rows.num_rows {
        let start = row_start(call, job, rows, row);
        // SAFETY: rows of different jobs are different; the total holds `num_rows` rows.
        unsafe {
            let out = call.out.part(start..start + rows.head_dim);
            let inverse = S::splat(1.0 / S::sum_lanes(S::load(total.sum.add(row * 16))));
            for i in (0..rows.head_dim).step_by(16) {
                let v = S::mul(S::load(total.acc.add(row * rows.head_dim + i)), inverse);
                // Masked positions may have turned -0 into 0, depending on the tile: the sum makes it 0 always.
                S::store(out.as_mut_ptr().add(i), S::add(v, S::splat(0.0)));
            }
        }
    }
}

#[inline(always)]
unsafe fn walk_segment<S: Simd, K: Source, const SCALED: bool>(
    call: &Call<'_>,
    job: &Job,
    rows: &Rows<'_>,
    buffers: &ThreadBuffers,
    blocks: Range<usize>,
) {
    let input = call.input;
    let half_bytes = rows.head_dim * PAGE_LEN * size_of::<K::Element>();
    let direct = rows.num_rows <= MAX_DIRECT_ROWS;
    let num_tiles = rows.num_tiles::<S, K>();
    for block_id in blocks.clone() {
        let block = input.pages.block(rows.sequence.pages[block_id], input.layer, job.kv_head);
        // SAFETY: the block is valid; shapes are those of the geometry.
        unsafe {
            if !direct {
                let len = PAGE_LEN * rows.head_dim;
                S::call(Convert::<K> { from: block.keys.cast(), len, to: buffers.keys });
                S::call(Convert::<K> { from: block.values.cast(), len, to: buffers.values });
            }
            for tile_id in 0..num_tiles {
                let tile = rows.tile(tile_id, num_tiles);
                let seen = rows.seen(tile.start, block_id).start..rows.seen(tile.end - 1, block_id).end;
                if seen.is_empty() {
                    continue;
                }
                let place = &Place { rows, buffers, block, block_id, tile, seen };
                if direct {
                    // Of each block, the first tile asks for what comes next.
                    let mut prefetch = (Prefetch::none(), Prefetch::none());
                    if tile_id == 0 {
                        prefetch.0 = Prefetch::bytes(block.values, half_bytes);
                        if block_id + 1 < blocks.end {
                            let next = input.pages.block(rows.sequence.pages[block_id + 1], input.layer, job.kv_head);
                            prefetch.1 = Prefetch::bytes(next.keys, half_bytes);
                        }
                    }
                    step::<S, K, SCALED>(place, block.keys.cast(), block.values.cast(), prefetch);
                } else {
                    step::<S, F32, SCALED>(place, buffers.keys, buffers.values, (Prefetch::none(), Prefetch::none()));
                }
            }
        }
    }
}

/// One register tile at one block.
struct Place<'a> {
    rows: &'a Rows<'a>,
    buffers: &'a ThreadBuffers,
    block: Block,
    block_id: usize,
    tile: Range<usize>,
    /// Positions of the block that any row sees.
    seen: Range<usize>,
}

/// Scores, softmax, weighted sums of one register tile at one block.
#[inline(always)]
unsafe fn step<S: Simd, K: Source, const SCALED: bool>(
    place: &Place<'_>,
    keys: *const K::Element,
    values: *const K::Element,
    ask: (Prefetch, Prefetch),
) {
    let Place { rows, buffers, tile, .. } = place;
    let (first, head_dim, num_rows) = (tile.start * rows.head_dim, rows.head_dim, tile.len());
    let mut decay = [0.0; MAX_TILE_ROWS];
    // SAFETY: the tile's rows are within the buffers; keys and values are blocks.
    unsafe {
        let (queries, scores, acc) = (buffers.queries.add(first), buffers.scores, buffers.segment.acc.add(first));
        let prefetch = ask.0;
        with_rows!(num_rows, max_tile_rows::<S, K>(), |R| {
            S::call(Scores::<K, R> { queries, keys, head_dim, scores, prefetch })
        });
        S::call(Softmax::<SCALED> { place, decay: &mut decay });
        let (positions, prefetch) = (place.seen.clone(), ask.1);
        with_rows!(num_rows, max_tile_rows::<S, K>(), |R| {
            S::call(WeightedSums::<K, R> { weights: scores, values, head_dim, positions, decay, acc, prefetch })
        });
    }
}

/// Scores to weights relative to the largest so far.
struct Softmax<'a, const SCALED: bool> {
    place: &'a Place<'a>,
    /// What earlier weights are to be multiplied by.
    decay: &'a mut [f32; MAX_TILE_ROWS],
}

impl<const SCALED: bool> Kernel for Softmax<'_, SCALED> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Place { rows, buffers, block, tile, .. } = self.place;
        // SAFETY: the tile's rows are within the buffers; a row of scores is 4 vectors, as are the scales.
        unsafe {
            for r in 0..tile.len() {
                let seen = rows.seen(tile.start + r, self.place.block_id);
                let row = buffers.scores.add(r * PAGE_LEN);
                let mut v = [S::splat(0.0); 4];
                for c in 0..4 {
                    v[c] = S::load(row.add(c * 16));
                    if SCALED {
                        v[c] = S::mul(v[c], S::load(block.key_scales.add(c * 16)));
                    }
                }
                if seen.len() < PAGE_LEN {
                    let hidden = S::splat(f32::NEG_INFINITY);
                    for c in 0..4 {
                        v[c] = S::keep_first(v[c], seen.end.saturating_sub(c * 16), hidden);
                        v[c] = S::keep_first(hidden, seen.start.saturating_sub(c * 16), v[c]);
                    }
                }
                let old = buffers.segment.max.add(tile.start + r);
                let largest = S::max_lanes(S::max(S::max(v[0], v[1]), S::max(v[2], v[3])));
                let max = if largest > *old { largest } else { *old };
                let factor = exp_nonpositive::<S>(S::splat(*old - max));
                old.write(max);
                let max = S::splat(max);
                for c in 0..4 {
                    v[c] = exp_nonpositive::<S>(S::sub(v[c], max));
                }
                let sum = buffers.segment.sum.add((tile.start + r) * 16);
                S::store(sum, S::fma(S::load(sum), factor, S::add(S::add(v[0], v[1]), S::add(v[2], v[3]))));
                S::store_first(&raw mut self.decay[r], factor, 1);
                for c in 0..4 {
                    if SCALED {
                        v[c] = S::mul(v[c], S::load(block.value_scales.add(c * 16)));
                    }
                    S::store(row.add(c * 16), v[c]);
                }
            }
        }
    }
}
