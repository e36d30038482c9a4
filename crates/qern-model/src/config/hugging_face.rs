//! `ModelConfig` from `config.json`, read as transformers reads it: both spellings of the rotary settings, its defaults, and
//! a refusal of every switch that would change the computation into one that the transformer does not do.

use serde_json::{Map, Value};

use super::{Architecture, ModelConfig, RopeConfig, RopeLayout, RopeScaling, rule};
use crate::error::{Error, Result, shorten};
use crate::json::Object;

impl ModelConfig {
    /// The configuration in the text of a `config.json`.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let object: Map<String, Value> =
            serde_json::from_slice(json).map_err(|error| Error::Config(format!("config.json is not valid: {error}")))?;
        Self::from_object(Object(&object))
    }

    pub(crate) fn from_object(config: Object<'_>) -> Result<Self> {
        let architecture = architecture(config)?;
        refuse_unsupported(config)?;
        let hidden_size = config.required_count("hidden_size")?;
        let num_heads = config.required_count("num_attention_heads")?;
        let num_layers = config.required_count("num_hidden_layers")?;
        let max_position_embeddings = config.required_count("max_position_embeddings")?;
        let head_dim = match (config.count("head_dim")?, architecture) {
            (Some(head_dim), _) => head_dim,
            // The default of `Qwen3Config`.
            (None, Architecture::Qwen3) => 128,
            (None, _) => super::default_head_dim(hidden_size, num_heads)?,
        };
        let (rope, max_positions) = rope(config, head_dim, max_position_embeddings)?;
        Self {
            architecture,
            num_layers,
            hidden_size,
            intermediate_size: config.required_count("intermediate_size")?,
            num_heads,
            num_kv_heads: config.count("num_key_value_heads")?.unwrap_or(num_heads),
            head_dim,
            vocab_size: config.required_count("vocab_size")?,
            rms_norm_eps: config.f32("rms_norm_eps")?.unwrap_or(1e-6),
            max_positions,
            rope,
            qk_norm: architecture == Architecture::Qwen3,
            qkv_bias: architecture == Architecture::Qwen2,
            tied_embeddings: config.bool("tie_word_embeddings")?.unwrap_or(false),
            sliding_window: sliding_window(config, architecture, num_layers)?.filter(|&window| window < max_positions),
        }
        .validated()
    }
}

fn architecture(config: Object<'_>) -> Result<Architecture> {
    if let Some(model_type) = config.str("model_type")? {
        return Architecture::from_name(model_type);
    }
    let class = config.list("architectures")?.and_then(|classes| classes.first()).and_then(Value::as_str);
    let class = class.ok_or_else(|| Error::Config("`model_type` is missing, as in \"qwen3\"".into()))?;
    Architecture::from_name(&class.strip_suffix("ForCausalLM").unwrap_or(class).to_lowercase())
}

fn refuse_unsupported(config: Object<'_>) -> Result<()> {
    if config.get("auto_map").is_some() {
        tracing::warn!("config.json asks for code of its own (`auto_map`), which is never run; the built-in model is used");
    }
    if let Some(activation) = config.str("hidden_act")?.filter(|&activation| activation != "silu") {
        return Err(Error::Config(format!("hidden_act must be \"silu\"; given \"{}\"", shorten(activation))));
    }
    for (key, why) in
        [("attention_bias", "biases on all attention projections"), ("mlp_bias", "biases in the feed-forward network")]
    {
        rule(config.bool(key)? != Some(true), || format!("`{key}` must be false; {why} are not supported"))?;
    }
    if let Some(quantization) = config.object("quantization_config")? {
        let method = quantization.str("quant_method")?.unwrap_or("an unnamed method");
        return Err(Error::Config(format!(
            "the weights are quantized by `{}`, which is not supported in safetensors; use the original checkpoint or a gguf \
             file of the model",
            shorten(method)
        )));
    }
    Ok(())
}

/// The rotary embedding, and the positions that it reaches.
fn rope(config: Object<'_>, head_dim: usize, max_position_embeddings: usize) -> Result<(RopeConfig, usize)> {
    // The older spelling wins where both are given, as in transformers.
    let parameters = match config.object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => config.object("rope_parameters")?,
    };
    let empty = Map::new();
    let parameters = parameters.unwrap_or(Object(&empty));
    for layer_type in ["full_attention", "sliding_attention"] {
        rule(parameters.get(layer_type).is_none(), || {
            format!("rope parameters per layer type (`{layer_type}`) are not supported")
        })?;
    }
    let theta = match parameters.f32("rope_theta")? {
        Some(theta) => theta,
        None => config.f32("rope_theta")?.unwrap_or(10_000.0),
    };
    let rotated = match parameters.f32("partial_rotary_factor")? {
        Some(part) => part,
        None => config.f32("partial_rotary_factor")?.unwrap_or(1.0),
    };
    rule(rotated > 0.0 && rotated <= 1.0, || format!("partial_rotary_factor must be above 0 and at most 1; given {rotated}"))?;
    let num_dims = (head_dim as f64 * f64::from(rotated)) as usize;
    let (scaling, max_positions) = scaling(parameters, max_position_embeddings)?;
    Ok((RopeConfig { theta, num_dims, layout: RopeLayout::HalfSplit, scaling }, max_positions))
}

