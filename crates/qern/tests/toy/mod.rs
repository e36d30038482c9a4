//! The parrot of the server's tests as a loaded model of the program.

#[path = "../../../qern-server/tests/parrot/mod.rs"]
mod parrot;

use std::time::Duration;

use qern::loading::LoadedModel;
use qern_engine::EngineConfig;
use qern_model::config::{Architecture, ModelConfig, RopeConfig, RopeLayout, RopeScaling};
use qern_model::generation::GenerationDefaults;
use qern_model::template::ChatTemplate;

pub use parrot::*;

/// The model, its context and the time that a step takes.
pub fn load(context_len: usize, step: Duration) -> LoadedModel {
    let (engine, tokenizer) = parrot::engine(context_len, step, EngineConfig::default());
    let template = ChatTemplate::of_model(None, &tokenizer).unwrap();
    LoadedModel {
        engine,
        tokenizer,
        template: Some(template),
        template_source: None,
        defaults: GenerationDefaults { temperature: Some(0.0), ..GenerationDefaults::default() },
        eos: vec![IM_END],
        config: config(context_len),
        context_len,
        summary: "a parrot".into(),
    }
}

fn config(context_len: usize) -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        num_layers: 1,
        hidden_size: 64,
        intermediate_size: 64,
        num_heads: 1,
        num_kv_heads: 1,
        head_dim: 64,
        vocab_size: VOCAB_SIZE,
        rms_norm_eps: 1e-5,
        max_positions: context_len,
        rope: RopeConfig { theta: 10_000.0, num_dims: 64, layout: RopeLayout::HalfSplit, scaling: RopeScaling::None },
        qk_norm: false,
        qkv_bias: false,
        tied_embeddings: true,
        sliding_window: None,
    }
}
