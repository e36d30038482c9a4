//! The register tiles of attention: scores of R queries for 64 positions, and their weighted sums of values. Whatever the
//! shape of a tile and the form of its keys and values, an element is one chain of fused multiply-adds: scores over the
//! dimensions in order, sums over the positions in order.

// Tiles are indexed as in the formulas.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;
use std::ops::Range;

use crate::kv::PAGE_LEN;
use crate::simd::{Kernel, Simd};

/// A form that keys and values are read from.
pub(super) trait Source {
    type Element: Copy;
    /// Vectors of a row that are there at a time; 0 where it is all of them, as in pages.
    const GROUP: usize = 0;

    /// # Safety
    /// The contract of [`Simd`]; 16 elements are readable.
    unsafe fn load<S: Simd>(p: *const Self::Element) -> S::Floats;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct I8;
/// Converted from another: of each row, only as many vectors as the largest register tile reads.
pub(super) struct Converted<const GROUP: usize>;

impl Source for F32 {
    type Element = f32;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32) -> S::Floats {
        // SAFETY: the caller's promise.
        unsafe { S::load(p) }
    }
}

impl Source for F16 {
    type Element = u16;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u16) -> S::Floats {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(p) }
    }
}

impl Source for I8 {
    type Element = i8;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const i8) -> S::Floats {
        // SAFETY: the caller's promise.
        unsafe { S::load_i8(p) }
    }
}

impl<const GROUP: usize> Source for Converted<GROUP> {
    type Element = f32;
    const GROUP: usize = GROUP;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32) -> S::Floats {
        // SAFETY: the caller's promise.
        unsafe { S::load(p) }
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
pub(super) const MAX_TILE_ROWS: usize = 12;

/// Rows of the largest register tile. Without vectors, tiles only make code.
#[inline(always)]
pub(super) const fn max_tile_rows<S: Simd>() -> usize {
    match S::NUM_REGISTERS {
        0 => 1,
        32.. => MAX_TILE_ROWS,
        _ => 6,
    }
}

/// Rows of the next register tile of `num_rows`: every tile is code, so there is none of 9 to 11.
#[inline(always)]
pub(super) const fn tile_rows<S: Simd>(num_rows: usize) -> usize {
    let max = max_tile_rows::<S>();
    match if num_rows < max { num_rows } else { max } {
        9..=11 => 8,
        n => n,
    }
}

/// Vectors of a tile's row that are kept in registers, such that R rows of them fit beside what is loaded.
#[inline(always)]
const fn columns<S: Simd>(num_rows: usize) -> usize {
    match (S::NUM_REGISTERS, num_rows) {
        (0, _) => 1,
        (32.., ..=6) => 4,
        (32.., _) => 2,
        (_, 1) => 4,
        (_, 2) => 2,
        _ => 1,
    }
}

/// Runs `$call` with `$rows` as a constant, one that `tile_rows` returns.
macro_rules! with_rows {
    ($simd:ty, $num_rows:expr, |$rows:ident| $call:expr) => {
        with_rows!(@ $simd, $num_rows, $rows, $call, 2 3 4 5 6 7 8 12)
    };
    (@ $simd:ty, $num_rows:expr, $rows:ident, $call:expr, $($n:literal)*) => {
        match $num_rows {
            $($n if const { $n <= max_tile_rows::<$simd>() } => {
                const $rows: usize = $n;
                $call
            })*
            _ => {
                const $rows: usize = 1;
                $call
            }
        }
    };
}
pub(super) use with_rows;

/// Where vector `vector` of row 0 is, and from there that of the next row, in rows of `num_vectors`.
#[inline(always)]
const fn place<K: Source>(vector: usize, num_vectors: usize) -> (usize, usize) {
    match K::GROUP {
        0 => (vector * 16, num_vectors * 16),
        group => (vector % group * 16, group * 16),
    }
}

/// Calls `columns` for the vectors of `$range`: as many at a time as registers hold, then fewer.
macro_rules! in_columns {
    ($self:ident, $simd:ty, $source:ident, $rows:expr, $range:expr) => {{
        let (mut vector, end) = ($range.start, $range.end);
        while const { columns::<$simd>($rows) >= 4 && !matches!($source::GROUP, 1..4) } && vector + 4 <= end {
            $self.columns::<$simd, 4>(vector);
            vector += 4;
        }
        while const { columns::<$simd>($rows) >= 2 && $source::GROUP != 1 } && vector + 2 <= end {
            $self.columns::<$simd, 2>(vector);
            vector += 2;
        }
        while vector < end {
            $self.columns::<$simd, 1>(vector);
            vector += 1;
        }
    }};
}

/// `scores[r][p] = sum over d of queries[r][d] * keys[d][p]`. The shapes are the contract of running it.
pub(super) struct Scores<K: Source, const R: usize> {
    /// `[head_dim / 16, R, 16]`
    pub(super) queries: *const f32,
    /// `[head_dim, 64]`, or a group of it
    pub(super) keys: *const K::Element,
    pub(super) head_dim: usize,
    /// Vectors of 16 positions to score, of the block's four. The others are left as they are.
    pub(super) vectors: Range<usize>,
    /// `[R, 64]`
    pub(super) scores: *mut f32,
    pub(super) prefetch: Prefetch,
}

impl<K: Source, const R: usize> Kernel for Scores<K, R> {
    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: the caller's promise; 64 positions are 4 vectors.
        unsafe { in_columns!(self, S, K, R, self.vectors) }
    }
}

