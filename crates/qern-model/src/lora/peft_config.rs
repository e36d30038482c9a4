//! `adapter_config.json` as PEFT writes it: what each key means for running the adapter, and which keys ask for something that
//! Qern does not compute. Source: `peft/tuners/lora/config.py` and `peft/tuners/tuners_utils.py` (0.21). No tensors here.

use std::path::Path;

use regex_automata::meta::Regex;
use serde_json::Value;

use super::site::Site;
use crate::config::ModelConfig;
use crate::error::{Error, Result, shorten};
use crate::json::{self, Object};

/// The name of the file.
pub(super) const CONFIG_NAME: &str = "adapter_config.json";
/// Where Qern records the base that an adapter was trained on.
pub(super) const BASE_KEY: &str = "qern_base";

/// What the file says, checked.
#[derive(Debug)]
pub(super) struct PeftConfig {
    pub rank: usize,
    pub alpha: f64,
    pub rank_pattern: Vec<Pattern<usize>>,
    pub alpha_pattern: Vec<Pattern<f64>>,
    pub use_rslora: bool,
    pub use_dora: bool,
    pub targets: Targets,
    pub exclude: Targets,
    pub layers: Option<Vec<usize>>,
    /// Whether the layers are found by a pattern of their own, so that which modules must be there is not known.
    pub has_layers_pattern: bool,
    pub modules_to_save: Vec<String>,
    pub base_model: Option<String>,
    pub fingerprint: Option<String>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// A value for the modules whose path ends in what the expression matches.
#[derive(Debug)]
pub(super) struct Pattern<T> {
    regex: Regex,
    value: T,
}

/// `target_modules` and `exclude_modules`.
#[derive(Debug)]
pub(super) enum Targets {
    Unknown,
    /// Module paths, or their ends.
    Names(Vec<String>),
    /// An expression that matches whole paths.
    Regex(Box<Regex>),
}

/// Keys that must be absent, `null`, `false`, 0 or empty, and what they ask for.
const REFUSED: [(&str, &str); 14] = [
    ("lora_bias", "biases on A and B"),
    ("alora_invocation_tokens", "activated LoRA"),
    ("arrow_config", "routing between adapters"),
    ("kasa_config", "KaSA"),
    ("layer_replication", "a base with repeated layers"),
    ("megatron_config", "parallel layers of Megatron"),
    ("monteclora_config", "MonteCLoRA"),
    ("target_parameters", "LoRA on parameters that are not linear layers"),
    ("trainable_token_indices", "single trained tokens"),
    ("use_bdlora", "block-diagonal LoRA"),
    ("use_qalora", "QALoRA"),
    ("ensure_weight_tying", "an adapter of tied weights"),
    ("use_vera", "VeRA"),
    ("use_mora", "MoRA"),
];

/// Initializations that subtract from the base's weights, so that the file alone does not say what the adapter adds.
const CHANGED_BASE: [&str; 6] = ["pissa", "olora", "corda", "loftq", "lora_ga", "mica"];

/// Keys that matter to training alone, or that are read elsewhere.
const HARMLESS: [&str; 34] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "qern_base",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
    "velora_config",
    "local_files_only",
];

/// More patterns than any adapter has; each is compiled.
const MAX_PATTERNS: usize = 4096;
const MAX_PATTERN_CHARS: usize = 4096;

