//! Low-rank additions to the products of some rows: `y += scale * B (A x)` (Hu et al. 2021, "LoRA"), and the rescaling of
//! the sum by output (Liu et al. 2024, "DoRA"). Which rows run with which matrices is the caller's; the product with the
//! base weights is in `matmul`.
//!
//! Every output element is accumulated in one order whatever rows are beside it, as in `matmul`; A and B are float matrices,
//! multiplied in f32.

// Tiles are indexed as in the formulas.
#![allow(clippy::needless_range_loop)]

use crate::disjoint::Disjoint;
use crate::float_buffer::FloatBuffer;
use crate::format::WeightFormat;
use crate::formats::PANEL_ROWS;
use crate::formats::float::{Bf16, F16, F32, FloatPanel};
use crate::isa::Isa;
use crate::matrix::PackedMatrix;
use crate::memory::OutOfMemory;
use crate::pool::Pool;
use crate::simd::{Simd, dispatch};
use std::ops::Range;

/// An addition to some rows of a linear layer's output.
pub struct LowRank<'a> {
    /// What is multiplied with B.
    pub source: Source<'a>,
    /// B, `[out, rank]`, of a float format.
    pub b: &'a PackedMatrix,
    /// What `B (A x)` is multiplied with.
    pub scale: f32,
    /// What the sum is multiplied with.
    pub rescale: Option<Rescale<'a>>,
    /// y, `[num_tokens, out]`: the base's product, bias included.
    pub out: &'a mut [f32],
}

/// Where the low-rank coordinates come from.
pub enum Source<'a> {
    /// They are `A x`.
    Product {
        /// A, `[rank, in]`, of a float format.
        a: &'a PackedMatrix,
        /// x, `[num_tokens, in]`.
        x: &'a [f32],
    },
    /// They are known: rows of an embedding, `[num_tokens, rank]`.
    Rows(&'a [f32]),
}

/// DoRA: `y = gain * (W x + scale * B (A x)) + bias`.
#[derive(Clone, Copy)]
pub struct Rescale<'a> {
    /// The magnitude over the norm of `W + scale B A`, by output. `[out]`
    pub gain: &'a [f32],
    /// The bias that `out` contains already; it is not rescaled. `[out]`
    pub bias: Option<&'a [f32]>,
}

/// Adds every product to its `out`, in two dispatches of the pool. `scratch` is kept from step to step.
pub fn add_low_rank(pool: &Pool, isa: Isa, scratch: &mut FloatBuffer, products: Vec<LowRank<'_>>) -> Result<(), OutOfMemory> {
    isa.assert_available();
    let mut lens = Vec::with_capacity(products.len());
    for product in &products {
        lens.push(match product.source {
            Source::Product { a, x } => {
                assert_eq!(a.rows(), product.b.cols(), "A and B must have one rank");
                assert!(a.cols() > 0 && x.len().is_multiple_of(a.cols()), "x must hold whole rows of {}", a.cols());
                x.len() / a.cols() * a.num_panels() * PANEL_ROWS
            }
            Source::Rows(_) => 0,
        });
    }
    // [products][num_tokens, rank rounded up to whole panels]
    scratch.resize(lens.iter().sum())?;
    let mut parts = Vec::with_capacity(products.len());
    let mut rest = &mut scratch[..];
    for &len in &lens {
        let (part, tail) = rest.split_at_mut(len);
        parts.push(part);
        rest = tail;
    }
    let shrink: Vec<Job<'_>> = products
        .iter()
        .zip(&mut parts)
        .filter_map(|(product, part)| match product.source {
            Source::Product { a, x } => Some(Job::new(a, x, a.cols(), part, Epilogue::Store)),
            Source::Rows(_) => None,
        })
        .collect();
    run(pool, isa, &shrink);
    drop(shrink);
    let expand: Vec<Job<'_>> = products
        .into_iter()
        .zip(&parts)
        .map(|(LowRank { source, b, scale, rescale, out }, part)| {
            let (x, stride) = match source {
                Source::Product { a, .. } => (&**part, a.num_panels() * PANEL_ROWS),
                Source::Rows(rows) => (rows, b.cols()),
            };
            Job::new(b, x, stride, out, Epilogue::Add { scale, rescale })
        })
        .collect();
    run(pool, isa, &expand);
    Ok(())
}

/// `out += x`, element by element.
pub fn add(pool: &Pool, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "`x` and `out` must have one length");
    let out = Disjoint::new(out);
    pool.for_chunks(x.len(), 16 << 10, &|range| {
        // SAFETY: chunks do not overlap.
        let out = unsafe { out.part(range.clone()) };
        out.iter_mut().zip(&x[range]).for_each(|(out, x)| *out += x);
    });
}

/// Tokens of a tile: enough independent sums to hide the latency of one, few enough for the registers of AVX2.
const TILE: usize = 4;
/// Tokens and panels of a work item.
const ITEM_TOKENS: usize = 32;
const ITEM_BYTES: usize = 32 << 10;

enum Epilogue<'a> {
    Store,
    Add { scale: f32, rescale: Option<Rescale<'a>> },
}

