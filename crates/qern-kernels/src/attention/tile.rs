//! The register tiles of attention: scores of R queries for 64 positions, and their weighted sums of values. Whatever the
//! shape of a tile and the form of its keys and values, an element is one chain of fused multiply-adds: scores over the
//! dimensions in order, sums over the positions in order.

// Tiles are indexed as in the formulas.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use crate::kv::PAGE_LEN;
use crate::simd::{Kernel, Simd};

/// A form that keys and values are read from.
pub(super) trait Source {
    type Element: Copy;
    /// Rows of the largest tile that reads it: every tile is code, and what is read from pages has few rows.
    const MAX_ROWS: usize;

    /// # Safety
    /// The contract of [`Simd`]; 16 elements are readable.
    unsafe fn load<S: Simd>(p: *const Self::Element) -> S::Floats;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct I8;

impl Source for F32 {
    type Element = f32;
    const MAX_ROWS: usize = MAX_TILE_ROWS;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32) -> S::Floats {
        // SAFETY: the caller's promise.
        unsafe { S::load(p) }
    }
}

impl Source for F16 {
    type Element = u16;
    const MAX_ROWS: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u16) -> S::Floats {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(p) }
    }
}

impl Source for I8 {
    type Element = i8;
    const MAX_ROWS: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const i8) -> S::Floats {
        // SAFETY: the caller's promise.
        unsafe { S::load_i8(p) }
    }
}

/// Asks for one line after the other of memory that will be read soon.
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    pub(super) next: *const u8,
    pub(super) end: *const u8,
}

impl Prefetch {
    /// Nothing to ask for.
    pub(super) fn none() -> Self {
        Self { next: std::ptr::null(), end: std::ptr::null() }
    }

    pub(super) fn bytes(start: *const u8, len: usize) -> Self {
        Self { next: start, end: start.wrapping_add(len) }
    }

    #[inline(always)]
    unsafe fn lines<S: Simd>(&mut self, num_lines: usize) {
        if self.next < self.end {
            for line in 0..num_lines {
                // SAFETY: a prefetch of any address is allowed.
                unsafe { S::prefetch(self.next.wrapping_add(64 * line)) };
            }
            self.next = self.next.wrapping_add(64 * num_lines);
        }
    }
}

/// Lines of as many bytes as a tile reads for one dimension or position: what is asked for keeps pace with what is used.
#[inline(always)]
const fn lines<K: Source>(num_vectors: usize) -> usize {
    (num_vectors * 16 * size_of::<K::Element>()).div_ceil(64)
}

/// Rows of the largest register tile of any instruction set.
pub(super) const MAX_TILE_ROWS: usize = 6;

/// Rows of the largest register tile. Without vectors, tiles only make code.
#[inline(always)]
pub(super) const fn max_tile_rows<S: Simd, K: Source>() -> usize {
    if S::NUM_REGISTERS == 0 { 1 } else { K::MAX_ROWS }
}

/// Vectors of a tile's row that are kept in registers, such that R rows of them fit beside what is loaded.
#[inline(always)]
const fn columns<S: Simd>(num_rows: usize) -> usize {
    match (S::NUM_REGISTERS, num_rows) {
        (0, _) => 1,
        (32.., _) => 4,
        (_, 1) => 4,
        (_, 2) => 2,
        _ => 1,
    }
}

/// Runs `$call` with `$rows` as a constant, at most `$limit`.
macro_rules! with_rows {
    ($num_rows:expr, $limit:expr, |$rows:ident| $call:expr) => {
        match $num_rows {
            2 if const { 2 <= $limit } => {
                const $rows: usize = 2;
                $call
            }
            3 if const { 3 <= $limit } => {
                const $rows: usize = 3;
                $call
            }
            4 if const { 4 <= $limit } => {
                const $rows: usize = 4;
                $call
            }
            5 if const { 5 <= $limit } => {
                const $rows: usize = 5;
                $call
            }
            6 if const { 6 <= $limit } => {
                const $rows: usize = 6;
                $call
            }
            _ => {
                const $rows: usize = 1;
                $call
            }
        }
    };
}
pub(super) use with_rows;

/// `scores[r][p] = sum over d of queries[d][r] * keys[d][p]`. The shapes are the contract of running it.
pub(super) struct Scores<K: Source, const R: usize> {
    /// `[head_dim, R]`
    pub(super) queries: *const f32,
    /// `[head_dim, 64]`
    pub(super) keys: *const K::Element,
    pub(super) head_dim: usize,
    /// `[R, 64]`
    pub(super) scores: *mut f32,
    pub(super) prefetch: Prefetch,
}

