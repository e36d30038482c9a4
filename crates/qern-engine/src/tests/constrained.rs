//! Answers under a constraint: legal throughout, ended where it says, the same however they are made, cut and closed as described.

use std::sync::Arc;

use super::toy::*;
use crate::constraint::{Compiled, Constraint, ConstraintCompiler, ConstraintLimits, JsonLayout, Vocabulary};
use crate::*;

/// The toy's letters are `a` to `t`; its tokens end in none.
fn compile(regex: &str) -> Arc<Compiled> {
    let words: Vec<Vec<u8>> = (0..VOCAB as TokenId).map(|id| if id <= SPECIAL { Vec::new() } else { word(id) }).collect();
    let encode =
        |text: &str| text.bytes().map(|byte| (b'a'..b'a' + 20).contains(&byte).then(|| TokenId::from(byte - b'a') + 4)).collect();
    let vocabulary = Vocabulary::with_encoder(words, &[EOS], encode).unwrap();
    ConstraintCompiler::new(vocabulary, ConstraintLimits::default())
        .compile(&Constraint::Regex(regex.into()), JsonLayout::Free)
        .unwrap()
}

fn word(id: TokenId) -> Vec<u8> {
    ToyText.token_bytes(id).unwrap().into_owned()
}

fn constrained(regex: &str, edit: impl FnOnce(&mut GenerateRequest)) -> GenerateRequest {
    let mut request = GenerateRequest {
        prompt: prompt(70, 3),
        max_tokens: Some(60),
        seed: Some(7),
        constraint: Some(compile(regex)),
        ..GenerateRequest::default()
    };
    edit(&mut request);
    request
}

fn text_of(outcomes: &Outcomes) -> Vec<&str> {
    assert_eq!(outcomes.failed, None);
    outcomes.answers.iter().map(|answer| answer.text.as_str()).collect()
}

#[test]
fn every_answer_matches_and_ends_where_it_may() {
    for seed in 0..30 {
        let outcomes = alone(constrained("(ab|c[d-f]){2,4}g?", |r| (r.seed, r.n) = (Some(seed), 3)));
        for answer in &outcomes.answers {
            let (mut rest, mut count) = (answer.text.strip_suffix('g').unwrap_or(&answer.text), 0);
            while let Some(after) = ["ab", "cd", "ce", "cf"].iter().find_map(|part| rest.strip_prefix(part)) {
                (rest, count) = (after, count + 1);
            }
            assert!(rest.is_empty() && (2..=4).contains(&count), "{}", answer.text);
            assert_eq!(answer.reason, Some(FinishReason::Stop));
        }
    }
}

#[test]
fn forced_text_is_appended_without_sampling_and_changes_no_answer() {
    for seed in 0..10 {
        let regex = "(abcdefgh|ijklmno[p-t]){3}";
        let fast = alone(constrained(regex, |r| r.seed = Some(seed)));
        // Reporting log-probabilities needs the row of every token, so there everything is sampled.
        let slow = alone(constrained(regex, |r| (r.seed, r.logprobs) = (Some(seed), Some(0))));
        assert_eq!(fast.answers[0].tokens, slow.answers[0].tokens);
        assert_eq!(text_of(&fast), text_of(&slow));
        let forced = slow.answers[0].logprobs.iter().filter(|token| token.constrained == Some(0.0)).count();
        assert!(forced >= 15, "{forced}");
    }
    let mut bench = Bench::new(400, 512, 16);
    let before = bench.scheduler.stats().steps;
    let outcomes = bench.run(vec![constrained("abcdefghijklmnopqrst", |_| {})]).remove(0);
    assert_eq!(text_of(&outcomes), ["abcdefghijklmnopqrst"]);
    assert!(bench.scheduler.stats().steps - before <= 3, "one step for the prompt, one for the forced text");
}

#[test]
fn answers_are_the_same_in_company_and_after_being_set_back() {
    let request = |seed| constrained("[a-e]{30}(fgh)?[a-t]{10,20}", |r| (r.seed, r.n) = (Some(seed), 2));
    let expected: Vec<Outcomes> = (0..4).map(|seed| alone(request(seed))).collect();
    let together = Bench::new(9, 32, 8).run((0..4).map(request).collect());
    for (together, expected) in together.iter().zip(&expected) {
        assert_eq!(text_of(together), text_of(expected));
    }
}

