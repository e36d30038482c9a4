//! Text to token ids and back: the model's own byte-level or SentencePiece BPE, from `tokenizer.json` or from GGUF metadata.
//! The merging is the `tokenizers` crate's; splitting, special tokens and bytes are done here, in time linear in the text and
//! without backtracking, so that neither a hostile file nor a hostile prompt can hang it. Knows nothing of chats.

mod added;
mod byte_level;
mod gguf;
mod json;
mod model;
mod normalizer;
mod pattern;
mod piece_cache;
mod pretokenizer;

pub use added::AddedToken;
pub use gguf::SUPPORTED_PRE_TYPES;

use std::ops::Range;
use std::sync::Arc;

use crate::batch::TokenId;
use crate::template::{RenderedPrompt, TemplateTokens};
use crate::vocabulary::{GgufVocabulary, JsonVocabulary, TokenizerSource};
use crate::{Error, Result};
use added::{AddedTokens, Recognize};
use model::Model;
use normalizer::Normalizer;
use piece_cache::PieceCache;
use pretokenizer::PreTokenizer;

/// A model's tokenizer. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Tokenizer(Arc<Inner>);

/// What happens to the text of special tokens in a string to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// `<|im_end|>` is ten characters like any others. For text of users.
    AsText,
    /// `<|im_end|>` is the token. For text of templates, and for raw prompts of someone who knows.
    Parse,
}

/// Everything that a file's reader has to find out. The readers are `json` and `gguf`.
struct Parts {
    model: Model,
    added: Vec<AddedToken>,
    normalizer: Normalizer,
    pretokenizer: PreTokenizer,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    pad: Option<TokenId>,
    add_bos: bool,
    add_eos: bool,
}

#[derive(Debug)]
struct Inner {
    model: Model,
    added: AddedTokens,
    normalizer: Normalizer,
    pretokenizer: PreTokenizer,
    cache: PieceCache,
    bytes: Vec<Option<Box<[u8]>>>, // [vocab_size], None where the file has no such id
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    pad: Option<TokenId>,
    add_bos: bool,
    add_eos: bool,
}

impl Tokenizer {
    /// The tokenizer of a checkpoint.
    pub fn new(source: &TokenizerSource) -> Result<Self> {
        match source {
            TokenizerSource::Json(vocabulary) => Self::from_json_vocabulary(vocabulary),
            TokenizerSource::Gguf(vocabulary) => Self::from_gguf(vocabulary),
        }
    }

