//! `ModelConfig` from the metadata of a GGUF file, as llama.cpp reads it, and from which tensors are there.

use qern_kernels::WeightFormat;

use super::{Architecture, ModelConfig, RopeConfig, RopeLayout, RopeScaling, rule};
use crate::error::{Error, Result, shorten};
use crate::gguf::{GgufFile, Metadata, Value};

impl ModelConfig {
    /// The configuration of a GGUF file.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let metadata = file.metadata();
        let name = metadata.str("general.architecture")?.ok_or_else(|| {
            Error::Config("`general.architecture` is missing; the file must be a language model, converted with it".into())
        })?;
        if let Some(kind) = metadata.str("general.type")?.filter(|&kind| kind != "model") {
            return Err(Error::Config(format!("`general.type` must be `model`; the file is of type `{}`", shorten(kind))));
        }
        let architecture = match Architecture::from_name(name)? {
            // Mistral models are converted as `llama`.
            Architecture::Mistral => return Err(Error::Config("a mistral gguf has the architecture `llama`".into())),
            other => other,
        };
        let keys = Keys { metadata, architecture: architecture.name() };
        keys.refuse_unsupported()?;
        let hidden_size = keys.required_count("embedding_length")?;
        let num_heads = keys.required_count("attention.head_count")?;
        let head_dim = match keys.count("attention.key_length")? {
            Some(head_dim) => head_dim,
            None => super::default_head_dim(hidden_size, num_heads)?,
        };
        let value_dim = keys.count("attention.value_length")?.unwrap_or(head_dim);
        rule(value_dim == head_dim, || {
            format!("attention.value_length must equal the key length {head_dim}; given {value_dim}, which is not supported")
        })?;
        let (rope, max_positions) = rope(file, &keys, head_dim)?;
        Self {
            architecture,
            num_layers: keys.required_count("block_count")?,
            hidden_size,
            intermediate_size: keys.required_count("feed_forward_length")?,
            num_heads,
            num_kv_heads: keys.count("attention.head_count_kv")?.unwrap_or(num_heads),
            head_dim,
            vocab_size: vocab_size(file)?,
            rms_norm_eps: keys.required("attention.layer_norm_rms_epsilon", Metadata::f32)?,
            max_positions,
            rope,
            qk_norm: architecture == Architecture::Qwen3,
            qkv_bias: architecture == Architecture::Qwen2 || file.tensor_info("blk.0.attn_q.bias").is_some(),
            tied_embeddings: file.tensor_info("output.weight").is_none(),
            sliding_window: keys.count("attention.sliding_window")?.filter(|&window| window > 0 && window < max_positions),
        }
        .validated()
    }
}

/// The rows of the embedding, which may be padded beyond the list of tokens.
fn vocab_size(file: &GgufFile) -> Result<usize> {
    let embedding = file.tensor_info("token_embd.weight");
    let rows = embedding.ok_or_else(|| Error::Config("the tensor `token_embd.weight` is missing".into()))?.rows();
    let num_tokens = file.metadata().array("tokenizer.ggml.tokens")?.map_or(0, |tokens| tokens.len());
    rule(num_tokens <= rows, || {
        format!("the vocabulary must have at most {rows} tokens, the rows of `token_embd.weight`; it has {num_tokens}")
    })?;
    Ok(rows)
}

/// The rotary embedding, and the positions that it reaches.
fn rope(file: &GgufFile, keys: &Keys<'_>, head_dim: usize) -> Result<(RopeConfig, usize)> {
    let context_length = keys.required_count("context_length")?;
    let num_dims = keys.count("rope.dimension_count")?.unwrap_or(head_dim);
    let theta = keys.f32("rope.freq_base")?.unwrap_or(10_000.0);
    let layout = if keys.architecture == "llama" { RopeLayout::Interleaved } else { RopeLayout::HalfSplit };
    let (mut scaling, max_positions) = scaling(keys, context_length)?;
    if let Some(factors) = frequency_factors(file)? {
        rule(scaling == RopeScaling::None, || "rope_freqs must be the only rope scaling; another type is set as well".into())?;
        scaling = RopeScaling::Factors(factors);
    }
    for name in ["rope_factors_long.weight", "rope_factors_short.weight"] {
        rule(file.tensor_info(name).is_none(), || format!("longrope (the tensor `{name}`) is not supported"))?;
    }
    Ok((RopeConfig { theta, num_dims, layout, scaling }, max_positions))
}

