//! Matrix products: several weight matrices against prepared activations in one pass of the thread pool. A thread takes
//! panels that fit its cache, and for each tile of tokens goes through them while the tile's activations are at hand.

use crate::activation::Activations;
use crate::disjoint::Disjoint;
use crate::formats::PANEL_ROWS;
use crate::isa::Isa;
use crate::matrix::PackedMatrix;
use crate::pool::Pool;
use crate::simd::dispatch;
use crate::swiglu::swiglu_row;
use crate::tables::{MAX_TILE, Tiles, layout, tiles};
use crate::tile::TileArgs;
use std::ops::Range;

/// One product: `y = W x` for every row of activations.
pub struct Product<'a> {
    /// W, `[rows, cols]`.
    pub weights: &'a PackedMatrix,
    /// x, prepared for the kind of `weights`.
    pub activations: &'a Activations,
    /// What becomes of y.
    pub output: Output<'a>,
}

/// What becomes of a product, `[num_tokens, rows]`.
pub enum Output<'a> {
    /// `out = y + bias`.
    Store {
        /// `[num_tokens, rows]`.
        out: &'a mut [f32],
        /// `[rows]`.
        bias: Option<&'a [f32]>,
    },
    /// `out += y`: a residual stream.
    Add {
        /// `[num_tokens, rows]`.
        out: &'a mut [f32],
    },
    /// `out = silu(y) * (up x)`: the gated feed-forward.
    SwiGlu {
        /// A second matrix of the same shape.
        up: &'a PackedMatrix,
        /// x, prepared for the kind of `up`.
        activations: &'a Activations,
        /// `[num_tokens, rows]`.
        out: &'a mut [f32],
    },
}

/// Computes all products in one dispatch of the pool. Every output element depends on its row of activations and its row
/// of weights alone: not on the other rows, the other products or the number of threads.
pub fn matmul(pool: &Pool, isa: Isa, products: Vec<Product<'_>>) {
    isa.assert_available();
    let jobs: Vec<Job<'_>> = products.into_iter().map(|product| Job::new(isa, product)).collect();
    // Items are panels.
    let mut first_items = Vec::with_capacity(jobs.len());
    let mut num_items = 0;
    for job in &jobs {
        first_items.push(num_items);
        num_items += job.num_panels();
    }
    // Claims even out a noisy machine; a claim's panels stay in the second-level cache from tile to tile.
    let panel_bytes = jobs.iter().map(Job::panel_bytes).max().unwrap_or(1);
    let cached = (CACHED_BYTES / panel_bytes.max(1)).max(1);
    let chunk = (num_items / (16 * pool.num_threads())).clamp(1, cached);
    pool.for_chunks(num_items, chunk, &|items| {
        let mut item = items.start;
        while item < items.end {
            let j = first_items.partition_point(|&first| first <= item) - 1;
            let end = first_items.get(j + 1).map_or(items.end, |&next| next.min(items.end));
            jobs[j].run(item - first_items[j]..end - first_items[j]);
            item = end;
        }
    });
}

/// Packed weights that a thread goes through again for every tile: about half of a second-level cache.
const CACHED_BYTES: usize = 512 << 10;
/// Floats of one tile's product.
const TILE_LEN: usize = MAX_TILE * PANEL_ROWS;

/// A buffer that tiles store to.
#[repr(align(64))]
struct TileBuffer([f32; TILE_LEN]); // [token][16]

/// A matrix with its activations and tiles.
struct Operand<'a> {
    weights: &'a PackedMatrix,
    activations: &'a Activations,
    tiles: &'static Tiles,
    num_units: usize,
}

impl<'a> Operand<'a> {
    fn new(isa: Isa, weights: &'a PackedMatrix, activations: &'a Activations) -> Self {
        assert!(
            weights.activation_kind() == activations.kind()
                && weights.cols() == activations.num_columns()
                && activations.isa() == isa,
            "a {} matrix of {} columns on {isa} needs activations of {:?}; given {:?} of {} columns on {}",
            weights.format(),
            weights.cols(),
            weights.activation_kind(),
            activations.kind(),
            activations.num_columns(),
            activations.isa()
        );
        let layout = layout(weights.format());
        let num_units = weights.cols() / layout.unit_len;
        assert!(weights.num_panels() == 0 || weights.panel_bytes() == num_units * layout.unit_bytes);
        Self { weights, activations, tiles: tiles(weights.format(), isa), num_units }
    }

