//! Builds the tokenizer that a GGUF file describes by tokens, merges or scores, and the name of a pre-tokenizer. What each
//! name means is fixed by llama.cpp's converter (`convert_hf_to_gguf.py`, `get_vocab_base_pre`), which derives the name from
//! the original `tokenizer.json`; the patterns here are those of the originals.

use std::collections::HashMap;

use super::json::GPT2_PATTERN;
use super::model::{Model, ModelParts};
use super::normalizer::{Normalizer, Step};
use super::pattern::Pattern;
use super::pretokenizer::{Behavior, METASPACE, PreTokenizer, Prepend, Spelling, Split};
use super::{AddedToken, Parts, error};
use crate::Result;
use crate::batch::TokenId;
use crate::error::shorten;
use crate::vocabulary::GgufVocabulary;

/// The values of `tokenizer.ggml.pre` that are understood.
pub const SUPPORTED_PRE_TYPES: &[&str] = &[
    "default",
    "gpt-2",
    "qwen2",
    "qwen35",
    "deepseek-r1-qwen",
    "megrez",
    "stablelm2",
    "llama-bpe",
    "llama3",
    "llama-v3",
    "llama4",
    "gpt-4o",
    "falcon3",
    "pixtral",
    "lfm2",
    "dbrx",
    "smaug-bpe",
    "tekken",
    "smollm",
    "starcoder",
    "refact",
    "command-r",
    "olmo",
    "phi-2",
    "deepseek-v3",
    "deepseek-coder",
];

/// The parts of a tokenizer out of GGUF metadata.
pub fn read(vocabulary: &GgufVocabulary) -> Result<Parts> {
    let is_listed = |list: usize| list == 0 || list == vocabulary.tokens.len();
    if !is_listed(vocabulary.token_types.len()) || !is_listed(vocabulary.scores.len()) {
        return Err(error(format!(
            "`tokenizer.ggml.token_type` and `scores` must be as long as `tokens` ({}); they have {} and {}",
            vocabulary.tokens.len(),
            vocabulary.token_types.len(),
            vocabulary.scores.len()
        )));
    }
    match vocabulary.model.as_str() {
        "gpt2" => read_byte_level(vocabulary),
        "llama" => read_sentencepiece(vocabulary),
        other => Err(error(format!(
            "`tokenizer.ggml.model` `{}` is not supported; supported: `gpt2` (byte-level BPE), `llama` (SentencePiece BPE)",
            shorten(other)
        ))),
    }
}

/// What a pre-tokenizer's name stands for.
struct Pre {
    patterns: &'static [&'static str],
    nfc: bool,
    ignore_merges: bool,
    add_bos: bool,
}

const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

