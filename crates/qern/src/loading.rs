//! From a model's name to a running engine. Placeholder: the transformer is being built.

use anyhow::bail;
use qern_engine::EngineHandle;
use qern_model::config::ModelConfig;
use qern_model::generation::GenerationDefaults;
use qern_model::template::ChatTemplate;
use qern_model::tokenizer::Tokenizer;

use crate::cli::{ContextArgs, LogArgs, MachineArgs};

/// A model that is ready to answer.
pub struct LoadedModel {
    /// Its engine.
    pub engine: EngineHandle,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template; base models may have none.
    pub template: Option<ChatTemplate>,
    /// How its authors want it sampled.
    pub defaults: GenerationDefaults,
    /// Its configuration.
    pub config: ModelConfig,
    /// Tokens that prompt and answer may have together.
    pub context_len: usize,
    /// What was loaded, in which formats, how much memory, which instruction set.
    pub summary: String,
}

/// Loads the model called `name`, fetching it first if it is not here.
pub fn load(name: &str, machine: &MachineArgs, context: &ContextArgs, log: &LogArgs) -> anyhow::Result<LoadedModel> {
    let _ = (machine, context, log);
    bail!("`{name}` cannot be loaded: the transformer is not built yet")
}