impl PeftConfig {
    /// Reads the file in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG_NAME);
        let object = json::read_object(&path)?.ok_or_else(|| {
            let message =
                format!("`{CONFIG_NAME}` is missing; a PEFT adapter is a folder with it and `adapter_model.safetensors`");
            Error::Adapter(message).in_file(folder)
        })?;
        Self::parse(Object(&object)).map_err(|error| error.in_file(&path))
    }

    fn parse(object: Object<'_>) -> Result<Self> {
        let mut notes = Vec::new();
        match object.str("peft_type")? {
            Some("LORA") => {}
            Some(other) => return refuse(format!("`peft_type` must be `LORA`; given `{}`", shorten(other))),
            None => return refuse("`peft_type` is missing; it must be `LORA`".into()),
        }
        if let Some(task) = object.str("task_type")?.filter(|&task| task != "CAUSAL_LM") {
            return refuse(format!("`task_type` must be `CAUSAL_LM`; given `{}`", shorten(task)));
        }
        if let Some(bias) = object.str("bias")?.filter(|&bias| bias != "none") {
            return refuse(format!("`bias` must be `none`: trained biases are not supported; given `{}`", shorten(bias)));
        }
        for (key, meaning) in REFUSED {
            if object.get(key).is_some_and(is_set) {
                return refuse(format!("`{key}` asks for {meaning}, which is not supported"));
            }
        }
        if let Some(Value::String(init)) = object.get("init_lora_weights")
            && CHANGED_BASE.iter().any(|name| init.to_lowercase().starts_with(name))
        {
            return refuse(format!(
                "`init_lora_weights` is `{}`, which changes the base's own weights; save the adapter with \
                 `path_initial_model_for_weight_conversion`, so that it fits the base as it is",
                shorten(init)
            ));
        }
        if object.bool("fan_in_fan_out")? == Some(true) {
            notes.push(
                "`fan_in_fan_out` has no effect: this model's layers are not stored transposed (PEFT ignores it too)".into(),
            );
        }
        for (key, value) in object.0 {
            if is_set(value) && !HARMLESS.contains(&key.as_str()) && !REFUSED.iter().any(|(refused, _)| refused == key) {
                notes.push(format!("the key `{}` is not known and has no effect", shorten(key)));
            }
        }
        let rank = object.count("r")?.unwrap_or(8);
        let alpha = match object.get("lora_alpha") {
            None => 8.0,
            Some(value) => finite("lora_alpha", value)?,
        };
        let strings = |key: &str| -> Result<Vec<String>> {
            let list = object.list(key)?.unwrap_or_default();
            let text = |value: &Value| value.as_str().map(str::to_owned);
            list.iter()
                .map(|value| {
                    text(value).ok_or_else(|| Error::Adapter(format!("`{key}` must be a list of strings; it holds {value}")))
                })
                .collect()
        };
        let layers = match object.get("layers_to_transform") {
            None => None,
            Some(value) => {
                let one = |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok());
                let list: Option<Vec<usize>> = match value {
                    Value::Array(list) => list.iter().map(one).collect(),
                    value => one(value).map(|layer| vec![layer]),
                };
                // An empty list is no restriction.
                list.ok_or_else(|| Error::Adapter("`layers_to_transform` must be layer numbers".into()))
                    .map(|list| Some(list).filter(|list| !list.is_empty()))?
            }
        };
        Ok(Self {
            rank,
            alpha,
            rank_pattern: patterns(object, "rank_pattern", |value| {
                value.as_u64().and_then(|rank| usize::try_from(rank).ok()).ok_or("a whole number")
            })?,
            alpha_pattern: patterns(object, "alpha_pattern", |value| value.as_f64().filter(|v| v.is_finite()).ok_or("a number"))?,
            use_rslora: object.bool("use_rslora")?.unwrap_or(false),
            use_dora: object.bool("use_dora")?.unwrap_or(false),
            targets: Targets::parse(object, "target_modules")?,
            exclude: Targets::parse(object, "exclude_modules")?,
            layers,
            has_layers_pattern: object.get("layers_pattern").is_some_and(is_set),
            modules_to_save: strings("modules_to_save")?,
            base_model: object.str("base_model_name_or_path")?.filter(|name| !name.is_empty()).map(str::to_owned),
            fingerprint: object.str(BASE_KEY)?.map(str::to_owned),
            notes,
        })
    }

    /// The rank that a module must have.
    pub fn rank_of(&self, path: &str) -> usize {
        first_match(&self.rank_pattern, path).copied().unwrap_or(self.rank)
    }

    /// The alpha of a module.
    pub fn alpha_of(&self, path: &str) -> f64 {
        first_match(&self.alpha_pattern, path).copied().unwrap_or(self.alpha)
    }

    /// What B A x is multiplied with.
    pub fn scale_of(&self, path: &str, rank: usize) -> f64 {
        self.alpha_of(path) / if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 }
    }

    /// Whether the configuration says that a module has an adapter; `None` where that is not known.
    pub fn targets(&self, site: Site) -> Option<bool> {
        let path = site.to_string();
        if self.saves(site) || self.exclude.matches(&path) == Some(true) {
            return Some(false);
        }
        if self.targets.matches(&path)? {
            return match (site, &self.layers) {
                (_, None) => Some(true),
                _ if self.has_layers_pattern => None,
                (Site::Layer(layer, _), Some(layers)) => Some(layers.contains(&layer)),
                // Without a layer number in its path, a module is targeted whichever layers are.
                (_, Some(_)) => None,
            };
        }
        Some(false)
    }

    /// Whether `modules_to_save` names a module.
    pub fn saves(&self, site: Site) -> bool {
        let path = site.to_string();
        self.modules_to_save.iter().any(|name| is_end_of(name, &path))
    }

    /// Modules of the base that must have an adapter by this configuration.
    pub fn expected<'a>(&'a self, config: &'a ModelConfig) -> impl Iterator<Item = Site> + 'a {
        Site::all(config).filter(|&site| self.targets(site) == Some(true))
    }
}