    /// From the bytes of a `tokenizer.json` alone, which does not say which tokens begin and end a text
    /// (`from_json_vocabulary` does).
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        json::read(bytes, &Default::default()).and_then(Self::from_parts)
    }

    /// From `tokenizer.json` and what `tokenizer_config.json` adds to it.
    pub fn from_json_vocabulary(vocabulary: &JsonVocabulary) -> Result<Self> {
        json::read(&vocabulary.tokenizer_json, &vocabulary.config).and_then(Self::from_parts)
    }

    /// From the `tokenizer.ggml.*` metadata of a GGUF file. Gives the ids that the model's original `tokenizer.json` gives:
    /// Qwen's text is NFC-normalized as there, which llama.cpp leaves out.
    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self> {
        gguf::read(vocabulary).and_then(Self::from_parts)
    }

    fn from_parts(parts: Parts) -> Result<Self> {
        let added = AddedTokens::new(parts.added)?;
        let vocab_size =
            parts.model.max_id().into_iter().chain(added.iter().map(|token| token.id)).max().map_or(0, |id| id as usize + 1);
        let mut bytes = vec![None; vocab_size];
        for (text, id) in parts.model.tokens() {
            bytes[id as usize] = Some(parts.pretokenizer.token_bytes(text));
        }
        for token in added.iter() {
            bytes[token.id as usize] = Some(token.text.as_bytes().into());
        }
        for (name, id) in [("bos", parts.bos), ("eos", parts.eos), ("pad", parts.pad)] {
            if let Some(id) = id.filter(|id| bytes.get(*id as usize).is_none_or(Option::is_none)) {
                return Err(error(format!("the {name} token must be one of the vocabulary; given id {id}")));
            }
        }
        Ok(Self(Arc::new(Inner {
            model: parts.model,
            added,
            normalizer: parts.normalizer,
            pretokenizer: parts.pretokenizer,
            cache: PieceCache::default(),
            bytes,
            bos: parts.bos,
            eos: parts.eos,
            pad: parts.pad,
            add_bos: parts.add_bos,
            add_eos: parts.add_eos,
        })))
    }

    /// The ids of a text, without the tokens that a model may want around it (see `add_bos`).
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<TokenId>> {
        match specials {
            Specials::AsText => self.0.encode(text, Recognize::Unguarded),
            Specials::Parse => self.0.encode(text, Recognize::AllOutside(&[])),
        }
    }

    /// The ids of a rendered conversation: special tokens where the template wrote them, plain text where a message did.
    pub fn encode_prompt(&self, prompt: &RenderedPrompt) -> Result<Vec<TokenId>> {
        self.0.encode(&prompt.text, Recognize::AllOutside(&prompt.plain))
    }

    /// The text of tokens, byte for byte; of a part of a text it may begin or end within a character. Ids that the vocabulary
    /// does not have add nothing. `keep_special` keeps the text of special tokens.
    pub fn decode(&self, tokens: &[TokenId], keep_special: bool) -> Vec<u8> {
        let mut text = Vec::with_capacity(tokens.len() * 4);
        for &id in tokens {
            if keep_special || !self.is_special(id) {
                text.extend_from_slice(self.token_bytes(id).unwrap_or_default());
            }
        }
        let begins_with_added_space = self.0.pretokenizer.adds_space() && text.first() == Some(&b' ');
        if begins_with_added_space && tokens.first().is_some_and(|&id| !self.0.added.contains_id(id)) {
            text.remove(0);
        }
        text
    }

    /// The bytes that a token stands for; `None` for an id that the vocabulary does not have.
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        self.0.bytes.get(id as usize)?.as_deref()
    }

    /// The id of a token by its text as the file writes it (`Ġhello`, `<|im_end|>`).
    pub fn token_to_id(&self, token: &str) -> Option<TokenId> {
        self.0.added.id_of(token).or_else(|| self.0.model.id_of(token))
    }

    /// Whether the token is for control, not text. `<think>` and `<tool_call>` of Qwen3 are not special.
    pub fn is_special(&self, id: TokenId) -> bool {
        self.0.added.is_special(id)
    }

    /// The tokens beside the merged vocabulary, in order of their ids.
    pub fn added_tokens(&self) -> impl Iterator<Item = &AddedToken> {
        self.0.added.iter()
    }

    /// One more than the largest id. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.0.bytes.len()
    }

    /// The token that begins a text.
    pub fn bos_id(&self) -> Option<TokenId> {
        self.0.bos
    }

    /// The token that ends a text. Chat models often have further ones in their generation configuration.
    pub fn eos_id(&self) -> Option<TokenId> {
        self.0.eos
    }

    /// The token that fills unused places, for models that name one.
    pub fn pad_id(&self) -> Option<TokenId> {
        self.0.pad
    }

    /// Whether a raw text should begin with the `bos_id` token. Rendered chats say themselves how they begin.
    pub fn add_bos(&self) -> bool {
        self.0.add_bos && self.0.bos.is_some()
    }

    /// Whether a raw text should end with the `eos_id` token.
    pub fn add_eos(&self) -> bool {
        self.0.add_eos && self.0.eos.is_some()
    }

    /// What a chat template needs to know of the vocabulary.
    pub fn template_tokens(&self) -> TemplateTokens {
        let text =
            |id: Option<TokenId>| id.and_then(|id| self.token_bytes(id)).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        TemplateTokens {
            bos: text(self.0.bos),
            eos: text(self.0.eos),
            guarded: self
                .0
                .added
                .iter()
                .filter(|token| token.is_guarded())
                .map(|token| (token.text.clone(), token.special))
                .collect(),
        }
    }
}

impl Inner {
    fn encode(&self, text: &str, recognize: Recognize) -> Result<Vec<TokenId>> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut end = 0;
        let mut cache = self.cache.lock();
        let mut pieces = Vec::new();
        let mut ordinary = |range: Range<usize>, ids: &mut Vec<TokenId>| -> Result<()> {
            if range.is_empty() {
                return Ok(());
            }
            let normalized = self.normalizer.apply(&text[range.clone()]);
            let normalized = self.pretokenizer.prepare(normalized, range.start == 0);
            self.pretokenizer.split(&normalized, &mut pieces);
            for piece in &pieces {
                let piece = &normalized[piece.clone()];
                cache.get_or_insert(piece, ids, |ids| self.model.encode(&self.pretokenizer.spell(piece), ids))?;
            }
            Ok(())
        };
        while let Some(found) = self.added.find(text, end, recognize) {
            ordinary(end..found.range.start, &mut ids)?;
            ids.push(found.id);
            end = found.range.end;
        }
        ordinary(end..text.len(), &mut ids)?;
        Ok(ids)
    }
}

/// An error in a tokenizer file or of encoding.
fn error(message: impl Into<String>) -> Error {
    Error::Tokenizer(message.into())
}