fn scaling(parameters: Object<'_>, max_position_embeddings: usize) -> Result<(RopeScaling, usize)> {
    let rope_type = match parameters.str("rope_type")? {
        Some(rope_type) => rope_type,
        None => parameters.str("type")?.unwrap_or("default"),
    };
    let required = |key: &str| {
        let value = parameters.f32(key)?;
        value.ok_or_else(|| Error::Config(format!("rope scaling of type `{}` must have `{key}`", shorten(rope_type))))
    };
    let given_original = parameters.count("original_max_position_embeddings")?;
    let original_positions = given_original.unwrap_or(max_position_embeddings);
    Ok(match rope_type {
        "default" => (RopeScaling::None, max_position_embeddings),
        "linear" => (RopeScaling::Linear { factor: required("factor")? }, max_position_embeddings),
        "dynamic" => {
            // The formula is relative to max_position_embeddings, whatever original_max_position_embeddings says.
            let factor = required("factor")?;
            let scaling = RopeScaling::DynamicNtk { factor, original_positions: max_position_embeddings };
            (scaling, super::stretched(max_position_embeddings, factor))
        }
        "yarn" => {
            let factor = match (parameters.f32("factor")?, given_original) {
                (Some(factor), _) => factor,
                (None, Some(original)) => max_position_embeddings as f32 / original as f32,
                (None, None) => required("factor")?,
            };
            rule(parameters.bool("truncate")? != Some(false), || {
                "`truncate` of yarn must be true; a range that is not rounded is not supported".into()
            })?;
            let scaling = RopeScaling::Yarn {
                factor,
                original_positions,
                beta_fast: parameters.f32("beta_fast")?.unwrap_or(32.0),
                beta_slow: parameters.f32("beta_slow")?.unwrap_or(1.0),
                attention_factor: Some(attention_factor(parameters, factor)?),
            };
            (scaling, max_position_embeddings.max(super::stretched(original_positions, factor)))
        }
        "llama3" => {
            let scaling = RopeScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original_positions,
            };
            (scaling, max_position_embeddings)
        }
        other => {
            return Err(Error::Config(format!(
                "rope scaling of type `{}` is not supported; supported are default, linear, dynamic, yarn, llama3",
                shorten(other)
            )));
        }
    })
}

/// `_compute_yarn_parameters` of transformers.
fn attention_factor(parameters: Object<'_>, factor: f32) -> Result<f32> {
    if let Some(attention_factor) = parameters.f32("attention_factor")? {
        return Ok(attention_factor);
    }
    let nonzero = |value: Option<f32>| value.filter(|&value| value != 0.0);
    Ok(match (nonzero(parameters.f32("mscale")?), nonzero(parameters.f32("mscale_all_dim")?)) {
        (Some(mscale), Some(all_dim)) => super::yarn_mscale(factor, mscale) / super::yarn_mscale(factor, all_dim),
        _ => super::yarn_mscale(factor, 1.0),
    })
}

fn sliding_window(config: Object<'_>, architecture: Architecture, num_layers: usize) -> Result<Option<usize>> {
    let in_use = match architecture {
        Architecture::Llama => false,
        Architecture::Mistral => true,
        Architecture::Qwen2 | Architecture::Qwen3 => config.bool("use_sliding_window")?.unwrap_or(false),
    };
    // `"sliding_window": null` is none; no such key is the default of transformers.
    let window = if config.0.contains_key("sliding_window") { config.count("sliding_window")? } else { Some(4096) };
    let Some(window) = window.filter(|_| in_use) else { return Ok(None) };
    let num_sliding = match config.list("layer_types")? {
        Some(layer_types) => {
            rule(layer_types.len() == num_layers, || {
                format!("`layer_types` must have {num_layers} items, one for each layer; it has {}", layer_types.len())
            })?;
            let known = |layer_type: &&Value| {
                layer_type.as_str().is_some_and(|name| ["full_attention", "sliding_attention"].contains(&name))
            };
            rule(layer_types.iter().all(|layer_type| known(&layer_type)), || {
                "`layer_types` must be \"full_attention\" or \"sliding_attention\" each; another is given".into()
            })?;
            layer_types.iter().filter(|&layer_type| layer_type == "sliding_attention").count()
        }
        None if architecture == Architecture::Mistral => num_layers,
        // The default of `Qwen2Config` and `Qwen3Config`.
        None => num_layers.saturating_sub(config.count("max_window_layers")?.unwrap_or(28)),
    };
    match num_sliding {
        0 => Ok(None),
        all if all == num_layers => Ok(Some(window)),
        some => Err(Error::Config(format!(
            "a sliding window must hold in all layers or none; {some} of {num_layers} layers have it, which is not supported"
        ))),
    }
}
