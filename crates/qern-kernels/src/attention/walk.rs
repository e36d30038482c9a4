//! The walk of one job: its queries over its blocks, with the online softmax, and the merging of segments. Cuts no work.

// Tiles are indexed as in the formulas.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::scratch::{Job, Partial, ThreadBuffers};
use super::tile::{
    Convert, Converted, F16, F32, I8, Prefetch, Scores, Source, WeightedSums, max_tile_rows, tile_rows, with_rows,
};
use super::{AttentionSequence, Call, SEGMENT_BLOCKS};
use crate::exp::exp_nonpositive;
use crate::kv::{Block, KvFormat, PAGE_LEN};
use crate::simd::{Kernel, Simd};

/// Up to this many rows, keys and values are read from the page itself; for more, converting them to f32 first pays.
const MAX_DIRECT_ROWS: usize = 64;

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

    /// The register tiles, in order.
    #[inline(always)]
    fn tiles<S: Simd>(&self) -> impl Iterator<Item = Range<usize>> {
        let num_rows = self.num_rows;
        let mut start = 0;
        std::iter::from_fn(move || {
            let tile = start..start + tile_rows::<S>(num_rows - start);
            start = tile.end;
            (!tile.is_empty()).then_some(tile)
        })
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
        pack_queries::<S>(call, job, rows, buffers.queries);
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
        } else if job.blocks.end <= (job.blocks.start / SEGMENT_BLOCKS + 1) * SEGMENT_BLOCKS {
            // Merging one segment into nothing would not change it.
            clear::<S>(rows, buffers.segment);
            walk_segment::<S, K, SCALED>(call, job, rows, buffers, job.blocks.clone());
            return write_out::<S>(call, job, rows, buffers.segment);
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

/// Queries times scale, by register tile: `[head_dim / 16, rows of the tile, 16]`.
#[inline(always)]
unsafe fn pack_queries<S: Simd>(call: &Call<'_>, job: &Job, rows: &Rows<'_>, packed: *mut f32) {
    for tile in rows.tiles::<S>() {
        for row in tile.clone() {
            let query = &call.input.queries[row_start(call, job, rows, row)..][..rows.head_dim];
            for i in (0..rows.head_dim).step_by(16) {
                // SAFETY: 16 values of the query; the packed queries hold `num_rows * head_dim` values.
                unsafe {
                    let scaled = S::mul(S::load(query.as_ptr().add(i)), S::splat(call.input.params.scale));
                    S::store(packed.add(tile.start * rows.head_dim + i * tile.len() + (row - tile.start) * 16), scaled);
                }
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
    for block_id in blocks.clone() {
        let block = input.pages.block(rows.sequence.pages[block_id], input.layer, job.kv_head);
        let place = &mut Place { rows, buffers, block, block_id, prefetch: (Prefetch::none(), Prefetch::none()) };
        // SAFETY: the block is valid; shapes are those of the geometry.
        unsafe {
            if rows.num_rows > MAX_DIRECT_ROWS {
                // As much of each row as the largest tile reads.
                if S::NUM_REGISTERS >= 32 {
                    step::<S, K, Converted<2>, SCALED>(place);
                } else {
                    step::<S, K, Converted<1>, SCALED>(place);
                }
            } else {
                let half_bytes = rows.head_dim * PAGE_LEN * size_of::<K::Element>();
                place.prefetch.0 = Prefetch::bytes(block.values, half_bytes);
                if block_id + 1 < blocks.end {
                    let next = input.pages.block(rows.sequence.pages[block_id + 1], input.layer, job.kv_head);
                    place.prefetch.1 = Prefetch::bytes(next.keys, half_bytes);
                }
                step::<S, K, K, SCALED>(place);
            }
        }
    }
}

/// The rows of a job at one block.
struct Place<'a> {
    rows: &'a Rows<'a>,
    buffers: &'a ThreadBuffers,
    block: Block,
    block_id: usize,
    /// What the first tile asks for: while it scores, and while it sums.
    prefetch: (Prefetch, Prefetch),
}

impl Place<'_> {
    /// The register tiles that see any of the block, with what they see.
    #[inline(always)]
    fn tiles<S: Simd>(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        self.rows.tiles::<S>().filter_map(|tile| {
            let seen = self.rows.seen(tile.start, self.block_id).start..self.rows.seen(tile.end - 1, self.block_id).end;
            (!seen.is_empty()).then_some((tile, seen))
        })
    }
}

/// Scores, softmax, weighted sums of all rows at one block, whose keys and values are read as `C`.
#[inline(always)]
unsafe fn step<S: Simd, K: Source, C: Source, const SCALED: bool>(place: &Place<'_>) {
    let Place { rows, buffers, block, .. } = place;
    let head_dim = rows.head_dim;
    let ask = |tile: &Range<usize>, prefetch| if tile.start == 0 { prefetch } else { Prefetch::none() };
    // SAFETY: the tile's rows are within the buffers; keys and values are blocks.
    unsafe {
        for group in groups::<C>(PAGE_LEN / 16) {
            let keys = read::<S, K, C>(block.keys, (head_dim, PAGE_LEN / 16), group.clone(), buffers.converted);
            for (tile, seen) in place.tiles::<S>() {
                let (queries, scores) = (buffers.queries.add(tile.start * head_dim), buffers.scores.add(tile.start * PAGE_LEN));
                let vectors = group.start.max(seen.start / 16)..group.end.min(seen.end.div_ceil(16));
                let prefetch = ask(&tile, place.prefetch.0);
                with_rows!(S, tile.len(), |R| S::call(Scores::<C, R> { queries, keys, head_dim, vectors, scores, prefetch }));
            }
        }
        for (tile, _) in place.tiles::<S>() {
            S::call(Softmax::<SCALED> { place, tile });
        }
        for group in groups::<C>(head_dim / 16) {
            let values = read::<S, K, C>(block.values, (PAGE_LEN, head_dim / 16), group.clone(), buffers.converted);
            for (tile, positions) in place.tiles::<S>() {
                let (weights, acc) = (buffers.scores.add(tile.start * PAGE_LEN), buffers.segment.acc.add(tile.start * head_dim));
                let (vectors, decay) = (group.clone(), buffers.decay.add(tile.start));
                let prefetch = ask(&tile, place.prefetch.1);
                with_rows!(S, tile.len(), |R| {
                    S::call(WeightedSums::<C, R> { weights, values, head_dim, vectors, positions, decay, acc, prefetch })
                });
            }
        }
    }
}

/// A group of the vectors of `[num_rows, num_vectors, 16]`, which the page holds as `K`, as `C`: where they are, or converted.
#[inline(always)]
unsafe fn read<S: Simd, K: Source, C: Source>(
    from: *const u8,
    (num_rows, num_vectors): (usize, usize),
    group: Range<usize>,
    to: *mut f32,
) -> *const C::Element {
    if C::GROUP == 0 {
        return from.cast();
    }
    let from = from.cast();
    // SAFETY: the caller's promise: a page's keys or values, and a buffer for a group of them.
    unsafe { S::call(Convert::<K, C> { from, num_rows, num_vectors, group, to, reader: PhantomData }) };
    to.cast_const().cast()
}

/// Vectors that all tiles go through before the next ones.
#[inline(always)]
fn groups<K: Source>(num_vectors: usize) -> impl Iterator<Item = Range<usize>> {
    let len = if K::GROUP == 0 { num_vectors } else { K::GROUP };
    (0..num_vectors).step_by(len).map(move |start| start..num_vectors.min(start + len))
}

/// Scores to weights relative to the largest so far.
struct Softmax<'a, const SCALED: bool> {
    place: &'a Place<'a>,
    tile: Range<usize>,
}

impl<const SCALED: bool> Kernel for Softmax<'_, SCALED> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Place { rows, buffers, block, .. } = self.place;
        let tile = self.tile;
        // SAFETY: the tile's rows are within the buffers; a row of scores is 4 vectors, as are the scales.
        unsafe {
            let scores = buffers.scores.add(tile.start * PAGE_LEN);
            let decay = buffers.decay.add(tile.start);
            // What earlier weights are to be multiplied by is one vector. The next tile overwrites what lies beyond this one's.
            let mut lost = [0.0; 16];
            for r in 0..tile.len() {
                let seen = rows.seen(tile.start + r, self.place.block_id);
                let row = scores.add(r * PAGE_LEN);
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
                if SCALED || seen.len() < PAGE_LEN {
                    for c in 0..4 {
                        S::store(row.add(c * 16), v[c]);
                    }
                }
                let old = buffers.segment.max.add(tile.start + r);
                let largest = S::max_lanes(S::max(S::max(v[0], v[1]), S::max(v[2], v[3])));
                let max = if largest > *old { largest } else { *old };
                lost[r] = *old - max;
                old.write(max);
            }
            S::store(decay, exp_nonpositive::<S>(S::load(lost.as_ptr())));
            for r in 0..tile.len() {
                let row = scores.add(r * PAGE_LEN);
                let max = S::splat(*buffers.segment.max.add(tile.start + r));
                let mut v = [S::splat(0.0); 4];
                for c in 0..4 {
                    v[c] = exp_nonpositive::<S>(S::sub(S::load(row.add(c * 16)), max));
                }
                let sum = buffers.segment.sum.add((tile.start + r) * 16);
                let all = S::add(S::add(v[0], v[1]), S::add(v[2], v[3]));
                S::store(sum, S::fma(S::load(sum), S::splat(*decay.add(r)), all));
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