fn pre_of(name: &str) -> Option<Pre> {
    let pre = |patterns| Pre { patterns, nfc: false, ignore_merges: false, add_bos: false };
    Some(match name {
        "gpt-2" | "phi-2" | "olmo" => pre(&[GPT2_PATTERN]),
        "default" => pre(&[r"[\p{P}$+<=>\^~|]+", GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]"]),
        "smollm" | "starcoder" | "refact" | "command-r" => pre(&[r"\p{N}", GPT2_PATTERN]),
        "qwen2" | "deepseek-r1-qwen" | "megrez" => Pre { nfc: true, ..pre(&[QWEN2]) },
        "qwen35" => Pre { nfc: true, ..pre(&[QWEN35]) },
        "stablelm2" => pre(&[QWEN2]),
        "llama-bpe" | "llama3" | "llama-v3" | "pixtral" | "falcon3" | "lfm2" => {
            Pre { ignore_merges: true, add_bos: true, ..pre(&[LLAMA3]) }
        }
        "dbrx" | "smaug-bpe" => pre(&[LLAMA3]),
        "llama4" | "gpt-4o" => pre(&[GPT4O]),
        "tekken" => Pre { ignore_merges: true, add_bos: true, ..pre(&[TEKKEN]) },
        "deepseek-v3" => pre(&[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3]),
        "deepseek-coder" => pre(&["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"]),
        _ => return None,
    })
}

fn read_byte_level(vocabulary: &GgufVocabulary) -> Result<Parts> {
    let name = vocabulary.pre.as_deref().unwrap_or("default");
    let pre = pre_of(name).ok_or_else(|| {
        let supported = SUPPORTED_PRE_TYPES.join(", ");
        error(format!("`tokenizer.ggml.pre` `{}` is not supported; supported: {supported}", shorten(name)))
    })?;
    let split = |pattern: &&str| Ok(Split { pattern: Pattern::new(pattern)?, behavior: Behavior::Isolated, invert: false });
    let splits = pre.patterns.iter().map(split).collect::<Result<_>>()?;
    let merges = vocabulary.merges.iter().map(|line| merge_pair(line)).collect::<Result<_>>()?;
    let (vocab, added) = vocab_of(vocabulary, false)?;
    Ok(Parts {
        model: Model::new(ModelParts { vocab, merges, ignore_merges: pre.ignore_merges, ..Default::default() })?,
        added,
        normalizer: Normalizer(if pre.nfc { vec![Step::Nfc] } else { vec![] }),
        pretokenizer: PreTokenizer { spelling: Spelling::ByteLevel { add_prefix_space: false }, splits },
        bos: vocabulary.bos_token_id,
        eos: vocabulary.eos_token_id,
        pad: vocabulary.pad_token_id,
        add_bos: vocabulary.add_bos.unwrap_or(pre.add_bos),
        add_eos: vocabulary.add_eos.unwrap_or(false),
    })
}

/// Llama-2's and Mistral-v0.1's kind: the file has scores instead of merges; a merge's rank is the score of its result.
fn read_sentencepiece(vocabulary: &GgufVocabulary) -> Result<Parts> {
    if vocabulary.scores.is_empty() {
        return Err(error("`tokenizer.ggml.scores` is missing; a `llama` vocabulary needs it"));
    }
    let (vocab, added) = vocab_of(vocabulary, true)?;
    let merges = merges_of_scores(vocabulary, &vocab)?;
    let unk = vocabulary.unk_token_id.and_then(|id| vocabulary.tokens.get(id as usize)).filter(|text| vocab.contains_key(*text));
    let mut steps = vec![Step::Replace { from: " ".into(), to: METASPACE.into() }];
    let prepend = if vocabulary.add_space_prefix.unwrap_or(true) { Prepend::Always } else { Prepend::Never };
    if prepend == Prepend::Always {
        steps.insert(0, Step::Prepend(METASPACE.into()));
    }
    // Where no token has a `▁` after anything else, no merge crosses the place before a `▁` that begins a word.
    let is_safe = vocab.contains_key(METASPACE.encode_utf8(&mut [0; 4])) && !vocab.keys().any(|token| has_inner_metaspace(token));
    let splits = if !is_safe {
        vec![]
    } else {
        vec![Split { pattern: Pattern::new("▁+[^▁]*")?, behavior: Behavior::Isolated, invert: false }]
    };
    Ok(Parts {
        model: Model::new(ModelParts {
            merges,
            unk_token: unk.cloned(),
            vocab,
            fuse_unk: true,
            byte_fallback: true,
            ignore_merges: false,
        })?,
        added,
        normalizer: Normalizer(steps),
        pretokenizer: PreTokenizer { spelling: Spelling::Metaspace { prepend, split: false, replace: false }, splits },
        bos: vocabulary.bos_token_id,
        eos: vocabulary.eos_token_id,
        pad: vocabulary.pad_token_id,
        add_bos: vocabulary.add_bos.unwrap_or(true),
        add_eos: vocabulary.add_eos.unwrap_or(false),
    })
}

/// `tokenizer.ggml.token_type`.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

fn type_of(vocabulary: &GgufVocabulary, id: usize) -> i32 {
    vocabulary.token_types.get(id).copied().unwrap_or(1)
}

/// The vocabulary to merge in, and the tokens beside it. Control tokens are left out of the former: no text may merge into
/// one.
fn vocab_of(vocabulary: &GgufVocabulary, keep_unknown: bool) -> Result<(HashMap<String, TokenId>, Vec<AddedToken>)> {
    let mut vocab = HashMap::with_capacity(vocabulary.tokens.len());
    let mut added = Vec::new();
    for (id, text) in vocabulary.tokens.iter().enumerate() {
        let kind = type_of(vocabulary, id);
        let id = id as TokenId;
        if matches!(kind, CONTROL | UNKNOWN | USER_DEFINED) {
            added.push(AddedToken { id, text: text.clone(), special: kind != USER_DEFINED, ..Default::default() });
        }
        let is_mergeable = kind != CONTROL && (kind != UNKNOWN || keep_unknown);
        if is_mergeable && vocab.insert(text.clone(), id).is_some() {
            return Err(error(format!("every token must be listed once; `{}` is listed twice", shorten(text))));
        }
    }
    Ok((vocab, added))
}

/// `left right`; the left one may itself begin with a space.
fn merge_pair(line: &str) -> Result<(String, String)> {
    let first = line.chars().next().map_or(0, char::len_utf8);
    match line[first..].split_once(' ') {
        Some((left, right)) => Ok((format!("{}{left}", &line[..first]), right.into())),
        None => Err(error(format!("a merge must be two tokens with a space between; given `{}`", shorten(line)))),
    }
}

/// Every way to join a token out of two, best score first; the order of ties is that of transformers' `generate_merges`.
fn merges_of_scores(vocabulary: &GgufVocabulary, vocab: &HashMap<String, TokenId>) -> Result<Vec<(String, String)>> {
    struct Join<'a> {
        score: f32,
        left: &'a str,
        right: &'a str,
        num_chars: (usize, usize),
    }
    let part = |text: &str| {
        let id = *vocab.get(text)?;
        (!matches!(type_of(vocabulary, id as usize), UNKNOWN | BYTE)).then_some(id)
    };
    let mut joins = Vec::new();
    for token in &vocabulary.tokens {
        let Some(id) = part(token) else { continue };
        let num_chars = token.chars().take(MAX_SENTENCEPIECE_CHARS + 1).count();
        if num_chars > MAX_SENTENCEPIECE_CHARS {
            let name = shorten(token);
            return Err(error(format!("a SentencePiece token must have at most {MAX_SENTENCEPIECE_CHARS} characters: `{name}`")));
        }
        let mut ways: Vec<_> = token
            .char_indices()
            .enumerate()
            .skip(1)
            .filter_map(|(index, (at, _))| {
                let (left, right) = token.split_at(at);
                let ids = (part(left)?, part(right)?);
                let score = vocabulary.scores[id as usize];
                Some((ids, Join { score, left, right, num_chars: (index, num_chars - index) }))
            })
            .collect();
        ways.sort_by_key(|(ids, _)| *ids);
        joins.extend(ways.into_iter().map(|(_, join)| join));
    }
    joins.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.num_chars.cmp(&a.num_chars)));
    Ok(joins.into_iter().map(|join| (join.left.into(), join.right.into())).collect())
}

const MAX_SENTENCEPIECE_CHARS: usize = 256;

fn has_inner_metaspace(token: &str) -> bool {
    token.trim_start_matches(METASPACE).contains(METASPACE)
}
