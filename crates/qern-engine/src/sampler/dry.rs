//! DRY ("don't repeat yourself"): penalises the tokens that would continue a repetition of earlier text. Single logits only.
//!
//! Definition: p-e-w, text-generation-webui pull request 5677; details (window, breakers, exponent clamp) as in llama.cpp.
//! A breaker here is matched on the text of the tokens, wherever the token boundaries fall.

use std::collections::HashMap;

use crate::{SamplingParams, TokenId, TokenText};

/// Subtracts `multiplier * base ^ (length - allowed_length)` from each token that would continue a repetition of that length.
pub(crate) fn apply(params: &SamplingParams, tokens: &[TokenId], text: &dyn TokenText, logits: &mut [f32]) {
    if params.dry_multiplier == 0.0 {
        return;
    }
    let window = &tokens[tokens.len() - params.dry_last_n.unwrap_or(tokens.len()).min(tokens.len())..];
    let max_length = since_breaker(&params.dry_sequence_breakers, window, text);
    if max_length < params.dry_allowed_length {
        return;
    }
    for (token, length) in repetitions(window, max_length) {
        if length < params.dry_allowed_length || is_breaker(&params.dry_sequence_breakers, token, text) {
            continue;
        }
        let exponent = (length - params.dry_allowed_length).min(max_exponent(params.dry_base));
        logits[token as usize] -= params.dry_multiplier * params.dry_base.powf(exponent as f32);
    }
}

/// For each token that continues a repetition, the longest one it continues: how many of the last tokens also stand before
/// an earlier occurrence of it. At most `max_length`.
fn repetitions(window: &[TokenId], max_length: usize) -> HashMap<TokenId, usize> {
    let lengths = suffix_lengths(window);
    let mut longest = HashMap::new();
    for (end, length) in lengths.into_iter().enumerate().filter(|&(_, length)| length > 0) {
        let length = length.min(max_length);
        let entry = longest.entry(window[end + 1]).or_insert(length);
        *entry = length.max(*entry);
    }
    longest
}

/// `lengths[i]`: how many tokens ending at `i` equal the window's last ones, for all `i` but the last. Linear: the Z-function
/// (Gusfield 1997) of the reversed window.
fn suffix_lengths(window: &[TokenId]) -> Vec<usize> {
    let n = window.len();
    let reversed = |i: usize| window[n - 1 - i];
    let mut z = vec![0; n];
    let (mut left, mut right) = (0, 0);
    for i in 1..n {
        let mut len = if i < right { z[i - left].min(right - i) } else { 0 };
        while i + len < n && reversed(len) == reversed(i + len) {
            len += 1;
        }
        z[i] = len;
        if i + len > right {
            (left, right) = (i, i + len);
        }
    }
    (0..n.saturating_sub(1)).map(|i| z[n - 1 - i]).collect()
}

/// How many tokens come after the last token of the nearest breaker: no repetition reaches further back.
fn since_breaker(breakers: &[String], window: &[TokenId], text: &dyn TokenText) -> usize {
    let longest = breakers.iter().map(String::len).max().unwrap_or(0);
    let bytes_of = |token: TokenId| text.token_bytes(token).unwrap_or_default();
    for start in (0..window.len()).rev() {
        let first = bytes_of(window[start]);
        // The text from this token on, as far as a breaker that begins in it can reach; and where each token of it ends.
        let mut bytes = first.to_vec();
        let mut ends = vec![bytes.len()];
        while bytes.len() + 1 < first.len() + longest && start + ends.len() < window.len() {
            bytes.extend_from_slice(&bytes_of(window[start + ends.len()]));
            ends.push(bytes.len());
        }
        let matches = breakers.iter().flat_map(|breaker| {
            let starts = (0..first.len()).filter(|&at| bytes[at..].starts_with(breaker.as_bytes()));
            starts.map(|at| at + breaker.len())
        });
        if let Some(end) = matches.max() {
            let num_tokens = ends.iter().position(|&token_end| end <= token_end).map_or(ends.len(), |last| last + 1);
            return window.len() - start - num_tokens;
        }
    }
    window.len()
}

fn is_breaker(breakers: &[String], token: TokenId, text: &dyn TokenText) -> bool {
    let bytes = text.token_bytes(token).unwrap_or_default();
    breakers.iter().any(|breaker| bytes.windows(breaker.len()).any(|window| window == breaker.as_bytes()))
}

