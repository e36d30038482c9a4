//! The names of tensors: the checkpoint's (Hugging Face) on the left, GGUF's on the right, and the shapes that a
//! configuration asks of them. One table for weights, biases and adapters alike.

use crate::config::ModelConfig;

/// Modules that exist once.
const MODEL: [(&str, &str); 3] = [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// Modules of every layer: `model.layers.N.` on the left, `blk.N.` on the right.
const LAYER: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The GGUF name of a tensor: `model.layers.3.self_attn.q_proj.weight` is `blk.3.attn_q.weight`.
pub fn gguf_name(name: &str) -> Option<String> {
    let (module, parameter) = name.rsplit_once('.')?;
    if let Some((_, gguf)) = MODEL.iter().find(|(checkpoint, _)| *checkpoint == module) {
        return Some(format!("{gguf}.{parameter}"));
    }
    let (layer, module) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let (_, gguf) = LAYER.iter().find(|(checkpoint, _)| *checkpoint == module)?;
    Some(format!("blk.{}.{gguf}.{parameter}", layer.parse::<u32>().ok()?))
}

/// The checkpoint's name of a tensor: the inverse of `gguf_name`.
pub fn checkpoint_name(gguf: &str) -> Option<String> {
    let (module, parameter) = gguf.rsplit_once('.')?;
    if let Some((checkpoint, _)) = MODEL.iter().find(|(_, gguf)| *gguf == module) {
        return Some(format!("{checkpoint}.{parameter}"));
    }
    let (layer, module) = module.strip_prefix("blk.")?.split_once('.')?;
    let (checkpoint, _) = LAYER.iter().find(|(_, gguf)| *gguf == module)?;
    Some(format!("model.layers.{}.{checkpoint}.{parameter}", layer.parse::<u32>().ok()?))
}

/// A tensor that a configuration asks for, by its checkpoint name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// The checkpoint's name.
    pub name: String,
    /// Output features; 1 for a vector.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

/// Every tensor of a model with this configuration, in the order in which a forward pass meets them.
pub fn expected_tensors(config: &ModelConfig) -> Vec<ExpectedTensor> {
    let mut tensors = Vec::new();
    let mut add = |name: String, rows, cols| tensors.push(ExpectedTensor { name, rows, cols });
    let ModelConfig { hidden_size, intermediate_size, head_dim, .. } = *config;
    let (q_size, kv_size) = (config.q_size(), config.kv_size());
    add("model.embed_tokens.weight".into(), config.vocab_size, hidden_size);
    for layer in 0..config.num_layers {
        let mut add = |name: &str, rows, cols| add(format!("model.layers.{layer}.{name}"), rows, cols);
        add("input_layernorm.weight", 1, hidden_size);
        for (projection, size) in [("q_proj", q_size), ("k_proj", kv_size), ("v_proj", kv_size)] {
            add(&format!("self_attn.{projection}.weight"), size, hidden_size);
            if config.qkv_bias {
                add(&format!("self_attn.{projection}.bias"), 1, size);
            }
        }
        if config.qk_norm {
            add("self_attn.q_norm.weight", 1, head_dim);
            add("self_attn.k_norm.weight", 1, head_dim);
        }
        add("self_attn.o_proj.weight", hidden_size, q_size);
        add("post_attention_layernorm.weight", 1, hidden_size);
        add("mlp.gate_proj.weight", intermediate_size, hidden_size);
        add("mlp.up_proj.weight", intermediate_size, hidden_size);
        add("mlp.down_proj.weight", hidden_size, intermediate_size);
    }
    add("model.norm.weight".into(), 1, hidden_size);
    if !config.tied_embeddings {
        add("lm_head.weight".into(), config.vocab_size, hidden_size);
    }
    tensors
}

/// Whether a tensor that no configuration asks for may be left out without changing what the model computes.
pub(super) fn is_harmless(name: &str, config: &ModelConfig) -> bool {
    // Tables that are computed from the configuration, the copy of a tied embedding, and GGUF's factors, read with it.
    let computed = name.ends_with(".rotary_emb.inv_freq") || name == "rope_freqs.weight";
    let tied_copy = name == "lm_head.weight" && config.tied_embeddings;
    computed || tied_copy
}
