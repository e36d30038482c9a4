//! Penalties on tokens that have occurred: repetition (transformers), presence and frequency (OpenAI). Single logits only.
//!
//! Repetition looks at prompt and answer, as its reference does; presence and frequency count the answer alone, as theirs do.

use std::collections::HashMap;

use crate::{SamplingParams, TokenId};

/// How often each token stands in the window of the last tokens. Follows a growing sequence; cheap per token.
#[derive(Clone, Debug, Default)]
pub(crate) struct Penalties {
    counts: HashMap<TokenId, Counts>,
    /// Tokens of the sequence counted so far.
    num_seen: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    anywhere: usize,
    in_answer: usize,
}

impl Penalties {
    pub(crate) fn is_off(params: &SamplingParams) -> bool {
        params.repetition_penalty == 1.0 && params.presence_penalty == 0.0 && params.frequency_penalty == 0.0
    }

    /// Penalises the tokens in the window over `tokens`, of which the first `num_prompt` are the prompt.
    ///
    /// `l > 0: l / r`, else `l * r` (Keskar et al. 2019, CTRL, as transformers has it), then
    /// `l - count * frequency - (count > 0) * presence` (OpenAI's parameter documentation).
    pub(crate) fn apply(&mut self, params: &SamplingParams, tokens: &[TokenId], num_prompt: usize, logits: &mut [f32]) {
        self.advance(params.penalty_last_n.unwrap_or(usize::MAX), tokens, num_prompt);
        for (&token, counts) in &self.counts {
            let logit = &mut logits[token as usize];
            *logit = if *logit > 0.0 { *logit / params.repetition_penalty } else { *logit * params.repetition_penalty };
            if counts.in_answer > 0 {
                *logit -= counts.in_answer as f32 * params.frequency_penalty + params.presence_penalty;
            }
        }
    }

    fn advance(&mut self, window: usize, tokens: &[TokenId], num_prompt: usize) {
        for id in self.num_seen..tokens.len() {
            let counts = self.counts.entry(tokens[id]).or_default();
            counts.anywhere += 1;
            counts.in_answer += usize::from(id >= num_prompt);
            if let Some(leaving) = id.checked_sub(window) {
                self.forget(tokens[leaving], leaving >= num_prompt);
            }
        }
        self.num_seen = tokens.len();
    }

    fn forget(&mut self, token: TokenId, in_answer: bool) {
        if let Some(counts) = self.counts.get_mut(&token) {
            counts.anywhere -= 1;
            counts.in_answer -= usize::from(in_answer);
            if counts.anywhere == 0 {
                self.counts.remove(&token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(params: SamplingParams, tokens: &[TokenId], num_prompt: usize, logits: &[f32], expected: &[f32]) {
        let mut out = logits.to_vec();
        Penalties::default().apply(&params, tokens, num_prompt, &mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn penalties_equal_hand_worked_numbers() {
        let off = SamplingParams::default();
        check(SamplingParams { repetition_penalty: 2.0, ..off.clone() }, &[0, 1, 1], 2, &[4.0, -4.0, 4.0], &[2.0, -8.0, 4.0]);
        check(SamplingParams { presence_penalty: 0.5, ..off.clone() }, &[0, 1, 1], 1, &[4.0, 4.0, 4.0], &[4.0, 3.5, 4.0]);
        check(SamplingParams { frequency_penalty: 0.5, ..off.clone() }, &[0, 1, 1], 1, &[4.0, 4.0, 4.0], &[4.0, 3.0, 4.0]);
        let all = SamplingParams { repetition_penalty: 2.0, presence_penalty: 0.5, frequency_penalty: 0.25, ..off.clone() };
        check(all, &[2, 2], 0, &[1.0, 1.0, 4.0], &[1.0, 1.0, 1.0]);
        let window = SamplingParams { repetition_penalty: 2.0, penalty_last_n: Some(1), ..off };
        check(window.clone(), &[0, 1], 0, &[4.0, 4.0], &[4.0, 2.0]);
        check(SamplingParams { penalty_last_n: Some(0), ..window }, &[0, 1], 0, &[4.0, 4.0], &[4.0, 4.0]);
    }

    #[test]
    fn a_forbidden_token_stays_forbidden() {
        let params = SamplingParams { repetition_penalty: 2.0, presence_penalty: -2.0, ..SamplingParams::default() };
        check(params, &[0], 0, &[f32::NEG_INFINITY, 1.0], &[f32::NEG_INFINITY, 1.0]);
    }

    proptest! {
        #[test]
        fn following_a_sequence_equals_counting_its_window(
            tokens in prop::collection::vec(0..6u32, 0..40),
            num_prompt in 0..10usize,
            window in prop::option::of(0..12usize),
        ) {
            let params = SamplingParams {
                repetition_penalty: 1.5, presence_penalty: 0.5, frequency_penalty: 0.25, penalty_last_n: window,
                ..SamplingParams::default()
            };
            let logits = [3.0, -2.0, 1.0, 0.0, -1.0, 2.0];
            let mut follower = Penalties::default();
            for len in 0..=tokens.len() {
                let mut ours = logits;
                follower.apply(&params, &tokens[..len], num_prompt, &mut ours);
                let start = len - window.unwrap_or(len).min(len);
                for (id, &logit) in logits.iter().enumerate() {
                    let at = |range: std::ops::Range<usize>| range.filter(|&i| tokens[i] == id as u32).count();
                    let (seen, answered) = (at(start..len), at(start.max(num_prompt).min(len)..len));
                    let mut expected = logit;
                    if seen > 0 { expected = if logit > 0.0 { logit / 1.5 } else { logit * 1.5 }; }
                    if answered > 0 { expected -= answered as f32 * 0.25 + 0.5; }
                    prop_assert_eq!(ours[id], expected);
                }
            }
        }
    }
}