fn scaling(keys: &Keys<'_>, context_length: usize) -> Result<(RopeScaling, usize)> {
    let factor = match keys.f32("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.f32("rope.scale_linear")?,
    };
    // Zero is written for "none".
    let factor = factor.filter(|&factor| factor != 0.0).unwrap_or(1.0);
    // llama.cpp takes a factor without a type for a linear one.
    Ok(match keys.str("rope.scaling.type")?.unwrap_or("linear") {
        "none" => (RopeScaling::None, context_length),
        "linear" if factor == 1.0 => (RopeScaling::None, context_length),
        "linear" => (RopeScaling::Linear { factor }, context_length),
        "yarn" => {
            let original_positions = keys.count("rope.scaling.original_context_length")?.unwrap_or(context_length);
            let scaling = RopeScaling::Yarn {
                factor,
                original_positions,
                beta_fast: keys.f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                // The file's factor comes on top of the formula's: `rope_yarn` of ggml.
                attention_factor: Some(keys.f32("rope.scaling.attn_factor")?.unwrap_or(1.0) * super::yarn_mscale(factor, 1.0)),
            };
            (scaling, context_length.max(super::stretched(original_positions, factor)))
        }
        other => {
            return Err(Error::Config(format!(
                "rope scaling of type `{}` is not supported; supported are none, linear, yarn",
                shorten(other)
            )));
        }
    })
}

fn frequency_factors(file: &GgufFile) -> Result<Option<Vec<f32>>> {
    const NAME: &str = "rope_freqs.weight";
    if file.tensor_info(NAME).is_none() {
        return Ok(None);
    }
    let tensor = file.tensor(NAME)?;
    rule(tensor.format == WeightFormat::F32, || format!("`{NAME}` must be stored as F32; it is {}", tensor.format))?;
    Ok(Some(tensor.bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()))
}

/// The keys of one architecture, as in `qwen3.block_count`.
struct Keys<'a> {
    metadata: Metadata<'a>,
    architecture: &'static str,
}

impl<'a> Keys<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn count(&self, name: &str) -> Result<Option<usize>> {
        self.metadata.count(&self.key(name))
    }

    fn f32(&self, name: &str) -> Result<Option<f32>> {
        self.metadata.f32(&self.key(name))
    }

    fn str(&self, name: &str) -> Result<Option<&'a str>> {
        self.metadata.str(&self.key(name))
    }

    fn required_count(&self, name: &str) -> Result<usize> {
        self.required(name, Metadata::count)
    }

    fn required<T>(&self, name: &str, get: impl Fn(&Metadata<'a>, &str) -> Result<Option<T>>) -> Result<T> {
        let key = self.key(name);
        get(&self.metadata, &key)?
            .ok_or_else(|| Error::Config(format!("`{key}` is missing from the metadata; convert the model again")))
    }

    fn refuse_unsupported(&self) -> Result<()> {
        rule(self.count("expert_count")?.unwrap_or(0) == 0, || {
            "mixtures of experts are not supported; use a dense model".into()
        })?;
        rule(self.metadata.get(&self.key("attention.causal")) != Some(Value::Bool(false)), || {
            "attention must be causal; the file is of an encoder".into()
        })?;
        // (key, the value that changes nothing)
        let neutral = [
            ("attention.clamp_kqv", 0.0),
            ("attention.max_alibi_bias", 0.0),
            ("logit_scale", 0.0),
            ("residual_scale", 0.0),
            ("embedding_scale", 0.0),
            ("rope.scaling.yarn_log_multiplier", 0.0),
            ("rope.scaling.yarn_ext_factor", 1.0),
            ("rope.scaling.yarn_attn_factor", 1.0),
        ];
        for (name, neutral) in neutral {
            let value = self.f32(name)?.unwrap_or(neutral);
            rule(value == neutral, || format!("`{}` must be {neutral}; given {value}, which is not supported", self.key(name)))?;
        }
        Ok(())
    }
}
