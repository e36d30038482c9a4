//! The tokenizer and chat template of a checkpoint, fetched from where they lie; nothing is built from them here.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::json::{self, Object};
use crate::vocabulary::{GgufVocabulary, JsonVocabulary, TokenizerConfig};

/// More tokens than any vocabulary has.
const MAX_TOKENS: usize = 1 << 24;

impl GgufVocabulary {
    /// The vocabulary of a GGUF file, copied out of it.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let metadata = file.metadata();
        let missing =
            |key: &str| Error::Checkpoint(format!("`{key}` is missing: the file has no tokenizer; convert the model again"));
        let model = metadata.str("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?.to_owned();
        let tokens = metadata.strings("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
        if tokens.is_empty() || tokens.len() > MAX_TOKENS {
            return Err(Error::Checkpoint(format!(
                "`tokenizer.ggml.tokens` must have 1 to {MAX_TOKENS} tokens; it has {}",
                tokens.len()
            )));
        }
        let token_types = metadata.i32s("tokenizer.ggml.token_type")?.unwrap_or_default();
        let scores = metadata.f32s("tokenizer.ggml.scores")?.unwrap_or_default();
        for (key, len) in [("token_type", token_types.len()), ("scores", scores.len())] {
            if len != 0 && len != tokens.len() {
                return Err(Error::Checkpoint(format!(
                    "`tokenizer.ggml.{key}` must have one value for each of the {} tokens; it has {len}",
                    tokens.len()
                )));
            }
        }
        let token_id = |name: &str| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match metadata.token_id(&key)? {
                Some(id) if id as usize >= tokens.len() => {
                    Err(Error::Checkpoint(format!("`{key}` must be below {}, the number of tokens; given {id}", tokens.len())))
                }
                id => Ok(id),
            }
        };
        Ok(Self {
            model,
            pre: metadata.str("tokenizer.ggml.pre")?.map(str::to_owned),
            token_types,
            scores,
            merges: metadata.strings("tokenizer.ggml.merges")?.unwrap_or_default(),
            bos_token_id: token_id("bos")?,
            eos_token_id: token_id("eos")?,
            pad_token_id: token_id("padding")?,
            unk_token_id: token_id("unknown")?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
            tokens,
        })
    }
}

pub(super) fn from_folder(folder: &Path) -> Result<JsonVocabulary> {
    let path = folder.join("tokenizer.json");
    if !path.exists() {
        let advice = if folder.join("tokenizer.model").exists() {
            "only a SentencePiece `tokenizer.model` is there; convert it with transformers' `save_pretrained`"
        } else {
            "fetch it from the model's repository"
        };
        return Err(Error::Checkpoint(format!("`tokenizer.json` is missing: {advice}")).in_file(folder));
    }
    let config_path = folder.join("tokenizer_config.json");
    let config = match json::read_object(&config_path)? {
        Some(config) => tokenizer_config(Object(&config)).map_err(|error| error.in_file(&config_path))?,
        None => TokenizerConfig::default(),
    };
    Ok(JsonVocabulary { tokenizer_json: json::read(&path)?, config })
}

fn tokenizer_config(config: Object<'_>) -> Result<TokenizerConfig> {
    // A token is a string, or an `AddedToken` with the string inside.
    let token = |key: &str| {
        let text = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned);
        config.typed(key, "a token", text)
    };
    Ok(TokenizerConfig {
        bos_token: token("bos_token")?,
        eos_token: token("eos_token")?,
        pad_token: token("pad_token")?,
        unk_token: token("unk_token")?,
        add_bos_token: config.bool("add_bos_token")?,
        add_eos_token: config.bool("add_eos_token")?,
    })
}

/// `chat_template.jinja`, else `chat_template.json`, else the template in `tokenizer_config.json`.
pub(super) fn template_of_folder(folder: &Path) -> Result<Option<String>> {
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        return String::from_utf8(json::read(&path)?)
            .map(Some)
            .map_err(|_| Error::Checkpoint("the chat template must be valid utf-8; it is not".into()).in_file(&path));
    }
    for name in ["chat_template.json", "tokenizer_config.json"] {
        let path = folder.join(name);
        let Some(object) = json::read_object(&path)? else { continue };
        let template = Object(&object).typed("chat_template", "a template or a list of named ones", template);
        if let Some(template) = template.map_err(|error| error.in_file(&path))? {
            return Ok(Some(template));
        }
    }
    Ok(None)
}

/// The string itself, or of a list of `{name, template}` the one called `default`, or the only one.
fn template(value: &Value) -> Option<String> {
    let Some(named) = value.as_array() else { return value.as_str().map(str::to_owned) };
    let default = named.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
    let chosen = default.or(if let [only] = &named[..] { Some(only) } else { None })?;
    chosen.get("template")?.as_str().map(str::to_owned)
}
