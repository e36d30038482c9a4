//! One answer under a constraint: which tokens may come next, which must, and whether it may end here. No logits, no policy of
//! sampling.

use super::{Compiled, ConstraintError, Mask, Vocabulary};
use crate::TokenId;

/// How much text before forced tokens decides whether they are the canonical ones.
const WINDOW_BYTES: usize = 96;

/// The state of one answer. Cloning it branches off (for beams), in microseconds.
#[derive(Clone)]
pub struct Matcher {
    inner: llguidance::Matcher,
    vocabulary: Vocabulary,
    /// Everything committed.
    tokens: Vec<TokenId>,
    /// Of the present state.
    mask: Option<Mask>,
}

impl Matcher {
    pub(super) fn new(inner: llguidance::Matcher, vocabulary: Vocabulary) -> Self {
        Self { inner, vocabulary, tokens: Vec::new(), mask: None }
    }

    /// The tokens that may come next: at least one. Tokens that end the answer are among them only where it may end. Where a text is
    /// forced, only its canonical next token.
    pub fn mask(&mut self) -> Result<&Mask, ConstraintError> {
        if self.mask.is_none() {
            let mask = self.inner.compute_mask_or_eos();
            self.mask = Some(Mask(mask.map_err(|error| self.broken(error.to_string()))?));
        }
        // It was set above.
        self.mask.as_ref().ok_or_else(|| self.broken("no mask".into()))
    }

    /// Appends a token that the mask allows. A token that ends the answer is not committed: ask `is_accepting`.
    pub fn commit(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        if self.inner.is_stopped() {
            return Err(ConstraintError::IllegalToken { token });
        }
        match self.inner.try_consume_tokens(&[token]) {
            Ok(1) => {
                self.tokens.push(token);
                self.mask = None;
                Ok(())
            }
            Ok(_) => Err(ConstraintError::IllegalToken { token }),
            Err(error) => Err(self.broken(error.to_string())),
        }
    }

    /// Takes the last tokens back, as when drafts are rejected.
    pub fn rollback(&mut self, num_tokens: usize) -> Result<(), ConstraintError> {
        if num_tokens == 0 {
            return Ok(());
        }
        self.inner.rollback(num_tokens).map_err(|error| self.broken(error.to_string()))?;
        self.tokens.truncate(self.tokens.len() - num_tokens);
        self.mask = None;
        Ok(())
    }

    /// How many of these tokens are legal one after the other, from here. Commits nothing.
    pub fn legal_prefix(&mut self, tokens: &[TokenId]) -> usize {
        self.inner.validate_tokens(tokens).unwrap_or(0)
    }

    /// Whether the answer may end here.
    pub fn is_accepting(&mut self) -> bool {
        self.inner.is_accepting().unwrap_or(false)
    }

    /// Whether the answer is complete: nothing but its end may follow.
    pub fn is_complete(&self) -> bool {
        self.inner.is_stopped() && self.inner.stop_reason().is_ok()
    }

    /// The tokens that must come next whatever the model thinks, in canonical tokenization: text so far and these together tokenize
    /// to themselves, if the text so far does. Commits nothing; often empty.
    pub fn forced_tokens(&mut self) -> Vec<TokenId> {
        if self.inner.is_stopped() {
            return Vec::new();
        }
        let mut forced = self.inner.compute_ff_tokens();
        let keep = self.num_canonical(&forced);
        forced.truncate(keep);
        forced
    }

    /// Tokens committed so far.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// How many of the forced tokens a tokenizer would also make of the text so far with them. `llguidance` looks one token back;
    /// a merge can reach further.
    fn num_canonical(&self, forced: &[TokenId]) -> usize {
        if forced.is_empty() {
            return 0;
        }
        let mut bytes = 0;
        let start = self.tokens.iter().rposition(|&token| {
            bytes += self.vocabulary.decode(&[token]).len();
            bytes > WINDOW_BYTES
        });
        let before = &self.tokens[start.map_or(0, |start| start + 1)..];
        let ours = [before, forced].concat();
        let Some(canonical) =
            String::from_utf8(self.vocabulary.decode(&ours)).ok().and_then(|text| self.vocabulary.encode(&text))
        else {
            return forced.len();
        };
        let agree = ours.iter().zip(&canonical).take_while(|(a, b)| a == b).count();
        // What was sampled is not canonical itself: there is nothing to keep up.
        if agree < before.len() { forced.len() } else { agree - before.len() }
    }

    fn broken(&self, reason: String) -> ConstraintError {
        let reason = reason.lines().next().unwrap_or_default().to_string();
        ConstraintError::Broken { num_tokens: self.tokens.len(), reason }
    }
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Matcher({} tokens)", self.tokens.len())
    }
}

impl Compiled {
    /// The state of a new answer.
    pub fn matcher(&self) -> Matcher {
        Matcher::new(self.start(), self.vocabulary().clone())
    }
}
