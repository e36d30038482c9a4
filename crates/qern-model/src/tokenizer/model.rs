//! The vocabulary and its merges, checked, in the `tokenizers` crate's BPE. Takes pieces that are split and spelled already.

use std::collections::{HashMap, HashSet};

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Vocab};

use super::error;
use crate::Result;
use crate::batch::TokenId;
use crate::error::shorten;

/// Largest id that a file may use: the table of token bytes is allocated by it.
pub const MAX_TOKEN_ID: TokenId = (1 << 22) - 1;

/// How pieces become ids.
#[derive(Debug)]
pub struct Model {
    bpe: BPE,
    vocab: HashMap<String, TokenId>,
}

/// What a file says about merging.
#[derive(Debug, Default)]
pub struct ModelParts {
    pub vocab: HashMap<String, TokenId>,
    pub merges: Vec<(String, String)>, // best first
    pub unk_token: Option<String>,
    pub fuse_unk: bool,
    /// Characters that are no token become `<0xE2>`-like byte tokens.
    pub byte_fallback: bool,
    /// A piece that is a token is that token, however its merges would go.
    pub ignore_merges: bool,
}

impl Model {
    /// Checks everything that the crate takes on trust.
    pub fn new(parts: ModelParts) -> Result<Self> {
        let mut taken = HashSet::with_capacity(parts.vocab.len());
        for (token, &id) in &parts.vocab {
            if id > MAX_TOKEN_ID {
                return Err(error(format!("token ids must be at most {MAX_TOKEN_ID}; `{}` has {id}", shorten(token))));
            }
            if !taken.insert(id) {
                return Err(error(format!("every token needs an id of its own; `{}` shares {id} with another", shorten(token))));
            }
        }
        let mut joined = String::new();
        for (index, (left, right)) in parts.merges.iter().enumerate() {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            if left.is_empty() || right.is_empty() {
                return Err(error(format!("merge {index} must join two tokens; one of them is empty")));
            }
            if let Some(missing) = [left, right, &joined].into_iter().find(|token| !parts.vocab.contains_key(*token)) {
                return Err(error(format!("merge {index} needs the token `{}`, which the vocabulary lacks", shorten(missing))));
            }
        }
        let mut builder = BPE::builder()
            .vocab_and_merges(parts.vocab.iter().map(|(token, id)| (token.clone(), *id)).collect::<Vocab>(), parts.merges)
            .cache_capacity(0)
            .fuse_unk(parts.fuse_unk)
            .byte_fallback(parts.byte_fallback)
            .ignore_merges(parts.ignore_merges);
        if let Some(unk) = parts.unk_token {
            if !parts.vocab.contains_key(&unk) {
                return Err(error(format!("the unknown token `{}` must be in the vocabulary", shorten(&unk))));
            }
            builder = builder.unk_token(unk);
        }
        let bpe = builder.build().map_err(|cause| error(cause.to_string()))?;
        Ok(Self { bpe, vocab: parts.vocab })
    }

    /// Appends the ids of one piece.
    pub fn encode(&self, piece: &str, ids: &mut Vec<TokenId>) -> Result<()> {
        let tokens = self.bpe.tokenize(piece).map_err(|cause| error(cause.to_string()))?;
        // As all implementations do, the crate leaves characters out that are no token; the lengths of the tokens tell.
        // SmolLM2, for one, lacks 21 bytes.
        if tokens.last().map_or(0, |token| token.offsets.1) != piece.len() {
            tracing::warn!("the model's vocabulary cannot spell all of `{}`: it does not see the rest", shorten(piece));
        }
        ids.extend(tokens.into_iter().map(|token| token.id));
        Ok(())
    }

    pub fn id_of(&self, token: &str) -> Option<TokenId> {
        self.vocab.get(token).copied()
    }

    pub fn tokens(&self) -> impl Iterator<Item = (&str, TokenId)> {
        self.vocab.iter().map(|(token, &id)| (token.as_str(), id))
    }

    pub fn max_id(&self) -> Option<TokenId> {
        self.vocab.values().copied().max()
    }
}