/// A float matrix against rows of floats.
struct Job<'a> {
    weights: &'a PackedMatrix,
    x: &'a [f32], // [num_tokens, stride]
    stride: usize,
    out: Disjoint<'a, f32>, // [num_tokens, width]
    /// Values of an output row; may be more than the matrix has where whole panels are stored.
    width: usize,
    num_tokens: usize,
    item_panels: usize,
    epilogue: Epilogue<'a>,
}

impl<'a> Job<'a> {
    fn new(weights: &'a PackedMatrix, x: &'a [f32], stride: usize, out: &'a mut [f32], epilogue: Epilogue<'a>) -> Self {
        assert!(weights.format().is_float(), "A and B must be float matrices; given {}", weights.format());
        assert!(stride >= weights.cols() && x.len().is_multiple_of(stride), "inputs must be whole rows of {stride}");
        let num_tokens = x.len() / stride;
        let width = match &epilogue {
            Epilogue::Store => weights.num_panels() * PANEL_ROWS,
            Epilogue::Add { rescale, .. } => {
                let fits = |values: &[f32]| values.len() == weights.rows();
                assert!(
                    rescale.is_none_or(|r| fits(r.gain) && r.bias.is_none_or(fits)),
                    "gains and biases must have one value an output"
                );
                weights.rows()
            }
        };
        assert_eq!(out.len(), num_tokens * width, "the output must be [num_tokens, {width}]");
        let item_panels = (ITEM_BYTES / weights.panel_bytes().max(1)).max(1);
        Self { weights, x, stride, out: Disjoint::new(out), width, num_tokens, item_panels, epilogue }
    }

    fn items(&self) -> (usize, usize) {
        (self.num_tokens.div_ceil(ITEM_TOKENS), self.weights.num_panels().div_ceil(self.item_panels))
    }

