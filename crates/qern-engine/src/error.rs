//! The one error enum of the crate. Messages name the thing, the rule, the value and the fix.

use std::sync::Arc;
use std::time::Duration;

use crate::constraint::ConstraintError;
use crate::{AdapterId, TokenId};

/// Anything that can go wrong between a request and its tokens.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A field of a request or of the configuration breaks its rule. The client's to fix.
    #[error("`{field}` must {rule}; given {given}")]
    Invalid {
        /// The field's name as in the raw request.
        field: &'static str,
        /// The rule, completing "must ...".
        rule: String,
        /// The value that was given.
        given: String,
    },
    /// The prompt leaves no room in the model's context or in the KV pool. The client's to fix.
    #[error("the prompt has {num_tokens} tokens, and at most {limit} fit ({limited_by}); shorten it or raise the limit")]
    PromptTooLong {
        /// Tokens of the prompt.
        num_tokens: usize,
        /// The most that would fit.
        limit: usize,
        /// What sets the limit.
        limited_by: &'static str,
    },
    /// The model could not run a step.
    #[error("the model failed to run a step: {0}")]
    Model(Arc<dyn std::error::Error + Send + Sync>),
    /// The model returned another number of values than the batch asked for.
    #[error("the model must return {expected} {what} for this step; it returned {given}")]
    Shape {
        /// Logits or hidden states.
        what: &'static str,
        /// Rows times their width.
        expected: usize,
        /// Length of the slice returned.
        given: usize,
    },
    /// A logit that no probability can be made of.
    #[error("the logit of token {token} at position {position} is {value}; the weights or the computation are broken")]
    BadLogit {
        /// The first offending token.
        token: TokenId,
        /// Position in the sequence of the token that was to be sampled.
        position: usize,
        /// `NaN` or `inf`.
        value: f32,
    },
    /// Every token is forbidden.
    #[error("no token can be sampled at position {position}: every logit is -inf; loosen `logit_bias` or `min_tokens`")]
    NothingToSample {
        /// Position in the sequence of the token that was to be sampled.
        position: usize,
    },
    /// The request's constraint cannot go on.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// A hidden state that no embedding can be made of.
    #[error("the hidden state at position {position} is not finite; the weights or the computation are broken")]
    BadHidden {
        /// Position in the input.
        position: usize,
    },
    /// The queue is full. The client's to try again.
    #[error("{waiting} requests are waiting, and at most {limit} may; try again in {} s", retry_after.as_secs_f64().ceil())]
    QueueFull {
        /// Requests in the queue.
        waiting: usize,
        /// `EngineConfig::max_waiting`.
        limit: usize,
        /// When a place is likely to be free, by the pace at which requests start.
        retry_after: Duration,
    },
    /// The engine finishes what it has and takes nothing new.
    #[error("the engine is draining and takes no new requests; ask another one, or start it again")]
    Draining,
    /// Embeddings were not ready within the request's `timeout`.
    #[error("the request ran out of time; raise `timeout` or ask for less")]
    TimedOut,
    /// Embeddings were cancelled: the engine was shut down.
    #[error("the request was cancelled")]
    Cancelled,
    /// A request names an adapter that is not loaded, or not any more. The client's to fix.
    #[error("no adapter with the id {} is loaded; load it, or leave `adapter` out", .0.0)]
    UnknownAdapter(AdapterId),
    /// An adapter that the model cannot run.
    #[error("{0}")]
    Adapter(Arc<dyn std::error::Error + Send + Sync>),
    /// The engine's thread has ended.
    #[error("the engine has stopped; start it again")]
    Stopped,
}

impl Error {
    /// Shorthand for a broken rule.
    pub(crate) fn invalid(field: &'static str, rule: impl Into<String>, given: impl std::fmt::Display) -> Self {
        Self::Invalid { field, rule: rule.into(), given: given.to_string() }
    }

    /// Whether the request was at fault (as opposed to the model or the engine).
    pub fn is_invalid_request(&self) -> bool {
        match self {
            Self::Invalid { .. } | Self::PromptTooLong { .. } | Self::UnknownAdapter(_) | Self::Adapter(_) => true,
            Self::Constraint(error) => error.is_invalid_request(),
            _ => false,
        }
    }
}
