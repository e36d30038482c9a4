//! Activations as the tiles read them: quantized to signed bytes in blocks, interleaved by tile into one contiguous stream.
//! A row is quantized the same way whatever rows share its tile.

use crate::disjoint::Disjoint;
use crate::formats::WIDE_OFFSET;
use crate::isa::Isa;
use crate::memory::{AlignedBytes, OutOfMemory};
use crate::pool::Pool;
use crate::simd::{Simd, dispatch};
use crate::tables::{max_tile, wide_is_signed};
use crate::tile::{BLOCK_STREAM_BYTES, super_stream_bytes};
use std::ops::Range;

/// What a weight format multiplies with. Matrices of one kind can share activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationKind {
    /// Floats as they are.
    Float,
    /// Signed bytes with one scale per 32.
    Block {
        /// What the weights' unsigned lanes exceed their quants by.
        offset: i32,
    },
    /// Signed bytes with one scale per 256.
    Super {
        /// Columns under one integer weight scale, 16 or 32.
        sub: usize,
        /// What the weights' unsigned lanes exceed their quants by.
        offset: i32,
        /// Whether the weights have minima (then `offset` is 0).
        min: bool,
    },
}

impl ActivationKind {
    /// Columns in a block.
    pub(crate) fn unit_len(self) -> usize {
        match self {
            Self::Float => 1,
            Self::Block { .. } => 32,
            Self::Super { .. } => 256,
        }
    }

    /// Bytes of a block in a tile's stream, per token.
    fn unit_stream_bytes(self) -> usize {
        match self {
            Self::Float => 4,
            Self::Block { .. } => BLOCK_STREAM_BYTES,
            Self::Super { sub, min, .. } => super_stream_bytes(sub, min),
        }
    }
}

/// Activations of `num_tokens` rows of `num_columns`, laid out for the tiles of one kind. Reused from step to step.
#[derive(Debug)]
pub struct Activations {
    kind: ActivationKind,
    isa: Isa,
    num_tokens: usize,
    num_columns: usize,
    num_tiles: usize,
    data: AlignedBytes,
}

impl Activations {
    /// An empty buffer.
    pub fn new() -> Self {
        let data = AlignedBytes::try_new(0).expect("no memory is needed for no bytes");
        Self { kind: ActivationKind::Float, isa: Isa::Scalar, num_tokens: 0, num_columns: 0, num_tiles: 0, data }
    }

    /// Quantizes and lays out `rows`, `[num_tokens, num_columns]`. Panics when the sizes do not fit the kind.
    pub fn prepare(
        &mut self,
        pool: &Pool,
        isa: Isa,
        kind: ActivationKind,
        rows: &[f32], // [num_tokens, num_columns]
        num_columns: usize,
    ) -> Result<(), OutOfMemory> {
        isa.assert_available();
        assert!(
            num_columns > 0 && num_columns.is_multiple_of(kind.unit_len()) && rows.len().is_multiple_of(num_columns),
            "activations of {num_columns} columns must be whole blocks of {} and whole rows; given {} values",
            kind.unit_len(),
            rows.len()
        );
        let num_tokens = rows.len() / num_columns;
        let row_bytes = num_columns / kind.unit_len() * kind.unit_stream_bytes();
        if self.data.len() < num_tokens * row_bytes {
            self.data = AlignedBytes::try_new((num_tokens * row_bytes).next_power_of_two())?;
        }
        let max_tile = max_tile(isa);
        (self.kind, self.isa, self.num_tokens, self.num_columns) = (kind, isa, num_tokens, num_columns);
        self.num_tiles = num_tokens.div_ceil(max_tile);
        let shape = (self.num_tokens, self.num_tiles);
        let data = Disjoint::new(&mut self.data);
        pool.for_chunks(self.num_tiles, 1, &|tiles| {
            for tile in tiles {
                let tokens = tile_tokens(shape, tile);
                // SAFETY: tiles are disjoint.
                let stream = unsafe { data.part(tokens.start * row_bytes..tokens.end * row_bytes) };
                let rows = &rows[tokens.start * num_columns..tokens.end * num_columns];
                pack_tile(isa, kind, rows, num_columns, stream);
            }
        });
        Ok(())
    }

