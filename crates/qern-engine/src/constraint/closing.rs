//! How an answer that ran out of tokens is brought to a valid end: quickly, without the model. Chooses what closes over what opens;
//! promises nothing about beauty.

use super::Matcher;
use crate::TokenId;

/// Bytes that are tried where there is a choice, first those that end something. Inside a string of JSON everything is legal, so the
/// quote is the first.
const ORDERS: [&[u8]; 2] = [b"\"}]></;,:\n 0an1tf2Z-.", b"}]>/<\"\n,;: 0n1tfa2Z-."];

impl Matcher {
    /// Tokens that complete the answer; `None` if none are found within `max_tokens`. Commits nothing.
    pub fn closing_tokens(&self, max_tokens: usize) -> Option<Vec<TokenId>> {
        let ways = ORDERS.iter().filter_map(|order| self.close(order, max_tokens));
        ways.min_by_key(Vec::len)
    }

    fn close(&self, order: &[u8], max_tokens: usize) -> Option<Vec<TokenId>> {
        let mut matcher = self.clone();
        let mut tokens = Vec::new();
        while !matcher.is_accepting() {
            if tokens.len() == max_tokens {
                return None;
            }
            let eos = matcher.vocabulary().eos().to_vec();
            let mask = matcher.mask().ok()?.clone();
            let preferred = order.iter().filter_map(|&byte| matcher.vocabulary().token_of(&[byte]));
            let token = mask.only().or_else(|| preferred.into_iter().find(|&token| mask.allows(token)));
            let token = token.or_else(|| mask.tokens().find(|token| !eos.contains(token)))?;
            matcher.commit(token).ok()?;
            tokens.push(token);
        }
        Some(tokens)
    }
}
