//! Matrix products: several weight matrices against prepared activations in one pass of the thread pool, panel by panel.
//! Few rows go straight from packed weights; many rows unpack each panel once and run all tiles over it.

use crate::activation::Activations;
use crate::disjoint::Disjoint;
use crate::formats::PANEL_ROWS;
use crate::isa::Isa;
use crate::matrix::PackedMatrix;
use crate::memory::AlignedBytes;
use crate::pool::Pool;
use crate::simd::dispatch;
use crate::swiglu::swiglu_row;
use crate::tables::{Tiles, layout, tiles};
use crate::tile::TileArgs;
use std::cell::RefCell;

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
    let jobs: Vec<Job<'_>> = products.into_iter().map(|product| Job::new(isa, product)).collect();
    let mut first_items = Vec::with_capacity(jobs.len());
    let mut num_items = 0;
    for job in &jobs {
        first_items.push(num_items);
        num_items += job.weights.num_panels().div_ceil(PANELS);
    }
    // About sixteen claims a thread: enough to even out a noisy machine, few enough to stream.
    let chunk = (num_items / (16 * pool.num_threads())).clamp(1, 64);
    pool.for_chunks(num_items, chunk, &|items| {
        for item in items {
            let j = first_items.partition_point(|&first| first <= item) - 1;
            jobs[j].run((item - first_items[j]) * PANELS);
        }
    });
}

/// Panels of a work item: what the widest tile takes at once.
const PANELS: usize = 2;

/// A matrix with its activations and tiles.
struct Operand<'a> {
    weights: &'a PackedMatrix,
    activations: &'a Activations,
    tiles: &'static Tiles,
    unit_bytes: usize,
    num_units: usize,
    unpacked_unit_bytes: usize,
}

impl<'a> Operand<'a> {
    fn new(isa: Isa, weights: &'a PackedMatrix, activations: &'a Activations) -> Self {
        assert!(
            weights.activation_kind() == activations.kind() && weights.cols() == activations.num_columns(),
            "a {} matrix of {} columns needs activations of {:?}; given {:?} of {} columns",
            weights.format(),
            weights.cols(),
            weights.activation_kind(),
            activations.kind(),
            activations.num_columns()
        );
        let layout = layout(weights.format());
        Self {
            weights,
            activations,
            tiles: tiles(weights.format(), isa),
            unit_bytes: layout.unit_bytes,
            num_units: weights.cols() / layout.unit_len,
            unpacked_unit_bytes: layout.unpacked_unit_bytes,
        }
    }

