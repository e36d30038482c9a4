//! From an adapter's files to an `Adapter` of a base's shape: shapes and values checked by the tensors' names, matrices packed in
//! the format that the file has them in.

use std::sync::OnceLock;

use qern_kernels::WeightFormat;
use qern_kernels::arena::Arena;
use qern_kernels::dequantize::dequantize;
use qern_kernels::matrix::PackedMatrix;
use qern_kernels::pool::Pool;

use super::file::{self, AdapterFile, Weights};
use super::site::{Projection, Site};
use super::{Adapter, Addition, EmbeddingAddition};
use crate::config::{Architecture, ModelConfig, RopeLayout};
use crate::error::{Error, Result, shorten};
use crate::tensor::TensorView;

/// Reads everything.
pub(super) fn bind(file: &AdapterFile, config: &ModelConfig) -> Result<Adapter> {
    check_base(file, config)?;
    let binder = Binder { file, config, pool: Pool::new(1), arena: Arena::new() };
    let mut adapter = Adapter::empty(config);
    for (&site, addition) in &file.additions {
        let shape = shape_of(site, config)?;
        if site == Site::Embedding {
            adapter.embedding = Some(binder.embedding(addition, shape)?);
        } else {
            *adapter.slot(site) = Some(binder.addition(site, addition, shape)?);
        }
    }
    for (&site, name) in &file.replacements {
        // Both are stored [vocab, hidden].
        let (rows, cols) = (config.vocab_size, config.hidden_size);
        let tensor = binder.tensor(name, (rows, cols), "[vocabulary, hidden] of the base")?;
        let matrix = Some(binder.pack(&tensor, tensor.bytes.to_vec())?);
        *(if site == Site::Embedding { &mut adapter.new_embedding } else { &mut adapter.new_head }) = matrix;
    }
    for name in file.copies.values() {
        binder.shape(&file.tensor(name)?, (config.vocab_size, config.hidden_size), "[vocabulary, hidden] of the base")?;
    }
    adapter.fingerprint = file.fingerprint().map(str::to_owned);
    adapter.notes.clone_from(&file.notes);
    Ok(adapter)
}

/// What can be said before any tensor is looked at.
fn check_base(file: &AdapterFile, config: &ModelConfig) -> Result<()> {
    match &file.weights {
        Weights::Gguf { architecture, .. } => {
            let expected = match config.architecture {
                Architecture::Mistral => Architecture::Llama,
                other => other,
            };
            if architecture != expected.name() {
                return refuse(format!(
                    "`general.architecture` must be the base's `{expected}`; given `{}`: the adapter was made for another model",
                    shorten(architecture)
                ));
            }
            Ok(())
        }
        Weights::Peft { config: peft, .. } => match peft.expected(config).find(|site| !file.additions.contains_key(site)) {
            Some(site) => refuse(format!(
                "`{site}` must have an adapter by `target_modules`; the file has none, so it is incomplete or for another model"
            )),
            None => Ok(()),
        },
    }
}

fn shape_of(site: Site, config: &ModelConfig) -> Result<(usize, usize)> {
    site.shape(config).ok_or_else(|| {
        Error::Adapter(format!(
            "it changes `{site}`, but the base has {} layers: it was made for another model",
            config.num_layers
        ))
    })
}

struct Binder<'a> {
    file: &'a AdapterFile,
    config: &'a ModelConfig,
    pool: Pool,
    arena: Arena,
}

