//! A base model's fingerprint, which an adapter records so that it is not run on another model unnoticed. Two hashes: of the
//! model (its shape and its norms, which every conversion and quantization keeps to the bit), and of its weights as stored (a
//! sample of rows).

use std::fmt;
use std::str::FromStr;

use qern_kernels::dequantize::dequantize;
use qern_kernels::isa::Isa;
use qern_kernels::matrix::PackedMatrix;
use sha2::{Digest, Sha256};

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{Error, Result, shorten};
use crate::weights::Weights;

/// Which model, and which weights of it. Written as `v1-MODEL-WEIGHTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Equal for all conversions and quantizations of one model, and for fine-tuned versions that keep its norms.
    pub model: u64,
    /// Equal for the same weights in the same format.
    pub weights: u64,
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1-{:016x}-{:016x}", self.model, self.weights)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let hex = |part: &str| u64::from_str_radix(part, 16).ok().filter(|_| part.len() == 16);
        let parts = text.strip_prefix("v1-").and_then(|rest| rest.split_once('-'));
        let parsed = parts.and_then(|(model, weights)| Some(Self { model: hex(model)?, weights: hex(weights)? }));
        parsed.ok_or_else(|| {
            Error::Adapter(format!(
                "a base's fingerprint must be written `v1-<16 hex digits>-<16 hex digits>`; given `{}`",
                shorten(text)
            ))
        })
    }
}

impl Checkpoint {
    /// The fingerprint of the model; that of its packed [`Weights`] is the same. Reads a few rows and vectors.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let vector = |name: &str| -> Result<Vec<f32>> {
            let tensor = self.tensor(name)?;
            let mut values = vec![0.0; tensor.num_values()];
            dequantize(tensor.format, tensor.bytes, &mut values);
            Ok(values)
        };
        let mut hashes = Hashes::new(self.config());
        for layer in 0..self.config().num_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            hashes.norm(&vector(&name("input_layernorm"))?);
            hashes.norm(&vector(&name("post_attention_layernorm"))?);
        }
        hashes.norm(&vector("model.norm.weight")?);
        for (layer, part) in sampled(self.config().num_layers) {
            let tensor = self.tensor(&format!("model.layers.{layer}.{part}.weight"))?;
            for row in sampled_rows(tensor.rows) {
                let mut values = vec![0.0; tensor.cols];
                dequantize(tensor.format, tensor.row(row), &mut values);
                hashes.row(&values);
            }
        }
        Ok(hashes.finish())
    }
}

impl Weights {
    /// The fingerprint of the model; that of its [`Checkpoint`] is the same.
    pub fn fingerprint(&self, config: &ModelConfig) -> Fingerprint {
        let mut hashes = Hashes::new(config);
        for layer in &self.layers {
            hashes.norm(&layer.input_layernorm);
            hashes.norm(&layer.post_attention_layernorm);
        }
        hashes.norm(&self.norm);
        for (layer, part) in sampled(self.layers.len()) {
            let layer = &self.layers[layer];
            let matrix: &PackedMatrix = if part == V { &layer.v_proj.weight } else { &layer.down_proj.weight };
            for row in sampled_rows(matrix.rows()) {
                let mut values = vec![0.0; matrix.cols()];
                matrix.dequantize_row(Isa::active(), row, &mut values);
                hashes.row(&values);
            }
        }
        hashes.finish()
    }
}

/// Not q and k: their rows are in another order in some files.
const V: &str = "self_attn.v_proj";
const DOWN: &str = "mlp.down_proj";

/// The matrices that are sampled.
fn sampled(num_layers: usize) -> impl Iterator<Item = (usize, &'static str)> {
    [0, num_layers / 2, num_layers - 1].into_iter().flat_map(|layer| [(layer, V), (layer, DOWN)])
}

fn sampled_rows(num_rows: usize) -> [usize; 3] {
    [0, num_rows / 2, num_rows - 1]
}

struct Hashes {
    model: Sha256,
    weights: Sha256,
}

impl Hashes {
    /// The shape is part of the model; its name is not (files of one model differ in it), nor how its context is extended.
    fn new(config: &ModelConfig) -> Self {
        let mut model = Sha256::new();
        let counts = [
            config.num_layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            config.vocab_size,
            usize::from(config.qk_norm),
            usize::from(config.qkv_bias),
        ];
        counts.into_iter().for_each(|count| model.update((count as u64).to_le_bytes()));
        Self { model, weights: Sha256::new() }
    }

    fn norm(&mut self, values: &[f32]) {
        values.iter().for_each(|value| self.model.update(value.to_le_bytes()));
    }

    fn row(&mut self, values: &[f32]) {
        values.iter().for_each(|value| self.weights.update(value.to_le_bytes()));
    }

    fn finish(self) -> Fingerprint {
        let first = |hash: Sha256| {
            let bytes = hash.finalize();
            u64::from_be_bytes(std::array::from_fn(|i| bytes[i]))
        };
        Fingerprint { model: first(self.model), weights: first(self.weights) }
    }
}