/// The largest exponent whose power is finite in f32.
fn max_exponent(base: f32) -> usize {
    if base > 1.000_001 { (f32::MAX.ln() / base.ln()) as usize } else { usize::MAX }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;

    /// Token `i` is the `i`-th string.
    struct Words(Vec<&'static str>);

    impl TokenText for Words {
        fn token_bytes(&self, id: TokenId) -> Option<Cow<'_, [u8]>> {
            self.0.get(id as usize).map(|word| Cow::Borrowed(word.as_bytes()))
        }
        fn is_special(&self, _: TokenId) -> bool {
            false
        }
        fn eos_ids(&self) -> &[TokenId] {
            &[]
        }
    }

    fn check(edit: impl FnOnce(&mut SamplingParams), tokens: &[TokenId], expected: &[f32]) {
        let mut params = SamplingParams { dry_multiplier: 1.0, dry_base: 2.0, ..SamplingParams::default() };
        edit(&mut params);
        let words = Words(vec!["a", "b", "c", "d", "\n", "x:", "ab", "EN", "D"]);
        let mut logits = vec![0.0; 9];
        apply(&params, tokens, &words, &mut logits);
        assert_eq!(&logits[..expected.len()], expected, "{tokens:?}");
    }

    #[test]
    fn penalties_equal_hand_worked_numbers() {
        // "a b c | a b": c would continue a repetition of length 2 (allowed): 1 * 2^0.
        check(|_| {}, &[0, 1, 2, 0, 1], &[0.0, 0.0, -1.0, 0.0]);
        // "a b c d | a b c": length 3, 2^1.
        check(|_| {}, &[0, 1, 2, 3, 0, 1, 2], &[0.0, 0.0, 0.0, -2.0]);
        check(|p| p.dry_multiplier = 0.5, &[0, 1, 2, 3, 0, 1, 2], &[0.0, 0.0, 0.0, -1.0]);
        check(|p| p.dry_allowed_length = 3, &[0, 1, 2, 3, 0, 1, 2], &[0.0, 0.0, 0.0, -1.0]);
        check(|p| p.dry_allowed_length = 4, &[0, 1, 2, 3, 0, 1, 2], &[0.0; 9]);
        check(|p| p.dry_multiplier = 0.0, &[0, 1, 2, 3, 0, 1, 2], &[0.0; 9]);
        // Two continuations of the same text, and the longest match of one of them.
        check(|_| {}, &[0, 1, 2, 3, 0, 1, 3, 2, 0, 1], &[0.0, 0.0, -1.0, -1.0]);
        check(|_| {}, &[0, 1, 2, 3, 0, 1, 2, 2, 0, 1], &[0.0, 0.0, -1.0, 0.0]);
        // The window hides the earlier text.
        check(|p| p.dry_last_n = Some(4), &[0, 1, 2, 0, 1], &[0.0; 9]);
        check(|_| {}, &[], &[0.0; 9]);
    }

    #[test]
    fn a_breaker_cuts_the_repetition_and_is_never_penalised() {
        // The repetition "b" after the newline has length 1, under the allowed 2.
        check(|_| {}, &[4, 1, 2, 4, 1], &[0.0; 9]);
        check(|_| {}, &[4, 0, 1, 2, 4, 0, 1], &[0.0, 0.0, -1.0, 0.0]);
        // A breaker inside a token's text.
        check(|_| {}, &[5, 1, 2, 5, 1], &[0.0; 9]);
        // The newline itself would continue "a b".
        check(|_| {}, &[0, 1, 4, 0, 1], &[0.0; 9]);
        // A breaker over two tokens: "EN" + "D".
        check(|p| p.dry_sequence_breakers = vec!["END".into()], &[7, 8, 1, 2, 7, 8, 1], &[0.0; 9]);
        check(|p| p.dry_sequence_breakers = vec![], &[7, 8, 1, 2, 7, 8, 1], &[0.0, 0.0, -2.0]);
    }

    #[test]
    fn a_very_long_repetition_stays_finite() {
        let tokens = vec![0; 1000];
        let mut logits = vec![0.0; 2];
        let params = SamplingParams { dry_multiplier: 1.0, ..SamplingParams::default() };
        apply(&params, &tokens, &Words(vec!["a", "b"]), &mut logits);
        assert!(logits[0].is_finite() && logits[0] < -1e30 && logits[1] == 0.0);
    }

    proptest! {
        #[test]
        fn repetitions_equal_the_quadratic_definition(window in prop::collection::vec(0..3u32, 0..60), max_length in 1..70usize) {
            let mut expected = HashMap::new();
            for next in 1..window.len() {
                let length = (0..next).take_while(|&i| window[next - 1 - i] == window[window.len() - 1 - i]).count().min(max_length);
                if length > 0 {
                    let entry = expected.entry(window[next]).or_insert(0);
                    *entry = length.max(*entry);
                }
            }
            prop_assert_eq!(repetitions(&window, max_length), expected);
        }
    }
}
