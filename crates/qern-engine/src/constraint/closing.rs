//! How an answer that ran out of tokens is brought to a valid end: quickly, without the model. Chooses what closes over what opens;
//! promises nothing about beauty. It has no map of the grammar: a pattern that wants a certain word in the middle of anything
//! (`.*ENVELOPE.*`) it does not find, and says so.

use super::{Mask, Matcher};
use crate::TokenId;

/// Bytes that are tried where there is a choice, first those that end something. Inside a string of JSON everything is legal, so one
/// way begins with the quote and another ends with it.
const ORDERS: [&[u8]; 2] = [b"\"}]></;,:\n 0an1tf2Z-.", b"}]>/<\"\n,;: 0n1tfa2Z-."];

/// How a token is chosen.
enum Way<'a> {
    /// The first of these that is legal.
    Order(&'a [u8]),
    /// A quote if it is legal, else what was taken least often so far: gets through patterns that want each of several characters.
    Rotate,
}

impl Matcher {
    /// Tokens that complete the answer; `None` if none are found within `max_tokens`. Commits nothing.
    pub fn closing_tokens(&self, max_tokens: usize) -> Option<Vec<TokenId>> {
        let ways = ORDERS.iter().map(|order| Way::Order(order)).chain([Way::Rotate]);
        let mut best: Option<Vec<TokenId>> = None;
        for way in ways {
            // Another way is only of interest while it is shorter.
            let limit = best.as_ref().map_or(max_tokens, |best| best.len().saturating_sub(1));
            best = self.close(&way, limit).or(best);
        }
        best
    }

    fn close(&self, way: &Way<'_>, max_tokens: usize) -> Option<Vec<TokenId>> {
        let mut matcher = self.clone();
        let (mut tokens, mut taken) = (Vec::new(), [0_u32; 256]);
        while !matcher.is_accepting() {
            if tokens.len() == max_tokens {
                return None;
            }
            let mask = matcher.mask().ok()?.clone();
            let token = mask.only().or_else(|| matcher.choose(way, &mask, &mut taken))?;
            matcher.commit(token).ok()?;
            tokens.push(token);
        }
        Some(tokens)
    }

    fn choose(&self, way: &Way<'_>, mask: &Mask, taken: &mut [u32; 256]) -> Option<TokenId> {
        let legal = |byte: u8| self.vocabulary().token_of(&[byte]).filter(|&token| mask.allows(token));
        let chosen = match way {
            Way::Order(order) => order.iter().copied().find(|&byte| legal(byte).is_some()),
            Way::Rotate if legal(b'"').is_some() => Some(b'"'),
            Way::Rotate => {
                let first = ORDERS[1].iter().copied();
                let all = first.chain((b' '..=b'~').filter(|byte| !ORDERS[1].contains(byte)));
                all.filter(|&byte| legal(byte).is_some()).min_by_key(|&byte| taken[usize::from(byte)])
            }
        };
        let Some(byte) = chosen else {
            // No single byte will do: whatever is legal and no end.
            return mask.tokens().find(|token| !self.vocabulary().eos().contains(token));
        };
        taken[usize::from(byte)] += 1;
        legal(byte)
    }
}