impl Binder<'_> {
    fn addition(&self, site: Site, names: &file::Addition, (outputs, inputs): (usize, usize)) -> Result<Addition> {
        let rank = names.rank;
        let what = |dims: &str| format!("{dims} for the base's `{site}`");
        let a = self.tensor(&names.a, (rank, inputs), &what("[rank, inputs]"))?;
        let b = self.tensor(&names.b, (outputs, rank), &what("[outputs, rank]"))?;
        let order = self.row_order(site, outputs);
        let b_bytes = match &order {
            None => b.bytes.to_vec(),
            Some(order) => order.iter().flat_map(|&row| b.row(row)).copied().collect(),
        };
        let magnitude = match &names.magnitude {
            None => None,
            Some(name) => {
                let tensor = self.file.tensor(name)?;
                if tensor.num_values() != outputs {
                    return refuse(format!(
                        "the tensor `{}` must have a value for each of the {outputs} outputs of the base's `{site}`; it has {}",
                        shorten(name),
                        tensor.num_values()
                    ));
                }
                let values = finite_values(&tensor)?;
                Some(match &order {
                    None => values,
                    Some(order) => order.iter().map(|&row| values[row]).collect(),
                })
            }
        };
        let (a, b) = (self.pack(&a, a.bytes.to_vec())?, self.pack(&b, b_bytes)?);
        Ok(Addition { a, b, scale: finite_scale(site, names.scale)?, magnitude, gain: OnceLock::new() })
    }

    fn embedding(&self, names: &file::Addition, (hidden, vocab): (usize, usize)) -> Result<EmbeddingAddition> {
        let rank = names.rank;
        let b = self.tensor(&names.b, (hidden, rank), "[hidden, rank] for the base's embedding")?;
        let b = self.pack(&b, b.bytes.to_vec())?;
        let a = if self.file.is_gguf() {
            finite_values(&self.tensor(&names.a, (vocab, rank), "[vocabulary, rank] for the base's embedding")?)?
        } else {
            let values = finite_values(&self.tensor(&names.a, (rank, vocab), "[rank, vocabulary] for the base's embedding")?)?;
            (0..vocab * rank).map(|i| values[i % rank * vocab + i / rank]).collect()
        };
        Ok(EmbeddingAddition { a, b, scale: finite_scale(Site::Embedding, names.scale)? })
    }

    /// The tensor, which must have this shape and finite values.
    fn tensor(&self, name: &str, shape: (usize, usize), what: &str) -> Result<TensorView<'_>> {
        let tensor = self.file.tensor(name)?;
        self.shape(&tensor, shape, what)?;
        Ok(tensor)
    }

    fn shape(&self, tensor: &TensorView<'_>, (rows, cols): (usize, usize), what: &str) -> Result<()> {
        if (tensor.rows, tensor.cols) == (rows, cols) {
            return Ok(());
        }
        refuse(format!(
            "the tensor `{}` must be {what}, [{rows}, {cols}]; it is [{}, {}]: the adapter was made for another model",
            shorten(tensor.name),
            tensor.rows,
            tensor.cols
        ))
    }

    /// Packs a tensor's bytes, its rows perhaps in another order: floats as they are, quantized ones as the floats they mean.
    fn pack(&self, tensor: &TensorView<'_>, bytes: Vec<u8>) -> Result<PackedMatrix> {
        let values = finite_values(tensor)?;
        let (format, bytes) = if tensor.format.is_float() {
            (tensor.format, bytes)
        } else {
            let mut values = values;
            dequantize(tensor.format, &bytes, &mut values);
            (WeightFormat::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        };
        PackedMatrix::pack(&self.pool, &self.arena, format, tensor.rows, tensor.cols, &bytes)
            .map_err(|error| Error::Adapter(format!("`{}`: {error}", shorten(tensor.name))))
    }

    /// Which of the file's rows each row of the base's q and k is: converters to GGUF store the rotated pairs of Llama's heads
    /// side by side, in models and in adapters, and PEFT stores them half a head apart. `None` where both agree.
    fn row_order(&self, site: Site, outputs: usize) -> Option<Vec<usize>> {
        let Site::Layer(_, Projection::Q | Projection::K) = site else { return None };
        let from = match &self.file.weights {
            Weights::Gguf { architecture, .. } if architecture == Architecture::Llama.name() => RopeLayout::Interleaved,
            _ => RopeLayout::HalfSplit,
        };
        row_order(from, self.config.rope.layout, self.config.head_dim, outputs)
    }
}

/// Which row of the layout `from` each row of the layout `to` is. `None` where they are one.
pub(super) fn row_order(from: RopeLayout, to: RopeLayout, head_dim: usize, num_rows: usize) -> Option<Vec<usize>> {
    if from == to {
        return None;
    }
    let half = head_dim / 2;
    let source = |i: usize| match to {
        RopeLayout::Interleaved => i % 2 * half + i / 2,
        RopeLayout::HalfSplit => i % half * 2 + i / half,
    };
    Some((0..num_rows).map(|row| row / head_dim * head_dim + source(row % head_dim)).collect())
}

/// The values of a tensor, none of which may be infinite or NaN.
fn finite_values(tensor: &TensorView<'_>) -> Result<Vec<f32>> {
    let mut values = vec![0.0; tensor.num_values()];
    dequantize(tensor.format, tensor.bytes, &mut values);
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(i) => refuse(format!(
            "every value of the tensor `{}` must be finite; the one at [{}, {}] is {}",
            shorten(tensor.name),
            i / tensor.cols,
            i % tensor.cols,
            values[i]
        )),
    }
}

fn finite_scale(site: Site, scale: f64) -> Result<f32> {
    let scale = scale as f32;
    if scale.is_finite() { Ok(scale) } else { refuse(format!("the scale of `{site}` must be finite; it is {scale}")) }
}

fn refuse<T>(message: String) -> Result<T> {
    Err(Error::Adapter(message))
}
