//! Configurations: what the files of each family yield, and what is refused.

mod builders;

use builders::{Gguf, message};
use qern_model::config::{Architecture, ModelConfig, RopeConfig, RopeLayout, RopeScaling};
use qern_model::gguf::GgufFile;
use serde_json::{Value, json};

/// A `config.json` of Qwen3-4B, with changes: a `null` removes the key.
fn qwen3(changes: Value) -> qern_model::Result<ModelConfig> {
    let mut config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 2560, "intermediate_size": 9728,
        "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 262_144, "rope_theta": 5_000_000, "rope_scaling": null,
        "tie_word_embeddings": true, "hidden_act": "silu", "attention_bias": false, "use_sliding_window": false,
        "sliding_window": null,
    });
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            config.as_object_mut().unwrap().remove(key);
        } else {
            config[key] = value.clone();
        }
    }
    ModelConfig::from_json(config.to_string().as_bytes())
}

fn expected() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen3,
        num_layers: 36,
        hidden_size: 2560,
        intermediate_size: 9728,
        num_heads: 32,
        num_kv_heads: 8,
        head_dim: 128,
        vocab_size: 151_936,
        rms_norm_eps: 1e-6,
        max_positions: 262_144,
        rope: RopeConfig { theta: 5e6, num_dims: 128, layout: RopeLayout::HalfSplit, scaling: RopeScaling::None },
        qk_norm: true,
        qkv_bias: false,
        tied_embeddings: true,
        sliding_window: None,
    }
}

#[test]
fn the_fields_of_a_config_file_are_read() {
    let check = |changes: Value, change: fn(&mut ModelConfig)| {
        let mut config = expected();
        change(&mut config);
        assert_eq!(qwen3(changes.clone()).unwrap(), config, "{changes}");
    };
    check(json!({}), |_| {});
    check(json!({"num_key_value_heads": null}), |c| c.num_kv_heads = 32);
    check(json!({"head_dim": null}), |c| c.head_dim = 128);
    check(json!({"tie_word_embeddings": null}), |c| c.tied_embeddings = false);
    check(json!({"rms_norm_eps": null}), |_| {});
    check(json!({"max_position_embeddings": 262_144.0}), |_| {});
    check(json!({"model_type": null}), |_| {});
    check(json!({"auto_map": {"AutoModel": "evil.Model"}}), |_| {});
    check(json!({"model_type": "qwen2"}), |c| {
        (c.architecture, c.qk_norm, c.qkv_bias) = (Architecture::Qwen2, false, true);
    });
    check(json!({"model_type": "llama", "head_dim": null}), |c| {
        (c.architecture, c.qk_norm) = (Architecture::Llama, false);
        (c.head_dim, c.rope.num_dims) = (80, 80);
    });
    check(json!({"partial_rotary_factor": 0.5}), |c| c.rope.num_dims = 64);
}

#[test]
fn both_spellings_of_the_rotary_settings_are_read() {
    let check = |changes: Value, theta: f32, scaling: RopeScaling, max_positions: usize| {
        let config = qwen3(changes.clone()).unwrap();
        assert_eq!((config.rope.theta, config.rope.scaling, config.max_positions), (theta, scaling, max_positions), "{changes}");
    };
    let max = 262_144;
    check(json!({"rope_theta": null}), 1e4, RopeScaling::None, max);
    check(json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}), 1e6, RopeScaling::None, max);
    check(json!({"rope_scaling": {"type": "linear", "factor": 4.0}}), 5e6, RopeScaling::Linear { factor: 4.0 }, max);
    check(json!({"rope_parameters": {"rope_type": "linear", "factor": 4}}), 5e6, RopeScaling::Linear { factor: 4.0 }, max);
    check(
        json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        5e6,
        RopeScaling::DynamicNtk { factor: 2.0, original_positions: max },
        2 * max,
    );
    let yarn = |attention_factor| RopeScaling::Yarn {
        factor: 4.0,
        original_positions: 32_768,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: Some(attention_factor),
    };
    let with = |more: Value| {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768});
        scaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"max_position_embeddings": 40_960, "rope_scaling": scaling})
    };
    let ln4 = 4f64.ln();
    check(with(json!({})), 5e6, yarn((0.1 * ln4 + 1.0) as f32), 131_072);
    check(with(json!({"attention_factor": 1.5})), 5e6, yarn(1.5), 131_072);
    let ratio = (0.07 * ln4 + 1.0) as f32 / (0.1 * ln4 + 1.0) as f32;
    check(with(json!({"mscale": 0.7, "mscale_all_dim": 1.0})), 5e6, yarn(ratio), 131_072);
    check(with(json!({"mscale": 0.7})), 5e6, yarn((0.1 * ln4 + 1.0) as f32), 131_072);
    check(
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192}}),
        5e6,
        RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 8192 },
        max,
    );
}