impl Targets {
    fn parse(object: Object<'_>, key: &str) -> Result<Self> {
        match object.get(key) {
            None => Ok(Self::Unknown),
            Some(Value::String(expression)) => Ok(Self::Regex(Box::new(compile(key, expression, "^(?:", ")$")?))),
            Some(Value::Array(list)) if list.is_empty() => Ok(Self::Unknown),
            Some(Value::Array(list)) => {
                let names: Option<Vec<String>> = list.iter().map(|value| value.as_str().map(str::to_owned)).collect();
                names.map(Self::Names).ok_or_else(|| Error::Adapter(format!("`{key}` must hold module names")))
            }
            Some(_) => refuse(format!("`{key}` must be a list of module names or an expression")),
        }
    }

    fn matches(&self, path: &str) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Names(names) => Some(names.iter().any(|name| is_end_of(name, path))),
            Self::Regex(regex) => Some(regex.is_match(path)),
        }
    }
}

/// Whether `name` is the path, or its end from a dot on.
fn is_end_of(name: &str, path: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn first_match<'a, T>(patterns: &'a [Pattern<T>], path: &str) -> Option<&'a T> {
    patterns.iter().find(|pattern| pattern.regex.is_match(path)).map(|pattern| &pattern.value)
}

/// PEFT matches `(.*\.)?(KEY)$` from the start of the path, and takes the first key that does.
fn patterns<T>(object: Object<'_>, key: &str, value: impl Fn(&Value) -> Result<T, &'static str>) -> Result<Vec<Pattern<T>>> {
    let Some(map) = object.object(key)? else { return Ok(Vec::new()) };
    if map.0.len() > MAX_PATTERNS {
        return refuse(format!("`{key}` must have at most {MAX_PATTERNS} entries; it has {}", map.0.len()));
    }
    map.0
        .iter()
        .map(|(expression, given)| {
            let value = value(given).map_err(|expected| {
                Error::Adapter(format!("`{key}` must give {expected} for `{}`; given {given}", shorten(expression)))
            })?;
            Ok(Pattern { regex: compile(key, expression, r"^(?:.*\.)?(?:", ")$")?, value })
        })
        .collect()
}

fn compile(key: &str, expression: &str, before: &str, after: &str) -> Result<Regex> {
    if expression.chars().count() > MAX_PATTERN_CHARS {
        return refuse(format!("expressions of `{key}` must have at most {MAX_PATTERN_CHARS} characters"));
    }
    Regex::new(&format!("{before}{expression}{after}"))
        .map_err(|error| Error::Adapter(format!("`{key}`: the expression `{}` cannot be used: {error}", shorten(expression))))
}

fn finite(key: &str, value: &Value) -> Result<f64> {
    value
        .as_f64()
        .filter(|value| value.is_finite())
        .ok_or_else(|| Error::Adapter(format!("`{key}` must be a number; given {value}")))
}

/// Whether a value asks for anything.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Bool(true) => true,
    }
}

fn refuse<T>(message: String) -> Result<T> {
    Err(Error::Adapter(message))
}