    /// The kind these were last prepared for.
    pub fn kind(&self) -> ActivationKind {
        self.kind
    }

    /// The instruction set whose tiles read these.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Rows.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// Values in a row.
    pub fn num_columns(&self) -> usize {
        self.num_columns
    }

    pub(crate) fn num_tiles(&self) -> usize {
        self.num_tiles
    }

    /// The rows of a tile and its stream.
    pub(crate) fn tile(&self, tile: usize) -> (Range<usize>, &[u8]) {
        let row_bytes = self.num_columns / self.kind.unit_len() * self.kind.unit_stream_bytes();
        let tokens = tile_tokens((self.num_tokens, self.num_tiles), tile);
        (tokens.clone(), &self.data[tokens.start * row_bytes..tokens.end * row_bytes])
    }
}

impl Default for Activations {
    fn default() -> Self {
        Self::new()
    }
}

/// Tiles differ by at most one row.
fn tile_tokens((num_tokens, num_tiles): (usize, usize), tile: usize) -> Range<usize> {
    num_tokens * tile / num_tiles..num_tokens * (tile + 1) / num_tiles
}

fn pack_tile(isa: Isa, kind: ActivationKind, rows: &[f32], num_columns: usize, stream: &mut [u8]) {
    assert_eq!(stream.len(), rows.len() / kind.unit_len() * kind.unit_stream_bytes());
    match kind {
        ActivationKind::Float => {
            let num_tokens = rows.len() / num_columns;
            for (t, row) in rows.chunks_exact(num_columns).enumerate() {
                for (column, x) in row.iter().enumerate() {
                    stream[4 * (column * num_tokens + t)..][..4].copy_from_slice(&x.to_le_bytes());
                }
            }
        }
        ActivationKind::Block { offset } => {
            let offset = lane_offset(isa, offset);
            dispatch!(isa, pack_blocks [] (rows: &[f32], num_columns: usize, offset: i32, stream: &mut [u8]));
        }
        ActivationKind::Super { sub, offset, min } => {
            let offset = lane_offset(isa, offset);
            dispatch!(isa, pack_supers [] (rows: &[f32], num_columns: usize, sub: usize, offset: i32, min: bool, stream: &mut [u8]));
        }
    }
}

/// The offset that the accumulators start with: none where wide lanes are read as signed (`Simd::WIDE_IS_SIGNED`).
fn lane_offset(isa: Isa, offset: i32) -> i32 {
    if offset == WIDE_OFFSET && wide_is_signed(isa) { 0 } else { offset }
}

/// The scale that takes the largest magnitude of `n` values (a multiple of 16) to 127, and its inverse; both 0 where the inverse
/// would overflow. The scale is NaN where a value is not finite: what went wrong before must not be rounded to a number here.
///
/// # Safety
/// The contract of [`Simd`]; `x` is valid for `n` values.
#[inline(always)]
pub(crate) unsafe fn byte_scale<S: Simd>(x: *const f32, n: usize) -> (f32, f32) {
    // SAFETY: the caller's promise.
    let (largest, poison) = unsafe {
        let (zero, mut largest, mut poison) = (S::splat(0.0), S::splat(0.0), S::splat(0.0));
        let mut i = 0;
        while i < n {
            let x = S::load(x.add(i));
            largest = S::max(largest, S::abs(x));
            // 0, or NaN where x is infinite or NaN (which the maximum may lose).
            poison = S::fma(x, zero, poison);
            i += 16;
        }
        (S::max_lanes(largest), S::sum_lanes(poison))
    };
    let (scale, inverse) = if largest < 1e-36 { (0.0, 0.0) } else { (largest / 127.0, 127.0 / largest) };
    (scale + poison, inverse)
}

