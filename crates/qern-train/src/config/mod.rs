//! Everything that can be set for a run, from a TOML file, from flags, or from here. One precedence: flags, then the file, then the
//! defaults. Both the file and the flags are TOML tables before they are settings, so a flag can do nothing that the file cannot.

mod check;
mod table;
mod targets;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::TrainOn;
use crate::optim::Decay;

pub use table::{merge, settings_of};
pub use targets::{linear_modules, resolve};

/// All settings of a run, as the TOML file writes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The model, by any name that the program knows.
    pub model: Option<String>,
    /// The folder of the run, which becomes the adapter.
    pub out: Option<PathBuf>,
    /// Decides every random number of the run.
    pub seed: u64,
    /// The examples.
    pub data: DataSettings,
    /// What is trained.
    pub lora: LoraSettings,
    /// How it is trained.
    pub train: TrainSettings,
    /// What the report shows beside the curves.
    pub report: ReportSettings,
}

/// `[data]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataSettings {
    /// The file of examples.
    pub file: Option<PathBuf>,
    /// Examples held out of it: a part (below 1) or a number.
    pub held_out: HeldOut,
    /// A file of held-out examples, instead.
    pub held_out_file: Option<PathBuf>,
    /// Columns under other names, such as `prompt = "question"`.
    pub columns: BTreeMap<String, String>,
    /// A system prompt for every conversation without one.
    pub system: Option<String>,
    /// Prompts and completions are plain text, without the chat template.
    pub raw: bool,
    /// A chat template to use instead of the model's own.
    pub chat_template: Option<PathBuf>,
    /// The template's switch for thinking.
    pub think: Option<bool>,
    /// What of a conversation is learnt.
    pub train_on: TrainOn,
    /// Longer examples are refused [the model's context, at most 2048].
    pub max_tokens: Option<usize>,
    /// Cut longer examples instead.
    pub truncate: bool,
    /// Leave out rows that cannot be used.
    pub skip_bad_rows: bool,
}

/// How much is held out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeldOut {
    /// So many examples.
    Number(u64),
    /// A part of all examples.
    Part(f64),
}

impl Default for HeldOut {
    fn default() -> Self {
        Self::Part(0.05)
    }
}

impl HeldOut {
    /// Held-out examples of so many; at least one is left to train on.
    pub fn of(self, num_items: usize) -> usize {
        let number = match self {
            Self::Number(number) => number as usize,
            Self::Part(part) => (num_items as f64 * part).round() as usize,
        };
        number.min(num_items.saturating_sub(1))
    }
}

/// `[lora]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraSettings {
    /// The rank of every pair.
    pub rank: usize,
    /// The scale is alpha / rank [twice the rank].
    pub alpha: Option<f64>,
    /// Modules by name (`q_proj`), by pattern (`model.layers.*.mlp.*`), or `all-linear`.
    pub targets: Vec<String>,
    /// The rate at which inputs of A are dropped.
    pub dropout: f64,
    /// The scale is alpha / sqrt(rank) instead (Kalajdzievski 2023).
    pub rslora: bool,
    /// Train magnitudes and directions apart (Liu et al. 2024).
    pub dora: bool,
    /// Other ranks for modules by name or pattern.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other alphas for modules by name or pattern.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Modules to train whole: `embed_tokens`, `lm_head`.
    pub modules_to_save: Vec<String>,
}

impl Default for LoraSettings {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: None,
            targets: vec![targets::ALL_LINEAR.into()],
            dropout: 0.0,
            rslora: false,
            dora: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            modules_to_save: Vec::new(),
        }
    }
}

impl LoraSettings {
    /// The alpha that applies without a pattern.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(2.0 * self.rank as f64)
    }
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainSettings {
    /// Times that every example is seen.
    pub epochs: u64,
    /// Steps of the run, instead.
    pub steps: Option<u64>,
    /// Examples in a step.
    pub batch_size: usize,
    /// Pack examples into steps of so many tokens, instead.
    pub batch_tokens: Option<usize>,
    /// Tokens that are run at once; a step of more accumulates gradients over several runs. Bounds memory.
    pub run_tokens: usize,
    /// Put examples of about the same length into one step.
    pub group_by_length: bool,
    /// The learning rate at its peak.
    pub learning_rate: f64,
    /// What follows the warm-up.
    pub decay: Decay,
    /// Warm-up: a part of the run (below 1) or a number of steps.
    pub warmup: f64,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// AdamW's decay of the first moment.
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// The largest norm of the gradients; 0 does not clip.
    pub clip: f64,
    /// LoRA+: the learning rate of B over that of A; 1 is plain LoRA, the paper says 16.
    pub lora_plus: f64,
    /// DPO's beta, for preferences.
    pub dpo_beta: f64,
    /// Steps between evaluations of what is held out [a tenth of the run].
    pub evaluate_every: Option<u64>,
    /// Stop after so many evaluations without a gain [never].
    pub patience: Option<u32>,
    /// Steps between checkpoints [as `evaluate_every`].
    pub checkpoint_every: Option<u64>,
    /// Checkpoints to keep, beside the best.
    pub keep_checkpoints: usize,
    /// Take the adapter with the best held-out loss rather than the last.
    pub keep_best: bool,
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            epochs: 3,
            steps: None,
            batch_size: 16,
            batch_tokens: None,
            run_tokens: 2048,
            group_by_length: false,
            learning_rate: 2e-4,
            decay: Decay::Cosine,
            warmup: 0.05,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            clip: 1.0,
            lora_plus: 1.0,
            dpo_beta: 0.1,
            evaluate_every: None,
            patience: None,
            checkpoint_every: None,
            keep_checkpoints: 2,
            keep_best: true,
        }
    }
}

/// `[report]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportSettings {
    /// Held-out examples to answer before and after training.
    pub samples: usize,
    /// Tokens of such an answer.
    pub max_tokens: usize,
    /// Held-out examples whose answers are compared with the expected ones, before and after: for short, exact answers.
    pub exact_match: usize,
    /// Examples shown to the untrained model before it answers each of those.
    pub shots: usize,
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self { samples: 4, max_tokens: 96, exact_match: 0, shots: 0 }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: None,
            out: None,
            seed: 42,
            data: DataSettings::default(),
            lora: LoraSettings::default(),
            train: TrainSettings::default(),
            report: ReportSettings::default(),
        }
    }
}

impl Settings {
    /// The settings that decide a run's numbers, by name. A run is resumed only when they are as they were.
    pub fn identity(&self) -> BTreeMap<String, Value> {
        const NOT_NUMBERS: [&str; 3] = ["train.keep_checkpoints", "train.checkpoint_every", "train.keep_best"];
        let mut identity = BTreeMap::new();
        let sections = [("seed", Value::from(self.seed)), ("lora", json(&self.lora)), ("train", json(&self.train))];
        for (section, value) in sections {
            match value {
                Value::Object(keys) => {
                    identity.extend(keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
                }
                value => _ = identity.insert(section.into(), value),
            }
        }
        NOT_NUMBERS.iter().for_each(|name| _ = identity.remove(*name));
        identity
    }

    /// As a TOML file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are a table of plain values")
    }
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("settings are plain values")
}