    fn run(&self, isa: Isa, item: usize) {
        let (_, num_groups) = self.items();
        let (first_token, first_panel) = (item / num_groups * ITEM_TOKENS, item % num_groups * self.item_panels);
        let tokens = first_token..(first_token + ITEM_TOKENS).min(self.num_tokens);
        let panels = first_panel..(first_panel + self.item_panels).min(self.weights.num_panels());
        let (job, tokens, panels) = (self, &tokens, &panels);
        dispatch!(isa, job_body [] (job: &Job<'_>, tokens: &Range<usize>, panels: &Range<usize>));
    }
}

fn run(pool: &Pool, isa: Isa, jobs: &[Job<'_>]) {
    let mut ends = Vec::with_capacity(jobs.len());
    let mut num_items = 0;
    for job in jobs {
        let (tokens, groups) = job.items();
        num_items += tokens * groups;
        ends.push(num_items);
    }
    let chunk = (num_items / (16 * pool.num_threads())).max(1);
    pool.for_chunks(num_items, chunk, &|items| {
        for item in items {
            let j = ends.partition_point(|&end| end <= item);
            let first = if j == 0 { 0 } else { ends[j - 1] };
            jobs[j].run(isa, item - first);
        }
    });
}

#[inline(always)]
unsafe fn job_body<S: Simd>(job: &Job<'_>, tokens: &Range<usize>, panels: &Range<usize>) {
    // SAFETY: the caller vouches for the instruction set; `Job::new` checked the sizes.
    unsafe {
        match job.weights.format() {
            WeightFormat::F16 => format_body::<S, F16>(job, tokens, panels),
            WeightFormat::BF16 => format_body::<S, Bf16>(job, tokens, panels),
            _ => format_body::<S, F32>(job, tokens, panels),
        }
    }
}

#[inline(always)]
unsafe fn format_body<S: Simd, F: FloatPanel>(job: &Job<'_>, tokens: &Range<usize>, panels: &Range<usize>) {
    for panel in panels.clone() {
        let mut first = tokens.start;
        while first < tokens.end {
            let num = (tokens.end - first).min(TILE);
            // SAFETY: tokens and panels are those of the job; the caller vouches for the instruction set.
            unsafe {
                match num {
                    1 => tile::<S, F, 1>(job, panel, first),
                    2 => tile::<S, F, 2>(job, panel, first),
                    3 => tile::<S, F, 3>(job, panel, first),
                    _ => tile::<S, F, TILE>(job, panel, first),
                }
            }
            first += num;
        }
    }
}

/// Columns summed before they join the total: keeps the rounding error of long rows small.
const RUN: usize = 128;

/// A panel against `T` tokens from `first` on.
///
/// # Safety
/// The contract of [`Simd`]; the panel and the tokens are those of the job, whose matrix has the format `F`.
#[inline(always)]
unsafe fn tile<S: Simd, F: FloatPanel, const T: usize>(job: &Job<'_>, panel: usize, first: usize) {
    let num_columns = job.weights.cols();
    let columns = job.weights.panel(panel).as_ptr();
    // SAFETY: the rows lie within `x`: `stride` is at least the number of columns; the panel has 16 elements a column.
    unsafe {
        let x: [*const f32; T] = std::array::from_fn(|t| job.x.as_ptr().add((first + t) * job.stride));
        let mut total: [S::Floats; T] = [S::splat(0.0); T];
        let mut from = 0;
        while from < num_columns {
            let to = (from + RUN).min(num_columns);
            let mut run: [S::Floats; T] = [S::splat(0.0); T];
            for k in from..to {
                let w = F::column::<S>(columns.add(k * F::ELEMENT_BYTES * PANEL_ROWS));
                for t in 0..T {
                    run[t] = S::fma(w, S::splat(*x[t].add(k)), run[t]);
                }
            }
            for t in 0..T {
                total[t] = S::add(total[t], run[t]);
            }
            from = to;
        }
        for t in 0..T {
            store::<S>(job, panel, first + t, total[t]);
        }
    }
}

/// Moves the 16 products of a panel and a token to where they belong.
#[inline(always)]
unsafe fn store<S: Simd>(job: &Job<'_>, panel: usize, token: usize, product: S::Floats) {
    let column = panel * PANEL_ROWS;
    let n = PANEL_ROWS.min(job.width - column);
    let start = token * job.width + column;
    // SAFETY: the columns of a panel and a token are written by one item alone; the loads and stores stay below `n`, which
    // is what is left of the gains and biases too. The caller vouches for the instruction set.
    unsafe {
        let out = job.out.part(start..start + n).as_mut_ptr();
        let Epilogue::Add { scale, rescale } = &job.epilogue else {
            return S::store(out, product);
        };
        let scale = S::splat(*scale);
        let load = |p: *const f32| if n == PANEL_ROWS { S::load(p) } else { S::load_first(p, n) };
        let y = load(out);
        let sum = match rescale {
            None => S::fma(product, scale, y),
            Some(Rescale { gain, bias: None }) => S::mul(load(gain.as_ptr().add(column)), S::fma(product, scale, y)),
            Some(Rescale { gain, bias: Some(bias) }) => {
                let bias = load(bias.as_ptr().add(column));
                S::fma(load(gain.as_ptr().add(column)), S::fma(product, scale, S::sub(y, bias)), bias)
            }
        };
        if n == PANEL_ROWS { S::store(out, sum) } else { S::store_first(out, sum, n) }
    }
}

/// The norms of the rows of `W + scale B A`: what DoRA divides its magnitudes by. `w` is `[out, in]` in any format, dequantized
/// row by row; `a` is `[rank, in]` and `b` `[out, rank]`. Returns `[out]`.
pub fn row_norms(pool: &Pool, isa: Isa, w: &PackedMatrix, a: &PackedMatrix, b: &PackedMatrix, scale: f32) -> Vec<f32> {
    assert!(
        a.cols() == w.cols() && b.rows() == w.rows() && a.rows() == b.cols(),
        "a {} x {} matrix cannot have an addition of {} x {} by {} x {}",
        w.rows(),
        w.cols(),
        b.rows(),
        b.cols(),
        a.rows(),
        a.cols()
    );
    let (rank, num_columns) = (a.rows(), a.cols());
    let mut a_rows = vec![0.0; rank * num_columns]; // [rank, in]
    a.dequantize_rows(pool, isa, &(0..rank).collect::<Vec<_>>(), &mut a_rows);
    let mut norms = vec![0.0; w.rows()];
    let out = Disjoint::new(&mut norms);
    pool.for_chunks(w.rows(), 16, &|rows| {
        let (mut w_row, mut b_row) = (vec![0.0; num_columns], vec![0.0; rank]);
        for row in rows {
            w.dequantize_row(isa, row, &mut w_row);
            b.dequantize_row(isa, row, &mut b_row);
            let (w, a, b) = (&w_row[..], &a_rows[..], &b_row[..]);
            let sum = dispatch!(isa, squares_body [] (w: &[f32], a: &[f32], b: &[f32], scale: f32) -> f32);
            // SAFETY: rows are disjoint.
            unsafe { out.part(row..row + 1)[0] = sum.sqrt() };
        }
    });
    norms
}

/// The sum of the squares of one row, `w + scale b A`.
#[inline(always)]
unsafe fn squares_body<S: Simd>(w: &[f32], a: &[f32], b: &[f32], scale: f32) -> f32 {
    let n = w.len();
    // SAFETY: every access is below `n`, or bounded by `load_first`; `a` holds a row of `n` for each of `b`.
    unsafe {
        let (scale, mut total) = (S::splat(scale), S::splat(0.0));
        let mut i = 0;
        while i < n {
            let width = (n - i).min(16);
            let load = |p: *const f32| if width == 16 { S::load(p) } else { S::load_first(p, width) };
            let mut delta = S::splat(0.0);
            for (k, &b) in b.iter().enumerate() {
                delta = S::fma(S::splat(b), load(a.as_ptr().add(k * n + i)), delta);
            }
            let v = S::fma(delta, scale, load(w.as_ptr().add(i)));
            total = S::fma(v, v, total);
            i += 16;
        }
        S::sum_lanes(total)
    }
}

#[cfg(test)]
mod tests;
