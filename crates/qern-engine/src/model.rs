//! What the engine needs of a model and of its tokenizer, and nothing more. No implementation lives here.

use std::borrow::Cow;

use qern_model::batch::{BatchSequence, PageId, TokenId};

/// A model's own error, boxed at the seam.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A language model over a pool of KV pages.
pub trait LanguageModel: Send {
    /// Number of logits per row.
    fn vocab_size(&self) -> usize;

    /// Pages in the KV pool. Ids are `0..num_pages`.
    fn num_pages(&self) -> usize;

    /// Longest sequence (prompt and answer) that the model can place.
    fn max_positions(&self) -> usize;

    /// Runs one ragged batch. Returns logits `[rows, vocab]` row-major, rows in batch order as each `LogitsFor` asks.
    fn forward(&mut self, batch: &[BatchSequence<'_>]) -> Result<&[f32], BoxError>;

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
