//! The parrot of the server's tests as a loaded model of the program.

#[path = "../../../qern-server/tests/parrot/mod.rs"]
mod parrot;

use std::time::Duration;

use qern::loading::LoadedModel;
use qern_engine::EngineConfig;
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
        open_adapter: None,
        summary: "a parrot".into(),
    }
}
