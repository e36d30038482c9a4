//! What one forward pass is asked to do: a ragged batch of token runs over paged KV. Ids and positions only, no tensors.

/// A token of the model's vocabulary.
pub type TokenId = u32;

/// Positions in one KV page. Attention walks KV in blocks of this many positions, at absolute positions.
pub const PAGE_LEN: usize = 64;

/// One page of the KV pool: `PAGE_LEN` positions of every layer's keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u32);

/// A LoRA adapter that a model has loaded. An id is never used again after its adapter is unloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(pub u32);

/// What a run is to give: logits, or hidden states after the last norm, and of which of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsFor {
    /// None: a prefill chunk that is not the prompt's end.
    None,
    /// The last token: a decode step, or the end of a prompt.
    Last,
    /// Every token: scoring, drafts.
    All,
    /// No logits; the hidden state of the last token, for embeddings.
    HiddenLast,
    /// No logits; the hidden state of every token, for embeddings that average.
    HiddenAll,
}

impl LogitsFor {
    /// Logit rows that a run of `num_tokens` tokens yields.
    pub fn num_rows(self, num_tokens: usize) -> usize {
        match self {
            Self::None | Self::HiddenLast | Self::HiddenAll => 0,
            Self::Last => num_tokens.min(1),
            Self::All => num_tokens,
        }
    }

    /// Rows of hidden states that a run of `num_tokens` tokens yields.
    pub fn num_hidden_rows(self, num_tokens: usize) -> usize {
        match self {
            Self::None | Self::Last | Self::All => 0,
            Self::HiddenLast => num_tokens.min(1),
            Self::HiddenAll => num_tokens,
        }
    }
}

/// A run of consecutive tokens of one sequence within a batch.
#[derive(Clone, Debug)]
pub struct BatchSequence<'a> {
    /// The tokens to process, at positions `position..position + tokens.len()`.
    pub tokens: &'a [TokenId],
    /// Absolute position of the first token; KV of all earlier positions is in the pages already.
    pub position: usize,
    /// The sequence's pages in order; page `i` holds positions `i * PAGE_LEN..(i + 1) * PAGE_LEN`. Covers all tokens of the run.
    pub pages: &'a [PageId],
    /// Which tokens need logits. Rows come out in batch order.
    pub logits: LogitsFor,
    /// The adapter that the sequence runs with; `None` is the base model. Keys and values depend on it.
    pub adapter: Option<AdapterId>,
}