    /// The product of one tile of tokens with a panel, to `out`: `[token][16]`.
    fn multiply(&self, tile: usize, panel: usize, out: &mut TileBuffer) {
        let (tokens, stream) = self.activations.tile(tile);
        let args = TileArgs {
            panel: self.weights.panel(panel).as_ptr(),
            activations: stream.as_ptr(),
            num_units: self.num_units,
            out: out.0.as_mut_ptr(),
        };
        // SAFETY: the panel and the stream are of the sizes that the format and the tile require: the asserts in `new`, and
        // `Activations`; the buffer holds the largest tile. The instruction set is available: `matmul` asserts it.
        unsafe { self.tiles.tiles[tokens.len() - 1](&args) };
    }
}

enum Epilogue<'a> {
    Store { bias: Option<&'a [f32]> },
    Add,
    SwiGlu { up: Operand<'a> },
}

struct Job<'a> {
    isa: Isa,
    operand: Operand<'a>,
    epilogue: Epilogue<'a>,
    out: Disjoint<'a, f32>, // [num_tokens, rows]
}

impl<'a> Job<'a> {
    fn new(isa: Isa, product: Product<'a>) -> Self {
        let Product { weights, activations, output } = product;
        let operand = Operand::new(isa, weights, activations);
        let (epilogue, out) = match output {
            Output::Store { out, bias } => {
                assert!(bias.is_none_or(|b| b.len() == weights.rows()), "the bias must have one value a row");
                (Epilogue::Store { bias }, out)
            }
            Output::Add { out } => (Epilogue::Add, out),
            Output::SwiGlu { up, activations: up_activations, out } => {
                assert!(
                    up.rows() == weights.rows() && up_activations.num_tokens() == activations.num_tokens(),
                    "gate and up must have one shape"
                );
                (Epilogue::SwiGlu { up: Operand::new(isa, up, up_activations) }, out)
            }
        };
        assert_eq!(out.len(), activations.num_tokens() * weights.rows(), "the output must be [num_tokens, rows]");
        Self { isa, operand, epilogue, out: Disjoint::new(out) }
    }

    fn num_panels(&self) -> usize {
        self.operand.weights.num_panels()
    }

    fn panel_bytes(&self) -> usize {
        let up = if let Epilogue::SwiGlu { up } = &self.epilogue { up.weights.panel_bytes() } else { 0 };
        self.operand.weights.panel_bytes() + up
    }

    /// All tokens of some panels.
    fn run(&self, panels: Range<usize>) {
        let mut product = TileBuffer([0.0; TILE_LEN]);
        let mut up_product = TileBuffer([0.0; TILE_LEN]);
        for tile in 0..self.operand.activations.num_tiles() {
            let (tokens, _) = self.operand.activations.tile(tile);
            let tile_len = tokens.len() * PANEL_ROWS;
            for panel in panels.clone() {
                self.operand.multiply(tile, panel, &mut product);
                if let Epilogue::SwiGlu { up } = &self.epilogue {
                    up.multiply(tile, panel, &mut up_product);
                    let out = product.0.as_mut_ptr();
                    let (gate, up, n) = (out.cast_const(), up_product.0.as_ptr(), tile_len);
                    dispatch!(self.isa, swiglu_row [] (gate: *const f32, up: *const f32, n: usize, out: *mut f32));
                }
                self.store(tokens.start, panel, &product.0[..tile_len]);
            }
        }
    }

    /// Moves `[token][16]` of one panel to its columns of the output.
    fn store(&self, first_token: usize, panel: usize, product: &[f32]) {
        let rows = self.operand.weights.rows();
        let first = panel * PANEL_ROWS;
        let width = PANEL_ROWS.min(rows - first);
        for (t, y) in product.chunks_exact(PANEL_ROWS).enumerate() {
            let start = (first_token + t) * rows + first;
            // SAFETY: a panel's columns are written by the one thread that computes the panel.
            let out = unsafe { self.out.part(start..start + width) };
            match &self.epilogue {
                Epilogue::Store { bias: Some(bias) } => {
                    for ((out, y), bias) in out.iter_mut().zip(y).zip(&bias[first..first + width]) {
                        *out = y + bias;
                    }
                }
                Epilogue::Add => out.iter_mut().zip(y).for_each(|(out, y)| *out += y),
                Epilogue::Store { bias: None } | Epilogue::SwiGlu { .. } => out.copy_from_slice(&y[..width]),
            }
        }
    }
}