impl<K: Source, const R: usize> Kernel for Scores<K, R> {
    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let columns = const { columns::<S>(R) };
        for first in (0..PAGE_LEN).step_by(16 * columns) {
            // SAFETY: the caller's promise: 64 positions are 4 vectors.
            unsafe {
                match columns {
                    4 => self.columns::<S, 4>(first),
                    2 => self.columns::<S, 2>(first),
                    _ => self.columns::<S, 1>(first),
                }
            }
        }
    }
}

impl<K: Source, const R: usize> Scores<K, R> {
    #[inline(always)]
    unsafe fn columns<S: Simd, const C: usize>(&mut self, first: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let (keys, scores) = (self.keys.add(first), self.scores.add(first));
            // A copy, which unlike the field can stay in a register.
            let mut prefetch = self.prefetch;
            let mut acc = [[S::splat(0.0); C]; R];
            for d in 0..self.head_dim {
                prefetch.lines::<S>(const { lines::<K>(C) });
                let mut key = [S::splat(0.0); C];
                for c in 0..C {
                    key[c] = K::load::<S>(keys.add(d * PAGE_LEN + c * 16));
                }
                for r in 0..R {
                    let query = S::splat(*self.queries.add(d * R + r));
                    for c in 0..C {
                        acc[r][c] = S::fma(key[c], query, acc[r][c]);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    S::store(scores.add(r * PAGE_LEN + c * 16), acc[r][c]);
                }
            }
            self.prefetch = prefetch;
        }
    }
}

/// `acc[r] = acc[r] * decay[r] + sum over p of weights[r][p] * values[p]`. The shapes are the contract of running it.
pub(super) struct WeightedSums<V: Source, const R: usize> {
    /// `[R, 64]`
    pub(super) weights: *const f32,
    /// `[64, head_dim]`
    pub(super) values: *const V::Element,
    pub(super) head_dim: usize,
    /// Positions with any weight.
    pub(super) positions: Range<usize>,
    /// `[R]`
    pub(super) decay: [f32; MAX_TILE_ROWS],
    /// `[R, head_dim]`
    pub(super) acc: *mut f32,
    pub(super) prefetch: Prefetch,
}

impl<V: Source, const R: usize> Kernel for WeightedSums<V, R> {
    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let num_vectors = self.head_dim / 16;
        let mut vector = 0;
        // SAFETY: the caller's promise; vectors are counted.
        unsafe {
            while const { columns::<S>(R) >= 4 } && vector + 4 <= num_vectors {
                self.columns::<S, 4>(vector * 16);
                vector += 4;
            }
            while const { columns::<S>(R) >= 2 } && vector + 2 <= num_vectors {
                self.columns::<S, 2>(vector * 16);
                vector += 2;
            }
            while vector < num_vectors {
                self.columns::<S, 1>(vector * 16);
                vector += 1;
            }
        }
    }
}

impl<V: Source, const R: usize> WeightedSums<V, R> {
    #[inline(always)]
    unsafe fn columns<S: Simd, const C: usize>(&mut self, first: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let (dim, values, out) = (self.head_dim, self.values.add(first), self.acc.add(first));
            // A copy, which unlike the field can stay in a register.
            let mut prefetch = self.prefetch;
            let mut acc = [[S::splat(0.0); C]; R];
            for r in 0..R {
                let decay = S::splat(self.decay[r]);
                for c in 0..C {
                    acc[r][c] = S::mul(S::load(out.add(r * dim + c * 16)), decay);
                }
            }
            for p in self.positions.start..self.positions.end {
                prefetch.lines::<S>(const { lines::<V>(C) });
                let mut value = [S::splat(0.0); C];
                for c in 0..C {
                    value[c] = V::load::<S>(values.add(p * dim + c * 16));
                }
                for r in 0..R {
                    let weight = S::splat(*self.weights.add(r * PAGE_LEN + p));
                    for c in 0..C {
                        acc[r][c] = S::fma(value[c], weight, acc[r][c]);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    S::store(out.add(r * dim + c * 16), acc[r][c]);
                }
            }
            self.prefetch = prefetch;
        }
    }
}

/// `to[i] = from[i]` as f32, for `len` values, a multiple of 16. Both being valid for them is the contract of running it.
pub(super) struct Convert<K: Source> {
    pub(super) from: *const K::Element,
    pub(super) len: usize,
    pub(super) to: *mut f32,
}

impl<K: Source> Kernel for Convert<K> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for i in (0..self.len).step_by(16) {
            // SAFETY: the caller's promise.
            unsafe { S::store(self.to.add(i), K::load::<S>(self.from.add(i))) };
        }
    }
}
