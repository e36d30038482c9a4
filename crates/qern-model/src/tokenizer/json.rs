//! Reads `tokenizer.json`. Accepts what the supported model families use and refuses the rest by name: a part that is
//! skipped would give other ids than the model was trained on.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::model::{Model, ModelParts};
use super::normalizer::{Normalizer, Step};
use super::pattern::Pattern;
use super::pretokenizer::{Behavior, METASPACE, PreTokenizer, Prepend, Spelling, Split};
use super::{AddedToken, Parts, error};
use crate::Result;
use crate::batch::TokenId;
use crate::error::shorten;
use crate::vocabulary::TokenizerConfig;

const MAX_FILE_BYTES: usize = 512 << 20;
const MAX_STEPS: usize = 32;

/// GPT-2's splitting pattern, which `ByteLevel` brings along.
pub const GPT2_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The parts of a tokenizer out of its files.
pub fn read(bytes: &[u8], config: &TokenizerConfig) -> Result<Parts> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(error(format!("tokenizer.json must have at most {MAX_FILE_BYTES} bytes; given {}", bytes.len())));
    }
    let file: File =
        serde_json::from_slice(bytes).map_err(|cause| error(format!("tokenizer.json: {}", shorten(&cause.to_string()))))?;
    let mut normalizer = Normalizer::default();
    read_normalizer(&file.normalizer, &mut normalizer.0)?;
    let pretokenizer = read_pretokenizer(&file.pre_tokenizer, &normalizer)?;
    let added = file.added_tokens.into_iter().map(AddedToken::from).collect::<Vec<_>>();
    let model = read_model(file.model)?;
    let around = read_post_processor(&file.post_processor);

    let id_of = |text: &str| added.iter().find(|token| token.text == text).map(|token| token.id).or_else(|| model.id_of(text));
    let named = |text: &Option<String>| text.as_deref().and_then(id_of);
    let before = named(&around.before);
    let after = named(&around.after);
    let (bos, eos, pad) = (named(&config.bos_token).or(before), named(&config.eos_token).or(after), named(&config.pad_token));
    Ok(Parts {
        normalizer,
        pretokenizer,
        add_bos: config.add_bos_token.unwrap_or(before.is_some()) && bos.is_some(),
        add_eos: config.add_eos_token.unwrap_or(after.is_some()) && eos.is_some(),
        bos,
        eos,
        pad,
        model,
        added,
    })
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<JsonAddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: JsonModel,
}