#[test]
fn a_sliding_window_is_taken_as_the_family_takes_it() {
    let check = |changes: Value, window: Option<usize>| {
        assert_eq!(qwen3(changes.clone()).unwrap().sliding_window, window, "{changes}");
    };
    check(json!({"sliding_window": 4096}), None);
    check(json!({"sliding_window": 4096, "use_sliding_window": true, "max_window_layers": 0}), Some(4096));
    check(json!({"sliding_window": 4096, "use_sliding_window": true, "max_window_layers": 36}), None);
    check(json!({"sliding_window": 4096, "use_sliding_window": true, "layer_types": vec!["full_attention"; 36]}), None);
    check(json!({"sliding_window": 4096, "use_sliding_window": true, "layer_types": vec!["sliding_attention"; 36]}), Some(4096));
    check(json!({"model_type": "mistral", "sliding_window": 4096}), Some(4096));
    check(json!({"model_type": "mistral", "sliding_window": 262_144}), None);
    check(json!({"model_type": "llama", "sliding_window": 4096}), None);
}

#[test]
fn configurations_that_cannot_be_run_are_refused() {
    let check = |changes: Value, expected: &str| {
        let found = message(qwen3(changes));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    };
    check(json!({"model_type": "gpt2"}), "architecture `gpt2` is not supported; supported are qwen3, qwen2, llama, mistral");
    check(json!({"model_type": null, "architectures": ["BertModel"]}), "architecture `bertmodel` is not supported");
    check(json!({"model_type": null, "architectures": null}), "`model_type` is missing");
    check(json!({"model_type": "a\u{1b}[2J"}), r"architecture `a\u{1b}[2J` is not supported");
    for key in ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"] {
        check(json!({key: null}), &format!("`{key}` is missing; it must be a whole number"));
        check(json!({key: 0}), &format!("{key} must be between 1 and"));
        check(json!({key: -1}), &format!("`{key}` must be a whole number that is not negative; given -1"));
        check(json!({key: 1u64 << 60}), &format!("{key} must be between 1 and"));
        check(json!({key: "12"}), &format!("`{key}` must be a whole number that is not negative; given the string `12`"));
        check(json!({key: 1.5}), &format!("`{key}` must be a whole number that is not negative; given 1.5"));
    }
    check(json!({"num_key_value_heads": 0}), "num_key_value_heads must be between 1 and");
    check(json!({"num_key_value_heads": 5}), "num_key_value_heads must divide num_attention_heads; given 5 and 32");
    check(json!({"head_dim": 127}), "head_dim must be even; given 127");
    check(json!({"model_type": "llama", "head_dim": null, "num_attention_heads": 7}), "hidden_size must be a multiple of");
    check(json!({"model_type": "llama", "head_dim": null, "num_attention_heads": 0}), "hidden_size must be a multiple of");
    check(json!({"rms_norm_eps": 0}), "rms_norm_eps must be between 0 and 1; given 0");
    check(json!({"rms_norm_eps": -1e-6}), "rms_norm_eps must be between 0 and 1");
    check(json!({"rms_norm_eps": "NaN"}), "`rms_norm_eps` must be a number; given the string `NaN`");
    check(json!({"rope_theta": 0}), "rope_theta must be a number above 1; given 0");
    check(json!({"rope_theta": 1e300}), "rope_theta must be a number above 1; given inf");
    check(json!({"partial_rotary_factor": 0}), "partial_rotary_factor must be above 0 and at most 1; given 0");
    check(json!({"partial_rotary_factor": 0.01}), "the rotated dimensions must be even and between 2 and head_dim 128; given 1");
    check(json!({"hidden_act": "gelu"}), "hidden_act must be \"silu\"; given \"gelu\"");
    check(json!({"attention_bias": true}), "`attention_bias` must be false");
    check(json!({"mlp_bias": true}), "`mlp_bias` must be false");
    check(json!({"quantization_config": {"quant_method": "awq"}}), "the weights are quantized by `awq`");
    check(json!({"rope_scaling": {"type": "longrope"}}), "rope scaling of type `longrope` is not supported");
    check(json!({"rope_scaling": {"type": "linear"}}), "rope scaling of type `linear` must have `factor`");
    check(json!({"rope_scaling": {"type": "linear", "factor": 0.5}}), "factor must be between 1 and 1e6; given 0.5");
    check(json!({"rope_scaling": {"type": "yarn"}}), "rope scaling of type `yarn` must have `factor`");
    check(json!({"rope_scaling": {"type": "yarn", "factor": 2, "truncate": false}}), "`truncate` of yarn must be true");
    check(json!({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}}), "beta_fast must be at least");
    check(json!({"rope_scaling": {"type": "llama3", "factor": 2}}), "must have `low_freq_factor`");
    check(
        json!({"rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4}}),
        "high_freq_factor must be above low_freq_factor; given 4 and 4",
    );
    check(json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}), "per layer type (`full_attention`)");
    check(json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1}), "35 of 36 layers have it");
    check(json!({"use_sliding_window": true, "sliding_window": 8, "layer_types": ["full_attention"]}), "must have 36 items");
    check(json!({"model_type": "mistral", "sliding_window": 0}), "sliding_window must be between 1 and");
    assert!(message(ModelConfig::from_json(b"{")).contains("config.json is not valid"));
}