impl<K: Source, const R: usize> Scores<K, R> {
    #[inline(always)]
    unsafe fn columns<S: Simd, const C: usize>(&mut self, vector: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let (start, stride) = place::<K>(vector, PAGE_LEN / 16);
            let (keys, scores) = (self.keys.add(start), self.scores.add(vector * 16));
            // A copy, which unlike the field can stay in a register.
            let mut prefetch = self.prefetch;
            let mut acc = [[S::splat(0.0); C]; R];
            for d in 0..self.head_dim {
                prefetch.lines::<S>(const { lines::<K>(C) });
                let mut key = [S::splat(0.0); C];
                for c in 0..C {
                    key[c] = K::load::<S>(keys.add(d * stride + c * 16));
                }
                let queries = self.queries.add(d / 16 * 16 * R + d % 16);
                for r in 0..R {
                    let query = S::splat(*queries.add(r * 16));
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
    /// `[64, head_dim]`, or a group of it
    pub(super) values: *const V::Element,
    pub(super) head_dim: usize,
    /// Vectors of 16 dimensions to add up.
    pub(super) vectors: Range<usize>,
    /// Positions with any weight.
    pub(super) positions: Range<usize>,
    /// `[R]`
    pub(super) decay: *const f32,
    /// `[R, head_dim]`
    pub(super) acc: *mut f32,
    pub(super) prefetch: Prefetch,
}

impl<V: Source, const R: usize> Kernel for WeightedSums<V, R> {
    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: the caller's promise.
        unsafe { in_columns!(self, S, V, R, self.vectors) }
    }
}

impl<V: Source, const R: usize> WeightedSums<V, R> {
    #[inline(always)]
    unsafe fn columns<S: Simd, const C: usize>(&mut self, vector: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let (start, stride) = place::<V>(vector, self.head_dim / 16);
            let (dim, values, out) = (self.head_dim, self.values.add(start), self.acc.add(vector * 16));
            // A copy, which unlike the field can stay in a register.
            let mut prefetch = self.prefetch;
            let mut acc = [[S::splat(0.0); C]; R];
            for r in 0..R {
                let decay = S::splat(*self.decay.add(r));
                for c in 0..C {
                    acc[r][c] = S::mul(S::load(out.add(r * dim + c * 16)), decay);
                }
            }
            for p in self.positions.start..self.positions.end {
                prefetch.lines::<S>(const { lines::<V>(C) });
                let mut value = [S::splat(0.0); C];
                for c in 0..C {
                    value[c] = V::load::<S>(values.add(p * stride + c * 16));
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

/// A group of the vectors of `[num_rows, num_vectors, 16]` as `C` reads it: `[num_rows, GROUP, 16]`. That both are valid is the
/// contract of running it.
pub(super) struct Convert<K: Source, C: Source> {
    pub(super) from: *const K::Element,
    pub(super) num_rows: usize,
    pub(super) num_vectors: usize,
    pub(super) group: Range<usize>,
    pub(super) to: *mut f32,
    pub(super) reader: PhantomData<C>,
}

impl<K: Source, C: Source> Kernel for Convert<K, C> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { from, num_rows, num_vectors, group, to, .. } = self;
        for row in 0..num_rows {
            for (i, vector) in group.clone().enumerate() {
                let from = from.wrapping_add((row * num_vectors + vector) * 16);
                // SAFETY: the caller's promise.
                unsafe { S::store(to.add((row * C::GROUP + i) * 16), K::load::<S>(from)) };
            }
        }
    }
}
