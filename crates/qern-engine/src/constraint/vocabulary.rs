//! The model's vocabulary as constraints see it: the bytes of every token in a tree, which tokens are not text, and how text is
//! tokenized canonically. Built once for a model; no grammar is known here.

use std::collections::HashSet;
use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use qern_model::tokenizer::{Specials, Tokenizer};
use toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

use super::ConstraintError;
use crate::TokenId;

type Encode = dyn Fn(&str) -> Option<Vec<TokenId>> + Send + Sync;

/// A model's vocabulary, prepared for masks. Cloning shares it.
#[derive(Clone)]
pub struct Vocabulary(Arc<Inner>);

struct Inner {
    env: Arc<Env>,
    factory: ParserFactory,
}

/// Everything that a vocabulary is made of.
struct Parts {
    /// What each token stands for: `[vocab]`, empty where it is nothing. Those for control begin with `SPECIAL_TOKEN_MARKER`.
    words: Vec<Vec<u8>>,
    eos: Vec<TokenId>,
    encode: Box<Encode>,
}

pub(super) struct Env {
    trie: TokTrie,
    encode: Box<Encode>,
}

impl Vocabulary {
    /// The vocabulary of a tokenizer, padded to the model's number of logits. Tokens that look like markup (`<tool_call>`) are no
    /// text either: a string that a grammar allows never becomes one. Takes a tenth of a second.
    pub fn new(tokenizer: &Tokenizer, eos: &[TokenId], num_logits: usize) -> Result<Self, ConstraintError> {
        let not_text: HashSet<TokenId> = tokenizer.added_tokens().filter(|t| t.is_guarded()).map(|t| t.id).collect();
        let word = |id: TokenId| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            if not_text.contains(&id) { [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat() } else { bytes.to_vec() }
        };
        let words = (0..num_logits as TokenId).map(word).collect();
        let tokenizer = tokenizer.clone();
        let encode = Box::new(move |text: &str| tokenizer.encode(text, Specials::AsText).ok());
        Self::from_parts(Parts { words, eos: eos.to_vec(), encode })
    }

    /// A vocabulary of these texts, tokenized by taking the longest each time. The tokens that end an answer come after them. For
    /// tests.
    pub fn of_words(words: &[&str]) -> Result<Self, ConstraintError> {
        let mut words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let eos = words.len() as TokenId;
        words.push(b"\xff<end>".to_vec());
        let lengths: Vec<(Vec<u8>, TokenId)> = words.iter().cloned().zip(0..).collect();
        let encode = Box::new(move |text: &str| {
            let (mut rest, mut ids) = (text.as_bytes(), Vec::new());
            while !rest.is_empty() {
                let fits = lengths.iter().filter(|(word, _)| !word.is_empty() && rest.starts_with(word));
                let (word, id) = fits.max_by_key(|(word, _)| word.len())?;
                ids.push(*id);
                rest = &rest[word.len()..];
            }
            Some(ids)
        });
        Self::from_parts(Parts { words, eos: vec![eos], encode })
    }

    /// A token for every byte, and one that ends an answer: spells everything, for checks without a model.
    pub fn of_bytes() -> Result<Self, ConstraintError> {
        let mut words: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
        words.push(b"\xff<end>".to_vec());
        Self::from_parts(Parts {
            words,
            eos: vec![256],
            encode: Box::new(|text| Some(text.bytes().map(TokenId::from).collect())),
        })
    }

    /// A vocabulary of these bytes by token, and its tokenizer. For tests of the engine.
    #[cfg(test)]
    pub(crate) fn with_encoder(
        words: Vec<Vec<u8>>,
        eos: &[TokenId],
        encode: impl Fn(&str) -> Option<Vec<TokenId>> + Send + Sync + 'static,
    ) -> Result<Self, ConstraintError> {
        Self::from_parts(Parts { words, eos: eos.to_vec(), encode: Box::new(encode) })
    }

    fn from_parts(Parts { words, eos, encode }: Parts) -> Result<Self, ConstraintError> {
        let refuse = |reason: String| ConstraintError::Refused {
            kind: "vocabulary",
            reason,
            fix: "constraints need a model that names the tokens that end its answers".into(),
        };
        let eos: Vec<TokenId> = eos.into_iter().filter(|&id| (id as usize) < words.len()).collect();
        let Some(&first_eos) = eos.first() else {
            return Err(refuse("no token of it ends an answer".into()));
        };
        let info = TokRxInfo::new(words.len() as u32, first_eos);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&eos);
        let env = Arc::new(Env { trie, encode });
        let shared: TokEnv = env.clone();
        let capabilities = InferenceCapabilities { ff_tokens: true, ..InferenceCapabilities::default() };
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&shared, capabilities, &slices).map_err(|error| refuse(error.to_string()))?;
        factory.quiet();
        Ok(Self(Arc::new(Inner { env, factory })))
    }

    /// Number of tokens, and of bits in a mask.
    pub fn len(&self) -> usize {
        self.0.env.trie.vocab_size()
    }

    /// Whether there are no tokens at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens that end an answer.
    pub fn eos(&self) -> &[TokenId] {
        self.0.env.trie.eos_tokens()
    }

    /// The canonical tokens of a text; `None` if they do not spell it exactly (a normalizing tokenizer, a missing byte).
    pub fn encode(&self, text: &str) -> Option<Vec<TokenId>> {
        self.0.env.encode_exactly(text)
    }

    /// The bytes of tokens. Control tokens have none.
    pub fn decode(&self, tokens: &[TokenId]) -> Vec<u8> {
        self.0.env.trie.decode_ext(tokens, false)
    }

    /// The token for just these bytes.
    pub(super) fn token_of(&self, bytes: &[u8]) -> Option<TokenId> {
        self.0.env.trie.token_id_at_bytes(bytes)
    }

    pub(super) fn factory(&self) -> &ParserFactory {
        &self.0.factory
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Vocabulary({} tokens)", self.len())
    }
}

impl Env {
    fn encode_exactly(&self, text: &str) -> Option<Vec<TokenId>> {
        (self.encode)(text).filter(|ids| self.trie.decode_raw(ids) == text.as_bytes())
    }
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// Whole characters canonically, the rest by the longest tokens.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let mut ids = Vec::new();
        for chunk in bytes.utf8_chunks() {
            let valid = chunk.valid();
            ids.extend(self.encode_exactly(valid).unwrap_or_else(|| self.trie.greedy_tokenize(valid.as_bytes())));
            ids.extend(self.trie.greedy_tokenize(chunk.invalid()));
        }
        ids
    }
}
