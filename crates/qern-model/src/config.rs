//! The configuration of a model: the fields by which Llama, Qwen2, Qwen3 and Mistral differ, validated. Reading them from
//! `config.json` is in `config/hugging_face.rs`, from GGUF metadata in `config/gguf.rs`.

mod gguf;
mod hugging_face;

use crate::error::{Error, Result};
pub use qern_kernels::rope::{RopeLayout, RopeScaling};

/// Everything the transformer needs to know besides the weights. Values obtained from a file have been validated: counts are
/// positive and bounded, heads divide, every number is finite.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which family the model says it belongs to.
    pub architecture: Architecture,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward network between `up_proj` and `down_proj`.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Rows of the embedding, padding rows included: the width of the logits.
    pub vocab_size: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Positions the model was made for, scaling included.
    pub max_positions: usize,
    /// The rotary embedding.
    pub rope: RopeConfig,
    /// RMSNorm over each query and key head before the rotation (Qwen3).
    pub qk_norm: bool,
    /// Biases on `q_proj`, `k_proj` and `v_proj` (Qwen2).
    pub qkv_bias: bool,
    /// The output projection is the embedding.
    pub tied_embeddings: bool,
    /// Positions that a query sees, its own included; `None` sees all. The same in every layer.
    pub sliding_window: Option<usize>,
}

/// The model families that the transformer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Architecture {
    Qwen3,
    Qwen2,
    Llama,
    Mistral,
}

/// The rotary embedding of queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f32,
    /// Leading values of each head that are rotated; even, at most `head_dim`.
    pub num_dims: usize,
    /// Which values form a rotated pair.
    pub layout: RopeLayout,
    /// How the frequencies are stretched beyond the trained context.
    pub scaling: RopeScaling,
}

impl Architecture {
    /// Every architecture, in the order of the enum.
    pub const ALL: [Self; 4] = [Self::Qwen3, Self::Qwen2, Self::Llama, Self::Mistral];

    /// The `model_type` of `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qwen3 => "qwen3",
            Self::Qwen2 => "qwen2",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
        }
    }

    /// The architecture called `name`, or an error that lists those that exist.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.name() == name).ok_or_else(|| {
            let supported: Vec<_> = Self::ALL.into_iter().map(Self::name).collect();
            Error::Config(format!(
                "architecture `{}` is not supported; supported are {}",
                crate::error::shorten(name),
                supported.join(", ")
            ))
        })
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Upper bounds of the counts: far above any model, low enough that no product of two of them overflows 64 bits.
mod limit {
    pub const LAYERS: usize = 4096;
    pub const WIDTH: usize = 1 << 20;
    pub const HEADS: usize = 1 << 14;
    pub const VOCABULARY: usize = 1 << 24;
    pub const POSITIONS: usize = 1 << 30;
}

