//! Adapters in a forward pass: which rows run with which, and what that adds to the base's products. Rows without an adapter are
//! not touched, so they keep the base's bits.

use std::ops::Range;

use qern_kernels::float_buffer::FloatBuffer;
use qern_kernels::isa::Isa;
use qern_kernels::low_rank::{LowRank, Rescale, Source, add_low_rank};
use qern_kernels::matrix::PackedMatrix;
use qern_kernels::pool::Pool;

use super::{Adapter, AdapterSet, Addition, Site};
use crate::batch::BatchSequence;
use crate::error::Result;

/// Rows of a batch that run with one adapter, and the machine they run on.
pub(crate) struct AdapterRows<'a> {
    pub runs: Vec<Run<'a>>,
    pub pool: &'a Pool,
    pub isa: Isa,
}

/// Consecutive rows with one adapter.
pub(crate) struct Run<'a> {
    pub rows: Range<usize>,
    pub adapter: &'a Adapter,
}

/// The output of a linear layer that adapters may change.
pub(crate) struct Target<'a> {
    pub site: Site,
    /// The layer's input, `[num_tokens, in]`.
    pub x: &'a [f32],
    /// The base's output, `[num_tokens, out]`.
    pub out: &'a mut [f32],
    /// The bias that the output has already, `[out]`.
    pub bias: Option<&'a [f32]>,
}

impl<'a> AdapterRows<'a> {
    /// The runs of a batch whose sequences have `num_rows` rows each. The ids have been checked.
    pub fn new(
        batch: &[BatchSequence<'_>],
        adapters: &'a AdapterSet,
        num_rows: impl Fn(&BatchSequence<'_>) -> usize,
        (pool, isa): (&'a Pool, Isa),
    ) -> Self {
        let mut runs: Vec<Run<'a>> = Vec::new();
        let (mut end, mut last) = (0, None);
        for sequence in batch {
            let start = end;
            end += num_rows(sequence);
            let adapter = sequence.adapter.and_then(|id| adapters.get(id));
            if let Some(adapter) = adapter.filter(|_| end > start) {
                match runs.last_mut() {
                    Some(run) if last == sequence.adapter && run.rows.end == start => run.rows.end = end,
                    _ => runs.push(Run { rows: start..end, adapter }),
                }
                last = sequence.adapter;
            }
        }
        Self { runs, pool, isa }
    }

    /// Whether any row's adapter changes the layer.
    pub fn change(&self, site: Site) -> bool {
        self.runs.iter().any(|run| run.adapter.at(site).is_some())
    }

    /// Adds what the adapters add to some layers that can be computed at once.
    pub fn add(&self, scratch: &mut FloatBuffer, targets: Vec<Target<'_>>) -> Result<()> {
        let mut products = Vec::new();
        for Target { site, x, out, bias } in targets {
            let mut rest = Rest { out, row: 0 };
            for run in &self.runs {
                let Some(addition) = run.adapter.at(site) else { continue };
                let Addition { a, b, scale, .. } = addition;
                let out = rest.take(&run.rows, b.rows());
                let source = Source::Product { a, x: &x[run.rows.start * a.cols()..run.rows.end * a.cols()] };
                let rescale = addition.gain.get().map(|gain| Rescale { gain, bias });
                products.push(LowRank { source, b, scale: *scale, rescale, out });
            }
        }
        if !products.is_empty() {
            add_low_rank(self.pool, self.isa, scratch, products)?;
        }
        Ok(())
    }

    /// Replaces the embeddings of adapters that bring their own, and adds to those of adapters that change the base's.
    /// `x` is `[num_tokens, hidden]`.
    pub fn embed(&self, scratch: &mut FloatBuffer, tokens: &[usize], x: &mut [f32]) -> Result<()> {
        let hidden = x.len() / tokens.len().max(1);
        for run in &self.runs {
            if let Some(matrix) = &run.adapter.new_embedding {
                let out = &mut x[run.rows.start * hidden..run.rows.end * hidden];
                matrix.dequantize_rows(self.pool, self.isa, &tokens[run.rows.clone()], out);
            }
        }
        let rows: Vec<Vec<f32>> = self
            .runs
            .iter()
            .map(|run| {
                let Some(embedding) = &run.adapter.embedding else { return Vec::new() };
                let rank = embedding.b.cols();
                tokens[run.rows.clone()]
                    .iter()
                    .flat_map(|&token| &embedding.a[token * rank..(token + 1) * rank])
                    .copied()
                    .collect()
            })
            .collect();
        let mut rest = Rest { out: x, row: 0 };
        let mut products = Vec::new();
        for (run, rows) in self.runs.iter().zip(&rows) {
            let Some(embedding) = &run.adapter.embedding else { continue };
            let out = rest.take(&run.rows, hidden);
            products.push(LowRank { source: Source::Rows(rows), b: &embedding.b, scale: embedding.scale, rescale: None, out });
        }
        if !products.is_empty() {
            add_low_rank(self.pool, self.isa, scratch, products)?;
        }
        Ok(())
    }

    /// The rows whose adapter brings an output projection of its own.
    pub fn new_heads(&self) -> impl Iterator<Item = (&Range<usize>, &'a PackedMatrix)> {
        self.runs.iter().filter_map(|run| Some((&run.rows, run.adapter.new_head.as_ref()?)))
    }
}

/// What is left of a buffer whose rows are handed out in order.
struct Rest<'a> {
    out: &'a mut [f32],
    /// The row that `out` begins with.
    row: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, rows: &Range<usize>, width: usize) -> &'a mut [f32] {
        let (_, from) = std::mem::take(&mut self.out).split_at_mut((rows.start - self.row) * width);
        let (taken, rest) = from.split_at_mut(rows.len() * width);
        (self.out, self.row) = (rest, rows.end);
        taken
    }
}
