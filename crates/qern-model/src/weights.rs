//! A checkpoint's tensors as the transformer reads them: matrices packed in panels, vectors as floats. Packing streams from
//! the mapped file, and each tensor's pages are let go as soon as it is packed.

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use qern_kernels::arena::Arena;
use qern_kernels::dequantize::dequantize;
use qern_kernels::matrix::PackedMatrix;
use qern_kernels::pool::Pool;

/// The weights of a model, by the checkpoint's names.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Weights {
    pub embed_tokens: PackedMatrix, // [vocab, hidden]
    pub layers: Vec<Layer>,
    pub norm: Vec<f32>, // [hidden]
    /// `None`: the embedding, tied.
    pub lm_head: Option<PackedMatrix>, // [vocab, hidden]
}

/// The weights of one layer.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Layer {
    pub input_layernorm: Vec<f32>,          // [hidden]
    pub q_proj: Linear,                     // [q_size, hidden]
    pub k_proj: Linear,                     // [kv_size, hidden]
    pub v_proj: Linear,                     // [kv_size, hidden]
    pub o_proj: Linear,                     // [hidden, q_size]
    pub q_norm: Option<Vec<f32>>,           // [head_dim]
    pub k_norm: Option<Vec<f32>>,           // [head_dim]
    pub post_attention_layernorm: Vec<f32>, // [hidden]
    pub gate_proj: Linear,                  // [intermediate, hidden]
    pub up_proj: Linear,                    // [intermediate, hidden]
    pub down_proj: Linear,                  // [hidden, intermediate]
}

/// A linear layer: `y = W x + b`.
#[derive(Debug)]
pub struct Linear {
    /// W, `[out, in]`.
    pub weight: PackedMatrix,
    /// b, `[out]`.
    pub bias: Option<Vec<f32>>,
}

/// A linear layer, borrowed.
pub(crate) struct LinearView<'a> {
    pub weight: &'a PackedMatrix,
    pub bias: Option<&'a [f32]>,
}

impl Linear {
    pub(crate) fn view(&self) -> LinearView<'_> {
        LinearView { weight: &self.weight, bias: self.bias.as_deref() }
    }
}

impl Weights {
    /// Packs every tensor. `progress` hears the bytes of the file that are done.
    pub fn load(checkpoint: &Checkpoint, pool: &Pool, progress: &mut dyn FnMut(u64)) -> Result<Self> {
        let config = checkpoint.config();
        let mut loader = Loader { checkpoint, pool, arena: Arena::new(), progress, done: 0 };
        let embed_tokens = loader.matrix("model.embed_tokens.weight")?;
        let layers = (0..config.num_layers).map(|i| loader.layer(config, i)).collect::<Result<_>>()?;
        let norm = loader.vector("model.norm.weight")?;
        let lm_head = if config.tied_embeddings { None } else { Some(loader.matrix("lm_head.weight")?) };
        Ok(Self { embed_tokens, layers, norm, lm_head })
    }

    /// Bytes of the packed matrices.
    pub fn bytes(&self) -> usize {
        // A tied embedding is the head too, and is counted there.
        self.bytes_per_token() + self.lm_head.as_ref().map_or(0, |_| self.embed_tokens.bytes())
    }

    /// Bytes of weights that a decode step reads: every layer and the head.
    pub fn bytes_per_token(&self) -> usize {
        self.products().map(PackedMatrix::bytes).sum()
    }

    /// Operations of the matrices in a pass over `num_tokens` tokens that asks for `num_rows` rows of logits: the last layer
    /// computes keys, values and queries for all, and the rest for those rows alone.
    pub fn operations(&self, num_tokens: usize, num_rows: usize) -> Operations {
        let mut operations = Operations::default();
        let last = self.layers.len() - 1;
        for (i, layer) in self.layers.iter().enumerate() {
            for (j, matrix) in layer.matrices().enumerate() {
                operations.add(matrix, if i == last && j > 2 { num_rows } else { num_tokens });
            }
        }
        operations.add(self.lm_head().weight, num_rows);
        operations
    }

    fn products(&self) -> impl Iterator<Item = &PackedMatrix> {
        self.layers.iter().flat_map(Layer::matrices).chain(std::iter::once(self.lm_head().weight))
    }

    pub(crate) fn lm_head(&self) -> LinearView<'_> {
        LinearView { weight: self.lm_head.as_ref().unwrap_or(&self.embed_tokens), bias: None }
    }
}

impl Layer {
    /// q, k and v first.
    fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj, &self.gate_proj, &self.up_proj, &self.down_proj]
            .into_iter()
            .map(|linear| &linear.weight)
    }
}

/// Multiplications and additions, by what they are done in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Operations {
    /// 8-bit products, for quantized weights.
    pub integer: f64,
    /// f32 products, for float weights.
    pub float: f64,
}

impl Operations {
    fn add(&mut self, matrix: &PackedMatrix, num_rows: usize) {
        let operations = 2.0 * matrix.rows() as f64 * matrix.cols() as f64 * num_rows as f64;
        *if matrix.format().is_float() { &mut self.float } else { &mut self.integer } += operations;
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    pool: &'a Pool,
    arena: Arena,
    progress: &'a mut dyn FnMut(u64),
    done: u64,
}

impl Loader<'_> {
    fn layer(&mut self, config: &ModelConfig, i: usize) -> Result<Layer> {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let qkv_bias = config.qkv_bias;
        let mut linear = |part: &str, bias: bool| -> Result<Linear> {
            let weight = self.matrix(&name(&format!("{part}.weight")))?;
            let bias = if bias { Some(self.vector(&name(&format!("{part}.bias")))?) } else { None };
            Ok(Linear { weight, bias })
        };
        let q_proj = linear("self_attn.q_proj", qkv_bias)?;
        let k_proj = linear("self_attn.k_proj", qkv_bias)?;
        let v_proj = linear("self_attn.v_proj", qkv_bias)?;
        let o_proj = linear("self_attn.o_proj", false)?;
        let gate_proj = linear("mlp.gate_proj", false)?;
        let up_proj = linear("mlp.up_proj", false)?;
        let down_proj = linear("mlp.down_proj", false)?;
        let head_norm = |this: &mut Self, part: &str| config.qk_norm.then(|| this.vector(&name(part))).transpose();
        Ok(Layer {
            input_layernorm: self.vector(&name("input_layernorm.weight"))?,
            q_norm: head_norm(self, "self_attn.q_norm.weight")?,
            k_norm: head_norm(self, "self_attn.k_norm.weight")?,
            post_attention_layernorm: self.vector(&name("post_attention_layernorm.weight"))?,
            q_proj,
            k_proj,
            v_proj,
            o_proj,
            gate_proj,
            up_proj,
            down_proj,
        })
    }

    fn matrix(&mut self, name: &str) -> Result<PackedMatrix> {
        let view = self.checkpoint.tensor(name)?;
        let packed = PackedMatrix::pack(self.pool, &self.arena, view.format, view.rows, view.cols, view.bytes)
            .map_err(|error| Error::Checkpoint(format!("`{}`: {error}", view.name)))?;
        view.release();
        self.count(view.bytes.len());
        Ok(packed)
    }

    fn vector(&mut self, name: &str) -> Result<Vec<f32>> {
        let view = self.checkpoint.tensor(name)?;
        let mut values = vec![0.0; view.num_values()];
        dequantize(view.format, view.bytes, &mut values);
        self.count(view.bytes.len());
        Ok(values)
    }

    fn count(&mut self, bytes: usize) {
        self.done += bytes as u64;
        (self.progress)(self.done);
    }
}
