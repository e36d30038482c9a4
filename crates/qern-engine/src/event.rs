//! What leaves the engine for one request, in order. No dialect's JSON.

use crate::{Error, TokenId};

/// One step in the life of a request. `Finished` comes once per answer (`n` of them); `Failed` ends the stream.
#[derive(Clone, Debug)]
pub enum Event {
    /// The request left the queue.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// The seed in use: the request's, or the one drawn for it. The same seed gives the same text again.
        seed: u64,
        /// Seconds spent in the queue.
        queued_seconds: f64,
    },
    /// Part of the prompt has been computed; for progress display. A short prompt may send none.
    Prefilling {
        /// Tokens computed.
        computed: usize,
        /// Tokens to compute.
        total: usize,
    },
    /// Log-probabilities of the prompt's own tokens, if asked for.
    PromptLogprobs {
        /// One per prompt token but the first, which nothing predicts.
        logprobs: Vec<TokenLogprob>,
    },
    /// A token was sampled, or the constraint left no other. End-of-answer tokens are not reported unless `ignore_eos`.
    Token {
        /// Which of the `n` answers.
        index: usize,
        /// The token.
        id: TokenId,
        /// The text that became safe to show: whole characters, and no part of a stop string. Often empty.
        text: String,
        /// If asked for.
        logprob: Option<TokenLogprob>,
    },
    /// An answer is complete.
    Finished {
        /// Which of the `n` answers.
        index: usize,
        /// The rest of the text, held back until now. With beam search the whole text.
        text: String,
        /// All tokens of the answer, for beam search only, where no `Token` events are sent; with its score.
        beam: Option<BeamAnswer>,
        /// Why it ended.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
        /// Answers of the request still to come; 0 on the last event of the stream.
        answers_left: usize,
    },
    /// The request ended without an answer.
    Failed(Error),
}

/// An answer found by beam search.
#[derive(Clone, Debug, PartialEq)]
pub struct BeamAnswer {
    /// Its tokens, without the token that ended it.
    pub tokens: Vec<TokenId>,
    /// Sum of the log-probabilities, the ending token included, over length to the power of `length_penalty`.
    pub score: f32,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or one of `stop_token_ids`.
    Stop,
    /// This stop string.
    StopString(String),
    /// `max_tokens` reached.
    Length,
    /// The model's context, or the memory for it, is full.
    Context,
    /// The request's `timeout` has passed.
    Deadline,
    /// Cancelled, or the engine was shut down.
    Cancelled,
}

/// What one answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were not computed again: none, as there is no prefix cache yet.
    pub cached_tokens: usize,
    /// Tokens of the answer, the one that ended it included.
    pub generated_tokens: usize,
    /// Those of them that the constraint left no choice for, or that closed an unfinished structure: appended without sampling.
    pub forced_tokens: usize,
    /// Seconds from leaving the queue to the first token.
    pub prefill_seconds: f64,
    /// Seconds from the first token to the last.
    pub decode_seconds: f64,
    /// Seconds from submission to the first token, queue included; `None` if there was none.
    pub time_to_first_token: Option<f64>,
}

/// The log-probability of a token: log-softmax of the model's own logits, before penalties, bias and temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: TokenId,
    /// Its bytes (a token can be part of a character).
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The same among the tokens that the constraint left: 0 where it left only this one. `None` without a constraint.
    pub constrained: Option<f32>,
    /// The most probable tokens, best first; of equals the lower id first.
    pub top: Vec<TopLogprob>,
}

/// One of the most probable tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct TopLogprob {
    /// The token.
    pub id: TokenId,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}