/// Quantizes `n` values (a multiple of 16) to bytes with one scale, and returns the scale.
///
/// # Safety
/// The contract of [`Simd`]; `x` and `q` are valid for `n` values.
#[inline(always)]
pub(crate) unsafe fn quantize<S: Simd>(x: *const f32, n: usize, q: *mut i8) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let (scale, inverse) = byte_scale::<S>(x, n);
        let mut i = 0;
        while i < n {
            S::store_low_bytes(q.add(i), S::to_ints(S::mul(S::load(x.add(i)), S::splat(inverse))));
            i += 16;
        }
        scale
    }
}

/// Lays out 32-value blocks: `[8][tokens]` words, starts, scales, sums times scales.
#[inline(always)]
unsafe fn pack_blocks<S: Simd>(rows: &[f32], num_columns: usize, offset: i32, stream: &mut [u8]) {
    let num_tokens = rows.len() / num_columns;
    let mut q = [0i8; 32];
    for (t, row) in rows.chunks_exact(num_columns).enumerate() {
        for (x, unit) in row.chunks_exact(32).zip(stream.chunks_exact_mut(BLOCK_STREAM_BYTES * num_tokens)) {
            // SAFETY: 32 floats, 32 bytes; the caller vouches for the instruction set.
            let scale = unsafe { quantize::<S>(x.as_ptr(), 32, q.as_mut_ptr()) };
            let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
            put_words(&q, t, num_tokens, unit);
            put(unit, 8, t, num_tokens, (-offset * sum).to_le_bytes());
            put(unit, 9, t, num_tokens, scale.to_le_bytes());
            put(unit, 10, t, num_tokens, (scale * sum as f32).to_le_bytes());
        }
    }
}

/// Lays out 256-value blocks: `[64][tokens]` words, starts (or, with minima, pairs of sums), scales.
#[inline(always)]
unsafe fn pack_supers<S: Simd>(rows: &[f32], num_columns: usize, sub: usize, offset: i32, min: bool, stream: &mut [u8]) {
    let num_tokens = rows.len() / num_columns;
    let num_subs = 256 / sub;
    let mut q = [0i8; 256];
    for (t, row) in rows.chunks_exact(num_columns).enumerate() {
        for (x, unit) in row.chunks_exact(256).zip(stream.chunks_exact_mut(super_stream_bytes(sub, min) * num_tokens)) {
            // SAFETY: 256 floats, 256 bytes; the caller vouches for the instruction set.
            let scale = unsafe { quantize::<S>(x.as_ptr(), 256, q.as_mut_ptr()) };
            put_words(&q, t, num_tokens, unit);
            let mut sums = [0i32; 16];
            for (sum, q) in sums.iter_mut().zip(q.chunks_exact(sub)) {
                *sum = q.iter().map(|&q| i32::from(q)).sum();
            }
            let num_words = if min {
                for (i, pair) in sums[..num_subs].chunks_exact(2).enumerate() {
                    put(unit, 64 + i, t, num_tokens, ((pair[0] & 0xffff) | pair[1] << 16).to_le_bytes());
                }
                num_subs / 2
            } else {
                for (i, sum) in sums[..num_subs].iter().enumerate() {
                    put(unit, 64 + i, t, num_tokens, (-offset * sum).to_le_bytes());
                }
                num_subs
            };
            put(unit, 64 + num_words, t, num_tokens, scale.to_le_bytes());
        }
    }
}

/// Word `index` of token `t` in a unit of `[index][token]` words.
#[inline(always)]
fn put(unit: &mut [u8], index: usize, t: usize, num_tokens: usize, word: [u8; 4]) {
    unit[4 * (index * num_tokens + t)..][..4].copy_from_slice(&word);
}

#[inline(always)]
fn put_words(q: &[i8], t: usize, num_tokens: usize, unit: &mut [u8]) {
    for (g, word) in q.chunks_exact(4).enumerate() {
        put(unit, g, t, num_tokens, [word[0] as u8, word[1] as u8, word[2] as u8, word[3] as u8]);
    }
}