impl ModelConfig {
    /// Width of the queries: `num_heads * head_dim`.
    pub fn q_size(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of the keys and of the values: `num_kv_heads * head_dim`.
    pub fn kv_size(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Checks every rule that the transformer relies on. Files are read through this; call it on a configuration made by hand.
    pub fn validated(self) -> Result<Self> {
        count("num_hidden_layers", self.num_layers, limit::LAYERS)?;
        count("hidden_size", self.hidden_size, limit::WIDTH)?;
        count("intermediate_size", self.intermediate_size, limit::WIDTH)?;
        count("num_attention_heads", self.num_heads, limit::HEADS)?;
        count("num_key_value_heads", self.num_kv_heads, limit::HEADS)?;
        count("head_dim", self.head_dim, limit::WIDTH)?;
        count("vocab_size", self.vocab_size, limit::VOCABULARY)?;
        count("max_position_embeddings", self.max_positions, limit::POSITIONS)?;
        rule(self.num_heads.is_multiple_of(self.num_kv_heads), || {
            format!("num_key_value_heads must divide num_attention_heads; given {} and {}", self.num_kv_heads, self.num_heads)
        })?;
        rule(self.head_dim.is_multiple_of(2), || format!("head_dim must be even; given {}", self.head_dim))?;
        // Zero is possible in principle, but then a zero row divides by zero.
        rule(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0, || {
            format!("rms_norm_eps must be between 0 and 1; given {}", self.rms_norm_eps)
        })?;
        if let Some(window) = self.sliding_window {
            count("sliding_window", window, limit::POSITIONS)?;
        }
        self.rope.check(self.head_dim)?;
        Ok(self)
    }
}

impl RopeConfig {
    fn check(&self, head_dim: usize) -> Result<()> {
        let Self { theta, num_dims, .. } = *self;
        rule(theta.is_finite() && theta > 1.0, || format!("rope_theta must be a number above 1; given {theta}"))?;
        rule(num_dims > 0 && num_dims.is_multiple_of(2) && num_dims <= head_dim, || {
            format!("the rotated dimensions must be even and between 2 and head_dim {head_dim}; given {num_dims}")
        })?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            &RopeScaling::Linear { factor } => stretch(factor),
            &RopeScaling::DynamicNtk { factor, original_positions } => {
                // The exponent of the formula is dim / (dim - 2).
                rule(num_dims > 2, || format!("dynamic rope scaling needs more than 2 rotated dimensions; given {num_dims}"))?;
                original(original_positions).and(stretch(factor))
            }
            &RopeScaling::Yarn { factor, original_positions, beta_fast, beta_slow, attention_factor } => {
                original(original_positions)?;
                stretch(factor)?;
                positive("beta_fast", beta_fast)?;
                positive("beta_slow", beta_slow)?;
                rule(beta_fast >= beta_slow, || {
                    format!("beta_fast must be at least beta_slow; given {beta_fast} and {beta_slow}")
                })?;
                attention_factor.map_or(Ok(()), |factor| positive("attention_factor", factor))
            }
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                original(original_positions)?;
                stretch(factor)?;
                positive("low_freq_factor", low_freq_factor)?;
                positive("high_freq_factor", high_freq_factor)?;
                rule(high_freq_factor > low_freq_factor, || {
                    format!("high_freq_factor must be above low_freq_factor; given {high_freq_factor} and {low_freq_factor}")
                })
            }
            RopeScaling::Factors(factors) => {
                rule(factors.len() == num_dims / 2, || {
                    format!("rope_freqs must have {} values, half the rotated dimensions; it has {}", num_dims / 2, factors.len())
                })?;
                factors.iter().try_for_each(|&factor| positive("a value of rope_freqs", factor))
            }
        }
    }
}

fn stretch(factor: f32) -> Result<()> {
    rule((1.0..=1e6).contains(&factor), || format!("the rope scaling factor must be between 1 and 1e6; given {factor}"))
}

fn original(positions: usize) -> Result<()> {
    count("original_max_position_embeddings", positions, limit::POSITIONS)
}

fn positive(name: &str, value: f32) -> Result<()> {
    rule(value.is_finite() && value > 0.0, || format!("{name} must be a positive number; given {value}"))
}

fn count(name: &str, value: usize, limit: usize) -> Result<()> {
    rule((1..=limit).contains(&value), || format!("{name} must be between 1 and {limit}; given {value}"))
}

fn rule(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Config(message())) }
}

/// `hidden_size / num_heads`, where a file does not give the width of a head.
fn default_head_dim(hidden_size: usize, num_heads: usize) -> Result<usize> {
    rule(num_heads > 0 && hidden_size.is_multiple_of(num_heads), || {
        format!(
            "hidden_size must be a multiple of num_attention_heads when head_dim is absent; given {hidden_size} and {num_heads}"
        )
    })?;
    Ok(hidden_size / num_heads)
}

/// The positions that a stretch reaches. Nonsense in, nonsense out: `validated` refuses it.
fn stretched(positions: usize, factor: f32) -> usize {
    (positions as f64 * f64::from(factor)) as usize
}

/// The growth of attention with the stretch: YaRN paper, section 3.4.
fn yarn_mscale(factor: f32, mscale: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { (0.1 * f64::from(mscale) * f64::from(factor).ln() + 1.0) as f32 }
}