/// A GGUF of the named architecture with 2 layers, and no layers' tensors.
fn gguf(architecture: &str) -> Gguf {
    let key = |name: &str| format!("{architecture}.{name}");
    Gguf::default()
        .str("general.architecture", architecture)
        .u32(&key("block_count"), 2)
        .u32(&key("embedding_length"), 64)
        .u32(&key("feed_forward_length"), 96)
        .u32(&key("attention.head_count"), 4)
        .u32(&key("attention.head_count_kv"), 2)
        .u32(&key("context_length"), 128)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .strings("tokenizer.ggml.tokens", &["a", "b"])
        .zeros("token_embd.weight", &[64, 5])
}

fn from_gguf(gguf: Gguf) -> qern_model::Result<ModelConfig> {
    ModelConfig::from_gguf(&GgufFile::from_bytes(gguf.bytes())?)
}

#[test]
fn the_metadata_of_a_gguf_is_read() {
    let plain = ModelConfig {
        architecture: Architecture::Llama,
        num_layers: 2,
        hidden_size: 64,
        intermediate_size: 96,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 16,
        vocab_size: 5,
        rms_norm_eps: 1e-5,
        max_positions: 128,
        rope: RopeConfig { theta: 1e4, num_dims: 16, layout: RopeLayout::Interleaved, scaling: RopeScaling::None },
        qk_norm: false,
        qkv_bias: false,
        tied_embeddings: true,
        sliding_window: None,
    };
    let check = |gguf: Gguf, change: fn(&mut ModelConfig)| {
        let mut config = plain.clone();
        change(&mut config);
        assert_eq!(from_gguf(gguf).unwrap(), config);
    };
    let llama = || gguf("llama");
    check(llama(), |_| {});
    check(llama().zeros("output.weight", &[64, 5]), |c| c.tied_embeddings = false);
    check(llama().u32("llama.attention.key_length", 32), |c| (c.head_dim, c.rope.num_dims) = (32, 32));
    check(llama().u32("llama.rope.dimension_count", 8), |c| c.rope.num_dims = 8);
    check(llama().f32("llama.rope.freq_base", 5e5), |c| c.rope.theta = 5e5);
    check(llama().u32("llama.attention.sliding_window", 8), |c| c.sliding_window = Some(8));
    check(llama().f32("llama.rope.scaling.factor", 2.0), |c| c.rope.scaling = RopeScaling::Linear { factor: 2.0 });
    check(llama().f32("llama.rope.scale_linear", 2.0), |c| c.rope.scaling = RopeScaling::Linear { factor: 2.0 });
    check(llama().str("llama.rope.scaling.type", "none").f32("llama.rope.scaling.factor", 2.0), |_| {});
    let factors = [1f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let bytes = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
    check(llama().tensor("rope_freqs.weight", &[8], 0, bytes), |c| {
        c.rope.scaling = RopeScaling::Factors((1..=8).map(|factor| factor as f32).collect());
    });
    check(gguf("qwen2"), |c| {
        (c.architecture, c.qkv_bias, c.rope.layout) = (Architecture::Qwen2, true, RopeLayout::HalfSplit);
    });
    let yarn = gguf("qwen3")
        .str("qwen3.rope.scaling.type", "yarn")
        .f32("qwen3.rope.scaling.factor", 4.0)
        .u32("qwen3.rope.scaling.original_context_length", 64);
    check(yarn, |c| {
        (c.architecture, c.qk_norm, c.rope.layout) = (Architecture::Qwen3, true, RopeLayout::HalfSplit);
        c.max_positions = 256;
        c.rope.scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_positions: 64,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: Some((0.1 * 4f64.ln() + 1.0) as f32),
        };
    });
}

