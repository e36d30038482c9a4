//! What the engine needs of a model and of its tokenizer, and nothing more. No implementation lives here.

use std::borrow::Cow;
use std::sync::Arc;

use qern_model::batch::{AdapterId, BatchSequence, PageId, TokenId};
use qern_model::lora::Adapter;

/// A model's own error, boxed at the seam.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a step computed, row-major.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rows<'a> {
    /// `[rows, vocab]`
    pub logits: &'a [f32],
    /// Hidden states after the last norm, `[rows, hidden_size]`.
    pub hidden: &'a [f32],
}

/// A language model over a pool of KV pages.
pub trait LanguageModel: Send {
    /// Number of logits per row.
    fn vocab_size(&self) -> usize;

    /// Pages in the KV pool. Ids are `0..num_pages`.
    fn num_pages(&self) -> usize;

    /// Longest sequence (prompt and answer) that the model can place.
    fn max_positions(&self) -> usize;

    /// Runs one ragged batch and returns the rows that each `LogitsFor` asks for, in batch order.
    fn forward(&mut self, batch: &[BatchSequence<'_>]) -> Result<Rows<'_>, BoxError>;

    /// Width of a hidden state; `None` for a model that gives none, and so no embeddings.
    fn hidden_size(&self) -> Option<usize> {
        None
    }

    /// Makes an adapter one that a batch may name. Its id is never given to another.
    fn load_adapter(&mut self, _adapter: Arc<Adapter>) -> Result<AdapterId, BoxError> {
        Err("this model runs no adapters".into())
    }

    /// Lets an adapter go, which no batch will name again.
    fn unload_adapter(&mut self, id: AdapterId) -> Result<(), BoxError> {
        Err(format!("no adapter with the id {} is loaded", id.0).into())
    }

    /// Copies the KV of a whole page: the last, partly filled page of a sequence is copied before one of several owners writes.
    fn copy_page(&mut self, from: PageId, to: PageId);
}

/// What the engine needs of a tokenizer: the bytes of a token, and which tokens are not text.
pub trait TokenText: Send + Sync {
    /// The bytes that a token stands for; `None` for an id that the vocabulary does not have (padding rows of the embedding).
    fn token_bytes(&self, id: TokenId) -> Option<Cow<'_, [u8]>>;

    /// Whether a token is a control token, hidden from text unless asked for.
    fn is_special(&self, id: TokenId) -> bool;

    /// Tokens that end an answer.
    fn eos_ids(&self) -> &[TokenId];
}