    /// The products of `num_panels` (1 or 2) panels with all tokens, to `out`: `[panel][token][16]`.
    fn multiply(&self, panel: usize, num_panels: usize, unpacked: &mut Vec<u8>, out: &mut [f32]) {
        let num_tokens = self.activations.num_tokens();
        let out_stride = num_tokens * PANEL_ROWS;
        assert!(out.len() >= num_panels * out_stride);
        let (panel_bytes, num_units) = (self.weights.panel_bytes(), self.num_units);
        assert!(panel_bytes == num_units * self.unit_bytes && panel + num_panels <= self.weights.num_panels());
        let fused = num_tokens <= self.tiles.single.len();
        if fused {
            let (_, stream) = self.activations.tile(0);
            let mut args = TileArgs {
                panels: self.weights.panel(panel).as_ptr(),
                panel_stride: panel_bytes,
                activations: stream.as_ptr(),
                num_units,
                out: out.as_mut_ptr(),
                out_stride,
            };
            if num_panels == 2 && !self.tiles.double.is_empty() {
                // SAFETY: both panels, the stream and the output are of the sizes that the format and `T` require: the
                // asserts above and `Activations`. The instruction set is available: `Isa` values are only made so.
                unsafe { self.tiles.double[num_tokens - 1](&args) };
                return;
            }
            for p in 0..num_panels {
                args.panels = self.weights.panel(panel + p).as_ptr();
                args.out = out[p * out_stride..].as_mut_ptr();
                // SAFETY: as above.
                unsafe { self.tiles.single[num_tokens - 1](&args) };
            }
            return;
        }
        for p in 0..num_panels {
            let mut panels = self.weights.panel(panel + p).as_ptr();
            if let Some(unpack) = self.tiles.unpack {
                unpacked.resize(unpacked.len().max(num_units * self.unpacked_unit_bytes), 0);
                // SAFETY: the panel has `num_units` units and the buffer as many unpacked ones.
                unsafe { unpack(panels, num_units, unpacked.as_mut_ptr()) };
                panels = unpacked.as_ptr();
            }
            for tile in 0..self.activations.num_tiles() {
                let (tokens, stream) = self.activations.tile(tile);
                let out = &mut out[p * out_stride + tokens.start * PANEL_ROWS..][..tokens.len() * PANEL_ROWS];
                let args = TileArgs {
                    panels,
                    panel_stride: 0,
                    activations: stream.as_ptr(),
                    num_units,
                    out: out.as_mut_ptr(),
                    out_stride: 0,
                };
                // SAFETY: as above, for one panel.
                unsafe { self.tiles.unpacked[tokens.len() - 1](&args) };
            }
        }
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
    weights: &'a PackedMatrix,
    epilogue: Epilogue<'a>,
    out: Disjoint<'a, f32>, // [num_tokens, rows]
}

/// What a thread computes before it is stored.
#[derive(Default)]
struct Scratch {
    unpacked: Vec<u8>,
    /// `[panel][token][16]`
    product: Option<AlignedBytes>,
    /// `[panel][token][16]` of the up projection
    up: Option<AlignedBytes>,
}

thread_local! {
    /// Kept by the pool's threads from product to product.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A buffer of at least `len` floats.
fn floats(buffer: &mut Option<AlignedBytes>, len: usize) -> &mut [f32] {
    if buffer.as_ref().is_none_or(|b| b.as_f32().len() < len) {
        *buffer = Some(AlignedBytes::try_new_f32(len).expect("scratch of one panel fits in memory"));
    }
    buffer.as_mut().expect("just made").as_f32_mut()
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
        Self { isa, operand, weights, epilogue, out: Disjoint::new(out) }
    }

    /// Up to `PANELS` panels from `panel` on.
    fn run(&self, panel: usize) {
        let num_tokens = self.operand.activations.num_tokens();
        if num_tokens == 0 {
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            // Many tokens: one panel at a time keeps the unpacked panel and its output in the cache.
            let step = if num_tokens <= self.operand.tiles.single.len() { PANELS } else { 1 };
            let end = (panel + PANELS).min(self.weights.num_panels());
            for panel in (panel..end).step_by(step) {
                let num_panels = step.min(end - panel);
                let len = num_panels * num_tokens * PANEL_ROWS;
                let product = &mut floats(&mut scratch.product, len)[..len];
                self.operand.multiply(panel, num_panels, &mut scratch.unpacked, product);
                if let Epilogue::SwiGlu { up } = &self.epilogue {
                    let up_product = &mut floats(&mut scratch.up, len)[..len];
                    up.multiply(panel, num_panels, &mut scratch.unpacked, up_product);
                    let (gate, up, n) = (product.as_ptr(), up_product.as_ptr(), len);
                    let out = product.as_mut_ptr();
                    dispatch!(self.isa, swiglu_row [] (gate: *const f32, up: *const f32, n: usize, out: *mut f32));
                }
                for p in 0..num_panels {
                    self.store(panel + p, &product[p * num_tokens * PANEL_ROWS..][..num_tokens * PANEL_ROWS]);
                }
            }
        });
    }

    /// Moves `[token][16]` of one panel to its columns of the output.
    fn store(&self, panel: usize, product: &[f32]) {
        let rows = self.weights.rows();
        let first = panel * PANEL_ROWS;
        let width = PANEL_ROWS.min(rows - first);
        for (t, y) in product.chunks_exact(PANEL_ROWS).enumerate() {
            // SAFETY: a panel's columns are written by the one thread that computes the panel.
            let out = unsafe { self.out.part(t * rows + first..t * rows + first + width) };
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
