//! A text cut into windows, as llama-perplexity cuts it, so that its perplexities and ours can be compared: the whole text
//! is tokenized at once (special-token text stays text, one newline at the end of the file is no part of it), cut into
//! windows of the context's length, and what is left at the end is not scored. Where the model begins texts with a token,
//! that token takes the place of each window's first. Only the second half of a window is scored, so that every scored
//! token has at least half a window before it.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use qern_engine::TokenId;
use qern_model::tokenizer::{Specials, Tokenizer};
use sha2::{Digest, Sha256};

use crate::cli::EvalTextArgs;
use crate::exit::UsageError;

/// The windows of a text.
pub(super) struct Windows {
    tokens: Vec<TokenId>,
    context: usize,
    bos: Option<TokenId>,
}

impl Windows {
    /// Reads and tokenizes the text; it must fill one window at least.
    pub(super) fn read(args: &EvalTextArgs, tokenizer: &Tokenizer) -> anyhow::Result<Self> {
        let name = args.file.display();
        let bytes = fs::read(&args.file).with_context(|| format!("the text `{name}` cannot be read"))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            UsageError(format!("the text `{name}` must be UTF-8; byte {at} is not: convert it, as by `iconv -t UTF-8`"))
        })?;
        let bos = tokenizer.add_bos().then(|| tokenizer.bos_id()).flatten();
        let mut tokens: Vec<TokenId> = bos.into_iter().collect();
        tokens.extend(tokenizer.encode(text.strip_suffix('\n').unwrap_or(&text), Specials::AsText)?);
        Self::new(tokens, args.context as usize, bos).map_err(|rule| UsageError(format!("the text `{name}` {rule}")).into())
    }

    fn new(tokens: Vec<TokenId>, context: usize, bos: Option<TokenId>) -> Result<Self, String> {
        if tokens.len() < context {
            let len = tokens.len();
            return Err(format!(
                "must fill a window of {context} tokens and has {len}; give a longer text or a shorter --context"
            ));
        }
        Ok(Self { tokens, context, bos })
    }

    /// The number of windows.
    pub(super) fn len(&self) -> usize {
        self.tokens.len() / self.context
    }

    /// Tokens in a window.
    pub(super) fn context(&self) -> usize {
        self.context
    }

    /// The windows' tokens.
    pub(super) fn iter(&self) -> impl Iterator<Item = Vec<TokenId>> {
        self.tokens.chunks_exact(self.context).map(|chunk| {
            let mut window = chunk.to_vec();
            if let Some(bos) = self.bos {
                window[0] = bos;
            }
            window
        })
    }

    /// The first position in a window whose prediction (of the token after it) is scored.
    pub(super) fn first_scored(&self) -> usize {
        self.context / 2
    }

    /// Predictions scored, in all windows.
    pub(super) fn num_scored(&self) -> usize {
        self.len() * (self.context - 1 - self.first_scored())
    }

    /// Predictions computed, in all windows, per second.
    pub(super) fn tokens_per_second(&self, took: Duration) -> f64 {
        (self.len() * (self.context - 1)) as f64 / took.as_secs_f64()
    }

    /// Tokens at the end that fill no window.
    pub(super) fn num_left_out(&self) -> usize {
        self.tokens.len() % self.context
    }

    /// Identifies what is scored: the windows' tokens and where they are cut.
    pub(super) fn sha256(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update((self.context as u64).to_le_bytes());
        for token in self.iter().flatten() {
            hash.update(token.to_le_bytes());
        }
        hash.finalize().into()
    }

    /// What is scored, in words.
    pub(super) fn summary(&self) -> String {
        let left_out = match self.num_left_out() {
            0 => String::new(),
            1 => ", not the 1 token after them".into(),
            n => format!(", not the {n} tokens after them"),
        };
        let windows = if self.len() == 1 { "window" } else { "windows" };
        format!(
            "{} tokens scored: the second half of {} {windows} of {}, as llama-perplexity does{left_out}",
            self.num_scored(),
            self.len(),
            self.context
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(num_tokens: u32, context: usize, bos: Option<TokenId>) -> Windows {
        Windows::new((100..100 + num_tokens).collect(), context, bos).unwrap()
    }

    #[test]
    fn the_second_half_of_whole_windows_is_scored() {
        // llama-perplexity scores `n_ctx - 1 - n_ctx / 2` predictions of a chunk.
        for (num_tokens, context, num_windows, num_scored, left_out) in
            [(1024, 512, 2, 510, 0), (1025, 512, 2, 510, 1), (410, 410, 1, 204, 0), (9, 4, 2, 2, 1), (7, 5, 1, 2, 2)]
        {
            let windows = windows(num_tokens, context, None);
            let found = (windows.len(), windows.num_scored(), windows.num_left_out());
            assert_eq!(found, (num_windows, num_scored, left_out), "{num_tokens} tokens in windows of {context}");
        }
    }

    #[test]
    fn the_token_that_begins_a_text_begins_every_window() {
        let with = |bos| windows(7, 3, bos).iter().collect::<Vec<_>>();
        assert_eq!(with(None), [[100, 101, 102], [103, 104, 105]]);
        assert_eq!(with(Some(1)), [[1, 101, 102], [1, 104, 105]]);
    }

    #[test]
    fn a_text_shorter_than_a_window_is_refused() {
        let refused = Windows::new(vec![1; 5], 6, None).err().unwrap();
        assert_eq!(refused, "must fill a window of 6 tokens and has 5; give a longer text or a shorter --context");
    }

    #[test]
    fn the_hash_knows_the_tokens_and_the_cut() {
        let hash = |num_tokens, context| windows(num_tokens, context, None).sha256();
        assert_eq!(hash(8, 4), hash(9, 4), "what is left out does not count");
        assert_ne!(hash(8, 4), hash(8, 8));
        assert_ne!(hash(8, 4), hash(12, 4));
    }
}
