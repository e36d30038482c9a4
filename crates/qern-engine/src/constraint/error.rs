//! Why a constraint was refused, or why an answer under one broke off. No policy.

use crate::TokenId;

/// One thing that a schema asks for and that cannot be kept, or cannot be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: a JSON pointer into the schema as it was given, empty for the whole.
    pub path: String,
    /// Which keyword.
    pub keyword: String,
    /// Why it is refused.
    pub reason: String,
    /// What to write instead.
    pub fix: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, keyword, reason, fix } = self;
        let path = if path.is_empty() { "/" } else { path };
        write!(out, "at {path}: `{keyword}` {reason}; {fix}")
    }
}

/// Anything that can go wrong with a constraint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The schema asks for what cannot be kept. Nothing of it is ever loosened.
    #[error("the JSON schema is refused {}", listed(.0))]
    Schema(Vec<Problem>),
    /// The text of the constraint is wrong.
    #[error("the {kind} is refused: {reason}; {fix}")]
    Refused {
        /// "regular expression", "Lark grammar" and so on.
        kind: &'static str,
        /// What is wrong.
        reason: String,
        /// What to change.
        fix: String,
    },
    /// A limit was reached while compiling.
    #[error("the {kind} must compile within {what} ({limit}); make it smaller")]
    Limit {
        /// "regular expression", "JSON schema" and so on.
        kind: &'static str,
        /// What is limited.
        what: &'static str,
        /// The limit, with its unit.
        limit: String,
    },
    /// A token was committed that the mask forbids: an error of the caller.
    #[error("token {token} is not legal at this point of the constraint")]
    IllegalToken {
        /// The token.
        token: TokenId,
    },
    /// The constraint turned out to be too complex in the middle of an answer, or the vocabulary cannot spell what it demands.
    #[error("the constraint cannot go on after {num_tokens} tokens: {reason}")]
    Broken {
        /// Tokens committed before.
        num_tokens: usize,
        /// What happened.
        reason: String,
    },
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  also ")
}

impl ConstraintError {
    /// Whether the one who wrote the constraint can repair it (as opposed to the caller or the engine).
    pub fn is_invalid_request(&self) -> bool {
        matches!(self, Self::Schema(_) | Self::Refused { .. } | Self::Limit { .. })
    }
}