#[derive(Deserialize)]
struct JsonAddedToken {
    id: TokenId,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

impl From<JsonAddedToken> for AddedToken {
    fn from(token: JsonAddedToken) -> Self {
        let JsonAddedToken { id, content: text, special, single_word, lstrip, rstrip } = token;
        Self { id, text, special, single_word, lstrip, rstrip }
    }
}

#[derive(Deserialize)]
struct JsonModel {
    r#type: Option<String>,
    #[serde(default)]
    vocab: Vocab,
    #[serde(default)]
    merges: Vec<Merge>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// Unigram's vocabulary is a list: read as nothing, so that the error can name the model's type.
#[derive(Deserialize)]
#[serde(untagged)]
enum Vocab {
    Map(HashMap<String, TokenId>),
    Other(serde::de::IgnoredAny),
}

impl Default for Vocab {
    fn default() -> Self {
        Self::Map(HashMap::new())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

fn read_model(model: JsonModel) -> Result<Model> {
    let kind = model.r#type.as_deref().unwrap_or("BPE");
    let Vocab::Map(vocab) = model.vocab else {
        return Err(error(format!("a `{}` model cannot be read; supported: `BPE` with a vocabulary object", shorten(kind))));
    };
    if kind != "BPE" {
        return Err(error(format!("a `{}` model cannot be read; supported: `BPE`", shorten(kind))));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(error("`model.dropout` must be null: it is for training"));
    }
    for (name, affix) in
        [("continuing_subword_prefix", model.continuing_subword_prefix), ("end_of_word_suffix", model.end_of_word_suffix)]
    {
        if affix.is_some_and(|affix| !affix.is_empty()) {
            return Err(error(format!("`model.{name}` must be empty: tokens with affixes are not supported")));
        }
    }
    let merges = model.merges.into_iter().map(Merge::into_pair).collect::<Result<_>>()?;
    Model::new(ModelParts {
        vocab,
        merges,
        unk_token: model.unk_token,
        fuse_unk: model.fuse_unk,
        byte_fallback: model.byte_fallback,
        ignore_merges: model.ignore_merges,
    })
}

impl Merge {
    fn into_pair(self) -> Result<(String, String)> {
        match self {
            Self::Pair(left, right) => Ok((left, right)),
            Self::Line(line) => match line.split_once(' ') {
                Some((left, right)) if !right.contains(' ') => Ok((left.into(), right.into())),
                _ => Err(error(format!("a merge must be two tokens with a space between; given `{}`", shorten(&line)))),
            },
        }
    }
}

fn read_normalizer(value: &Value, steps: &mut Vec<Step>) -> Result<()> {
    if steps.len() >= MAX_STEPS {
        return Err(error(format!("a tokenizer must have at most {MAX_STEPS} normalizers")));
    }
    match kind(value) {
        None => {}
        Some("NFC") => steps.push(Step::Nfc),
        Some("NFD") => steps.push(Step::Nfd),
        Some("NFKC") => steps.push(Step::Nfkc),
        Some("NFKD") => steps.push(Step::Nfkd),
        Some("Prepend") => steps.push(Step::Prepend(string(value, "prepend")?)),
        Some("Replace") => match value["pattern"]["String"].as_str() {
            Some("") | None => return Err(error("a `Replace` normalizer must have a non-empty string pattern")),
            Some(from) => steps.push(Step::Replace { from: from.into(), to: string(value, "content")? }),
        },
        Some("Sequence") => {
            for part in list(value, "normalizers")? {
                read_normalizer(part, steps)?;
            }
        }
        Some(other) => return Err(unsupported("normalizer", other, "NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence")),
    }
    Ok(())
}

fn read_pretokenizer(value: &Value, normalizer: &Normalizer) -> Result<PreTokenizer> {
    let mut splits = Vec::new();
    let mut spelling = None;
    read_pretokenizer_part(value, &mut splits, &mut spelling)?;
    let spelling = match spelling {
        Some(spelling) => spelling,
        None => {
            // SentencePiece models of the older kind: normalization makes the spaces `▁`, nothing is split.
            let writes_metaspace = |step: &Step| matches!(step, Step::Replace { to, .. } if to.contains(METASPACE));
            if !normalizer.0.iter().any(writes_metaspace) {
                return Err(error("the pre-tokenizer must have a `ByteLevel` or `Metaspace` part; there is none"));
            }
            let prepends = normalizer.0.iter().any(|step| matches!(step, Step::Prepend(_)));
            let prepend = if prepends { Prepend::Always } else { Prepend::Never };
            Spelling::Metaspace { prepend, split: false, replace: false }
        }
    };
    Ok(PreTokenizer { spelling, splits })
}

fn read_pretokenizer_part(value: &Value, splits: &mut Vec<Split>, spelling: &mut Option<Spelling>) -> Result<()> {
    if splits.len() >= MAX_STEPS {
        return Err(error(format!("a tokenizer must have at most {MAX_STEPS} pre-tokenizers")));
    }
    if let Some(kind) = kind(value)
        && kind != "Sequence"
        && spelling.is_some()
    {
        return Err(error(format!("`ByteLevel` or `Metaspace` must be the last pre-tokenizer; `{}` follows", shorten(kind))));
    }
    let isolated = |pattern: &str| {
        Ok::<_, crate::Error>(Split { pattern: Pattern::new(pattern)?, behavior: Behavior::Isolated, invert: false })
    };
    match kind(value) {
        None => {}
        Some("Sequence") => {
            for part in list(value, "pretokenizers")? {
                read_pretokenizer_part(part, splits, spelling)?;
            }
        }
        Some("Split") => {
            let pattern = match (value["pattern"]["Regex"].as_str(), value["pattern"]["String"].as_str()) {
                (Some(regex), _) => Pattern::new(regex)?,
                (None, Some(text)) if !text.is_empty() => Pattern::literal(text)?,
                _ => return Err(error("a `Split` pre-tokenizer must have a pattern")),
            };
            let behavior = Behavior::deserialize(&value["behavior"]).map_err(|_| {
                unsupported(
                    "`Split` behavior",
                    value["behavior"].as_str().unwrap_or("none"),
                    "Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous",
                )
            })?;
            splits.push(Split { pattern, behavior, invert: flag(value, "invert", false)? });
        }
        Some("Digits") => splits.push(isolated(if flag(value, "individual_digits", false)? { r"\p{N}" } else { r"\p{N}+" })?),
        Some("ByteLevel") => {
            let add_prefix_space = flag(value, "add_prefix_space", true)?;
            if add_prefix_space && !splits.is_empty() {
                return Err(error("`add_prefix_space` of `ByteLevel` must be false after other pre-tokenizers"));
            }
            if flag(value, "use_regex", true)? {
                splits.push(isolated(GPT2_PATTERN)?);
            }
            *spelling = Some(Spelling::ByteLevel { add_prefix_space });
        }
        Some("Metaspace") => {
            if !splits.is_empty() {
                return Err(error("`Metaspace` must be the only pre-tokenizer"));
            }
            let replacement = value["replacement"].as_str().unwrap_or_default();
            if replacement.chars().ne([METASPACE]) {
                return Err(error(format!("`Metaspace` must replace by `{METASPACE}`; given `{}`", shorten(replacement))));
            }
            let prepend = match value["prepend_scheme"].as_str() {
                None if flag(value, "add_prefix_space", true)? => Prepend::Always,
                Some("always") => Prepend::Always,
                Some("first") => Prepend::First,
                None | Some("never") => Prepend::Never,
                Some(other) => return Err(unsupported("`Metaspace` prepend scheme", other, "always, first, never")),
            };
            *spelling = Some(Spelling::Metaspace { prepend, split: flag(value, "split", true)?, replace: true });
        }
        Some(other) => return Err(unsupported("pre-tokenizer", other, "Sequence, Split, Digits, ByteLevel, Metaspace")),
    }
    Ok(())
}

/// The special tokens that a post-processor puts around a text.
#[derive(Default)]
struct Around {
    before: Option<String>,
    after: Option<String>,
}

fn read_post_processor(value: &Value) -> Around {
    let mut around = Around::default();
    let parts = match kind(value) {
        Some("Sequence") => value["processors"].as_array().map(Vec::as_slice).unwrap_or_default(),
        _ => std::slice::from_ref(value),
    };
    for template in parts.iter().filter(|part| kind(part) == Some("TemplateProcessing")) {
        let single = template["single"].as_array().map(Vec::as_slice).unwrap_or_default();
        let special = |part: Option<&Value>| Some(part?["SpecialToken"]["id"].as_str()?.to_owned());
        around.before = special(single.first());
        around.after = special(single.last().filter(|_| single.len() > 1));
    }
    around
}

fn kind(value: &Value) -> Option<&str> {
    if value.is_null() { None } else { Some(value["type"].as_str().unwrap_or("untyped")) }
}

fn string(value: &Value, field: &str) -> Result<String> {
    value[field].as_str().map(Into::into).ok_or_else(|| error(format!("`{field}` of a normalizer must be a string")))
}

fn list<'a>(value: &'a Value, field: &str) -> Result<&'a [Value]> {
    value[field].as_array().map(Vec::as_slice).ok_or_else(|| error(format!("`{field}` of a `Sequence` must be a list")))
}

fn flag(value: &Value, field: &str, default: bool) -> Result<bool> {
    match &value[field] {
        Value::Null => Ok(default),
        Value::Bool(flag) => Ok(*flag),
        _ => Err(error(format!("`{field}` must be true or false"))),
    }
}

fn unsupported(what: &str, given: &str, supported: &str) -> crate::Error {
    error(format!("{what} `{}` is not supported; supported: {supported}", shorten(given)))
}
