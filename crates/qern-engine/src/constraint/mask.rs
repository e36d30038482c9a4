//! The set of tokens that may come next. Nothing but the set.

use toktrie::SimpleVob;

use crate::TokenId;

/// A bit for each token of the vocabulary.
#[derive(Clone)]
pub struct Mask(pub(super) SimpleVob);

impl Mask {
    /// Whether the token is legal.
    pub fn allows(&self, token: TokenId) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }

    /// The bits, 32 tokens a word, the lowest first.
    pub fn words(&self) -> &[u32] {
        self.0.as_slice()
    }

    /// How many tokens are legal.
    pub fn count(&self) -> usize {
        self.0.num_set()
    }

    /// The legal tokens in order of their ids.
    pub fn tokens(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.0.iter()
    }

    /// The only legal token, if there is just one.
    pub fn only(&self) -> Option<TokenId> {
        let mut tokens = self.tokens();
        let first = tokens.next()?;
        tokens.next().is_none().then_some(first)
    }

    /// Makes every illegal logit `-inf`. Logits beyond the vocabulary are illegal.
    pub fn apply(&self, logits: &mut [f32]) {
        let words = self.words().iter().copied().chain(std::iter::repeat(0));
        for (block, word) in logits.chunks_mut(32).zip(words) {
            if word == u32::MAX {
                continue;
            }
            if word == 0 {
                block.fill(f32::NEG_INFINITY);
                continue;
            }
            for (bit, logit) in block.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Mask({} of {} tokens)", self.count(), self.0.len())
    }
}