#[test]
fn gguf_metadata_that_cannot_be_run_is_refused() {
    let check = |gguf: Gguf, expected: &str| {
        let found = message(from_gguf(gguf));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    };
    let llama = || gguf("llama");
    check(Gguf::default(), "`general.architecture` is missing");
    check(gguf("gemma3"), "architecture `gemma3` is not supported; supported are qwen3, qwen2, llama, mistral");
    check(Gguf { entries: llama().entries[..1].to_vec(), ..llama() }, "`llama.embedding_length` is missing from the metadata");
    check(Gguf { tensors: vec![], ..llama() }, "the tensor `token_embd.weight` is missing");
    check(Gguf { tensors: vec![], ..llama() }.zeros("token_embd.weight", &[64]), "must have at most 1 tokens");
    check(llama().str("general.type", "adapter"), "the file is of type `adapter`");
    check(llama().u32("llama.expert_count", 8), "mixtures of experts are not supported");
    check(llama().u32("llama.attention.value_length", 8), "attention.value_length must equal the key length 16; given 8");
    check(llama().bool("llama.attention.causal", false), "attention must be causal");
    check(llama().f32("llama.logit_scale", 0.5), "`llama.logit_scale` must be 0; given 0.5, which is not supported");
    check(llama().f32("llama.rope.scaling.yarn_ext_factor", 0.0), "yarn_ext_factor` must be 1; given 0, which is not supported");
    check(llama().str("llama.rope.scaling.type", "longrope"), "rope scaling of type `longrope` is not supported");
    check(llama().str("llama.rope.freq_base", "x"), "`llama.rope.freq_base` must be a number; it is the string `x`");
    check(llama().f32("llama.rope.freq_base", f32::NAN), "rope_theta must be a number above 1; given NaN");
    check(llama().zeros("rope_freqs.weight", &[8]), "a value of rope_freqs must be a positive number; given 0");
    check(llama().zeros("rope_freqs.weight", &[4]), "rope_freqs must have 8 values, half the rotated dimensions; it has 4");
    check(llama().zeros("rope_factors_long.weight", &[8]), "longrope (the tensor `rope_factors_long.weight`)");
    let eps = |value| {
        Gguf { entries: [&llama().entries[..7], &llama().entries[8..]].concat(), ..llama() }
            .f32("llama.attention.layer_norm_rms_epsilon", value)
    };
    check(eps(f32::NAN), "rms_norm_eps must be between 0 and 1; given NaN");
    check(eps(f32::INFINITY), "rms_norm_eps must be between 0 and 1; given inf");
}
