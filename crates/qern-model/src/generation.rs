//! How a model's authors want it sampled and where its answers end: `generation_config.json` and `config.json`, or GGUF
//! metadata. What a user asks for comes on top, elsewhere.

use std::path::Path;

use crate::batch::TokenId;
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Metadata, Value};
use crate::json::{self, Object};

/// Defaults that come with a model; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Above 0, at most 1.
    pub top_p: Option<f32>,
    /// 0 is off.
    pub top_k: Option<u32>,
    /// At least 0, below 1.
    pub min_p: Option<f32>,
    /// Above 0; 1 is off.
    pub repetition_penalty: Option<f32>,
    /// The tokens that end an answer, each once; empty when the model names none.
    pub eos_token_ids: Vec<TokenId>,
    /// The token before a text, whether or not it is added by default.
    pub bos_token_id: Option<TokenId>,
    /// The padding token.
    pub pad_token_id: Option<TokenId>,
    /// Whether the tokenizer puts `bos_token_id` before a text.
    pub add_bos: Option<bool>,
}

impl GenerationDefaults {
    /// From the files of a checkpoint folder, as far as they are there.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let read = |name: &str| -> Result<_> { Ok(json::read_object(&folder.join(name))?.unwrap_or_default()) };
        let (generation, config, tokenizer) =
            (read("generation_config.json")?, read("config.json")?, read("tokenizer_config.json")?);
        Self::from_objects(Object(&generation), Object(&config), Object(&tokenizer))
            .map_err(|error| error.in_file(&folder.join("generation_config.json")))
    }

    fn from_objects(generation: Object<'_>, config: Object<'_>, tokenizer: Object<'_>) -> Result<Self> {
        let either = |key: &str| generation.get(key).map_or(config, |_| generation).token_id(key);
        let eos_source = generation.get("eos_token_id").map_or(config, |_| generation);
        // `do_sample: false` is greedy, whatever temperature stands beside it.
        let greedy = generation.bool("do_sample")? == Some(false);
        let top_k = generation.count("top_k")?.map(|top_k| u32::try_from(top_k).unwrap_or(u32::MAX));
        Self {
            temperature: if greedy { Some(0.0) } else { generation.f32("temperature")? },
            top_p: generation.f32("top_p")?,
            top_k,
            min_p: generation.f32("min_p")?,
            repetition_penalty: generation.f32("repetition_penalty")?,
            eos_token_ids: eos_source.typed("eos_token_id", "a token id or a list of them", token_ids)?.unwrap_or_default(),
            bos_token_id: either("bos_token_id")?,
            pad_token_id: either("pad_token_id")?,
            add_bos: tokenizer.bool("add_bos_token")?,
        }
        .validated()
    }

    /// From the metadata of a GGUF file.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let metadata = file.metadata();
        let sampling = |name: &str| metadata.f32(&format!("general.sampling.{name}"));
        let top_k = metadata.get("general.sampling.top_k").and_then(Value::to_u64);
        Self {
            temperature: sampling("temp")?,
            top_p: sampling("top_p")?,
            top_k: top_k.map(|top_k| u32::try_from(top_k).unwrap_or(u32::MAX)),
            min_p: sampling("min_p")?,
            repetition_penalty: sampling("penalty_repeat")?,
            eos_token_ids: gguf_eos(metadata)?,
            bos_token_id: metadata.token_id("tokenizer.ggml.bos_token_id")?,
            pad_token_id: metadata.token_id("tokenizer.ggml.padding_token_id")?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
        }
        .validated()
    }

    fn validated(mut self) -> Result<Self> {
        let check = |name: &str, value: Option<f32>, rule: &str, holds: fn(f32) -> bool| match value {
            Some(value) if !holds(value) => Err(Error::Config(format!("`{name}` must be {rule}; given {value}"))),
            _ => Ok(()),
        };
        check("temperature", self.temperature, "at least 0", |v| v.is_finite() && v >= 0.0)?;
        check("top_p", self.top_p, "above 0 and at most 1", |v| v > 0.0 && v <= 1.0)?;
        check("min_p", self.min_p, "at least 0 and below 1", |v| (0.0..1.0).contains(&v))?;
        check("repetition_penalty", self.repetition_penalty, "above 0", |v| v.is_finite() && v > 0.0)?;
        let mut seen = std::collections::HashSet::new();
        self.eos_token_ids.retain(|&id| seen.insert(id));
        Ok(self)
    }
}

fn token_ids(value: &serde_json::Value) -> Option<Vec<TokenId>> {
    match value.as_array() {
        Some(ids) => ids.iter().map(json::as_token_id).collect(),
        None => json::as_token_id(value).map(|id| vec![id]),
    }
}

/// `tokenizer.ggml.token_type` of control tokens.
const CONTROL: i32 = 3;

/// Control tokens that end an answer by their name. A GGUF names one end token, while most models have two (the end of a turn
/// and the end of a text), which `generation_config.json` listed; llama.cpp finds the others in the same way.
const END_TOKENS: [&str; 6] = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>"];

fn gguf_eos(metadata: Metadata<'_>) -> Result<Vec<TokenId>> {
    let mut ids = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(metadata.token_id(&format!("tokenizer.ggml.{key}"))?);
    }
    let (Some(tokens), Some(types)) = (metadata.array("tokenizer.ggml.tokens")?, metadata.i32s("tokenizer.ggml.token_type")?)
    else {
        return Ok(ids);
    };
    for (id, (token, token_type)) in (0..).zip(tokens.iter().zip(types)) {
        if token_type == CONTROL && matches!(token, Ok(Value::String(text)) if END_TOKENS.contains(&text)) {
            ids.push(id);
        }
    }
    Ok(ids)
}
