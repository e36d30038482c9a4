//! Memory that attention works in, kept from call to call. Computes nothing.

use std::ops::Range;
use std::sync::atomic::AtomicUsize;

use crate::kv::PAGE_LEN;
use crate::memory::{AlignedBytes, OutOfMemory};

/// What attention needs besides its inputs and outputs: grown by the first calls, then reused, so that a step allocates
/// nothing.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// `[num_threads, thread_len]` f32
    threads: Buffer,
    thread_len: usize,
    /// Results of segments that wait to be merged.
    partials: Buffer,
    partials_len: usize,
    pub(super) jobs: Vec<Job>,
    /// Segments done, one counter for each split walk.
    pub(super) counters: Vec<AtomicUsize>,
}

/// The walk of some tokens' queries, those of one key-value head, over some blocks.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) sequence_id: usize,
    pub(super) kv_head: usize,
    /// Counted from the sequence's first.
    pub(super) first_token: usize,
    pub(super) num_tokens: usize,
    pub(super) blocks: Range<usize>,
    pub(super) split: Option<Split>,
}

/// The place of a job among those that share a walk.
#[derive(Clone, Debug)]
pub(super) struct Split {
    /// Where the walk's partial results start in the partials.
    pub(super) first: usize,
    /// Which of them is the job's.
    pub(super) index: usize,
    pub(super) num_segments: usize,
    /// Which counter is the walk's.
    pub(super) counter: usize,
}

/// One thread's buffers. All f32, each starting on a cache line.
#[derive(Clone, Copy)]
pub(super) struct ThreadBuffers {
    /// Queries times scale, by register tile of R rows: `[head_dim / 16, R, 16]`.
    pub(super) queries: *mut f32,
    /// As much of the keys or values of a block as is converted at a time.
    pub(super) converted: *mut f32,
    /// Scores, then probabilities: `[num_rows, 64]`.
    pub(super) scores: *mut f32,
    /// What earlier weights are to be multiplied by: `[num_rows]`, written by whole vectors.
    pub(super) decay: *mut f32,
    /// The segment being walked.
    pub(super) segment: Partial,
    /// The segments before it.
    pub(super) total: Partial,
}

/// Softmax-weighted sums over some positions, not yet divided.
#[derive(Clone, Copy)]
pub(super) struct Partial {
    /// Largest score of each row: `[num_rows]`.
    pub(super) max: *mut f32,
    /// Sum of `exp(score - max)`, in 16 lanes: `[num_rows, 16]`.
    pub(super) sum: *mut f32,
    /// Values weighted by it: `[num_rows, head_dim]`.
    pub(super) acc: *mut f32,
}

fn padded(len: usize) -> usize {
    len.next_multiple_of(16)
}

/// Up to 2 vectors of each dimension's keys, or of each position's value.
fn converted_len(head_dim: usize) -> usize {
    head_dim.max(PAGE_LEN) * 2 * 16
}

impl Partial {
    pub(super) fn len(num_rows: usize, head_dim: usize) -> usize {
        padded(num_rows) + num_rows * (16 + head_dim)
    }

    /// # Safety
    /// `at` is valid for `Self::len` values.
    pub(super) unsafe fn at(at: *mut f32, num_rows: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self { max: at, sum: at.add(padded(num_rows)), acc: at.add(padded(num_rows) + num_rows * 16) } }
    }
}

impl AttentionScratch {
    /// Empty: the first call makes it as large as it needs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the last call's jobs; makes room for `num_threads` threads with up to `num_rows` rows each.
    pub(super) fn start(&mut self, num_threads: usize, num_rows: usize, head_dim: usize) -> Result<(), OutOfMemory> {
        self.jobs.clear();
        self.counters.clear();
        self.partials_len = 0;
        self.thread_len = num_rows * (head_dim + PAGE_LEN)
            + converted_len(head_dim)
            + padded(num_rows + 16)
            + 2 * Partial::len(num_rows, head_dim);
        self.threads.reserve(num_threads * self.thread_len)
    }

    /// A walk of `num_segments` jobs: where its partials start, and its counter.
    pub(super) fn add_split(&mut self, num_segments: usize, num_rows: usize, head_dim: usize) -> (usize, usize) {
        let first = self.partials_len;
        self.partials_len += num_segments * Partial::len(num_rows, head_dim);
        self.counters.push(AtomicUsize::new(0));
        (first, self.counters.len() - 1)
    }

    /// Makes room for all walks added.
    pub(super) fn reserve_partials(&mut self) -> Result<(), OutOfMemory> {
        self.partials.reserve(self.partials_len)
    }

    /// # Safety
    /// `num_rows` is at most that of `start`, and no other buffers of this thread are in use.
    pub(super) unsafe fn buffers(&self, thread_id: usize, num_rows: usize, head_dim: usize) -> ThreadBuffers {
        // SAFETY: `start` has made room for what is laid out here.
        unsafe {
            let queries = self.threads.pointer().add(thread_id * self.thread_len);
            let converted = queries.add(num_rows * head_dim);
            let scores = converted.add(converted_len(head_dim));
            let decay = scores.add(num_rows * PAGE_LEN);
            let segment = decay.add(padded(num_rows + 16));
            let total = segment.add(Partial::len(num_rows, head_dim));
            let (segment, total) = (Partial::at(segment, num_rows), Partial::at(total, num_rows));
            ThreadBuffers { queries, converted, scores, decay, segment, total }
        }
    }

    /// The partial result of segment `index` of a split walk.
    ///
    /// # Safety
    /// The split is one of this call's, of `num_rows` rows.
    pub(super) unsafe fn partial(&self, split: &Split, index: usize, num_rows: usize, head_dim: usize) -> Partial {
        let at = split.first + index * Partial::len(num_rows, head_dim);
        // SAFETY: `add_split` has made room for it.
        unsafe { Partial::at(self.partials.pointer().add(at), num_rows) }
    }
}

/// f32 values that threads share by agreement.
#[derive(Debug)]
struct Buffer {
    bytes: Option<AlignedBytes>,
    pointer: *mut f32,
    len: usize,
}

// SAFETY: plain memory; who writes where is decided by the jobs, which do not overlap.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: None, pointer: std::ptr::NonNull::dangling().as_ptr(), len: 0 }
    }
}

impl Buffer {
    fn reserve(&mut self, len: usize) -> Result<(), OutOfMemory> {
        if len > self.len {
            // Freed first: nothing of the last call is kept. A little more than asked for, so that a growing context
            // seldom asks.
            *self = Self::default();
            let len = len + len / 2;
            let mut bytes = AlignedBytes::try_new_f32(len)?;
            (self.pointer, self.len) = (bytes.as_mut_ptr().cast(), len);
            self.bytes = Some(bytes);
        }
        Ok(())
    }

    fn pointer(&self) -> *mut f32 {
        self.pointer
    }
}