#[test]
fn probabilities_are_those_among_the_legal_tokens() {
    // Two legal tokens: how often each is drawn follows the model's odds between them.
    let logits = logits_after(&prompt(70, 3));
    let odds = f64::from(logits[4] - logits[5]).exp();
    let expected = odds / (1.0 + odds);
    let mut hits = 0;
    for seed in 0..40 {
        let outcomes = alone(constrained("[ab]", |r| (r.n, r.seed, r.logprobs) = (16, Some(seed), Some(2))));
        for answer in &outcomes.answers {
            let is_a = answer.text == "a";
            hits += usize::from(is_a);
            let probability = f64::from(answer.logprobs[0].constrained.unwrap()).exp();
            assert!((probability - if is_a { expected } else { 1.0 - expected }).abs() < 1e-5);
            assert!(answer.logprobs[0].logprob < answer.logprobs[0].constrained.unwrap());
        }
    }
    let share = hits as f64 / 640.0;
    // Four standard deviations.
    assert!((share - expected).abs() < 4.0 * (0.25_f64 / 640.0).sqrt(), "{share}, expected {expected}");
}

#[test]
fn an_answer_that_is_cut_says_so_and_is_closed_on_request() {
    let outcomes = alone(constrained("a{20}b[cd]e", |r| r.max_tokens = Some(7)));
    assert_eq!(text_of(&outcomes), ["aaaaaaa"]);
    assert_eq!(outcomes.answers[0].reason, Some(FinishReason::Length));
    let outcomes = alone(constrained("a{20}b[cd]e", |r| (r.max_tokens, r.finish_structure) = (Some(7), true)));
    assert!(["aaaaaaaaaaaaaaaaaaaabce", "aaaaaaaaaaaaaaaaaaaabde"].contains(&text_of(&outcomes)[0]), "{:?}", text_of(&outcomes));
    assert_eq!(outcomes.answers[0].reason, Some(FinishReason::Length));
    // One that is complete just then was not cut.
    let outcomes = alone(constrained("a{7}", |r| r.max_tokens = Some(7)));
    assert_eq!(outcomes.answers[0].reason, Some(FinishReason::Stop));
}

#[test]
fn beams_keep_to_the_constraint() {
    let beam = BeamParams { width: 4, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic };
    let outcomes = alone(constrained("(ab|c[d-f]){2}g", |r| (r.beam, r.n, r.seed) = (Some(beam), 3, None)));
    let texts = text_of(&outcomes);
    assert_eq!(texts.len(), 3);
    for text in texts {
        let body = text.strip_suffix('g').unwrap();
        assert!(body.len() == 4 && [&body[..2], &body[2..]].iter().all(|part| ["ab", "cd", "ce", "cf"].contains(part)), "{text}");
    }
    let best = outcomes.answers.iter().map(|answer| answer.score.unwrap()).collect::<Vec<_>>();
    assert!(best.is_sorted_by(|a, b| a >= b), "{best:?}");
}

#[test]
fn stop_tokens_and_least_tokens_give_way_to_the_structure() {
    // `b` is a stop token, and in the middle of the structure a letter.
    let outcomes = alone(constrained("abc", |r| r.stop_token_ids = vec![5]));
    assert_eq!(text_of(&outcomes), ["abc"]);
    let outcomes = alone(constrained("abc?", |r| (r.min_tokens, r.max_tokens) = (50, Some(60))));
    assert_eq!(text_of(&outcomes), ["abc"]);
    let outcomes = alone(constrained("ab[cd]*", |r| r.stop = vec!["bc".into(), "bd".into()]));
    assert!(matches!(outcomes.answers[0].reason, Some(FinishReason::StopString(_) | FinishReason::Stop)));
}

#[test]
fn what_cannot_go_with_a_constraint_is_refused() {
    let limits = Bench::new(4, 64, 4).scheduler.limits();
    let refused = |edit: fn(&mut GenerateRequest)| constrained("a", edit).validate(&limits).unwrap_err().to_string();
    assert_eq!(
        refused(|r| r.ignore_eos = true),
        "`ignore_eos` must be false with a constraint, which says where an answer may end; given true"
    );
    assert_eq!(
        refused(|r| (r.constraint, r.finish_structure) = (None, true)),
        "`finish_structure` must come with a constraint; given true"
    );
    let other = Limits { vocab_size: 99, ..limits };
    assert_eq!(
        constrained("a", |_| {}).validate(&other).unwrap_err().to_string(),
        "`constraint` must be compiled for this model's 99 tokens; given 24 tokens"
    );
    // Two bytes that no letter of the toy begins with: the vocabulary cannot spell it.
    let outcomes = alone(constrained("a(é|z)", |r| r.sampling.logit_bias = [(2, -100.0)].into()));
    assert!(outcomes.failed.is_some() || outcomes.answers[0].text == "aé", "{outcomes:?}");
}
