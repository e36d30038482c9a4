//! How answers end, what they report, and what is refused: one claim per case.

use super::toy::*;
use crate::*;

fn greedy(edit: impl FnOnce(&mut GenerateRequest)) -> GenerateRequest {
    let mut request = GenerateRequest {
        prompt: prompt(10, 1),
        sampling: SamplingParams::greedy(),
        max_tokens: Some(40),
        ignore_eos: true,
        ..GenerateRequest::default()
    };
    edit(&mut request);
    request
}

fn one(request: GenerateRequest) -> Outcome {
    let outcomes = alone(request);
    assert_eq!((outcomes.answers.len(), &outcomes.failed), (1, &None));
    outcomes.answers.into_iter().next().unwrap()
}

/// The greedy continuation, by the definition.
fn continuation(prompt: &[TokenId], len: usize) -> Vec<TokenId> {
    let mut tokens = prompt.to_vec();
    for _ in 0..len {
        let logits = logits_after(&tokens);
        let best = (0..VOCAB).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        tokens.push(best as TokenId);
    }
    tokens.split_off(prompt.len())
}

fn text_of(tokens: &[TokenId]) -> String {
    let bytes: Vec<u8> = tokens
        .iter()
        .filter(|&&id| !ToyText.is_special(id))
        .flat_map(|&id| ToyText.token_bytes(id).unwrap().into_owned())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn an_answer_is_the_greedy_continuation_and_its_text() {
    let answer = one(greedy(|_| {}));
    let expected = continuation(&prompt(10, 1), 40);
    assert_eq!(answer.tokens, expected);
    assert_eq!(answer.text, text_of(&expected));
    assert_eq!((answer.reason, answer.generated), (Some(FinishReason::Length), 40));
}

#[test]
fn stop_tokens_end_the_answer_and_are_not_part_of_it() {
    let expected = continuation(&prompt(10, 1), 40);
    let stop = expected[12];
    let first = expected.iter().position(|&token| token == stop).unwrap();
    let answer = one(greedy(|r| r.stop_token_ids = vec![stop]));
    assert_eq!((answer.tokens.as_slice(), answer.reason), (&expected[..first], Some(FinishReason::Stop)));
    assert_eq!(answer.generated, first + 1);
}

#[test]
fn the_models_end_token_ends_the_answer_unless_ignored() {
    // Some prompt whose continuation has an end token.
    let (salt, end) = (1..200)
        .find_map(|salt| continuation(&prompt(10, salt), 40).iter().position(|&id| id == EOS).map(|end| (salt, end)))
        .unwrap();
    let with = |ignore_eos| one(greedy(|r| (r.prompt, r.ignore_eos) = (prompt(10, salt), ignore_eos)));
    assert_eq!((with(false).tokens.len(), with(false).reason), (end, Some(FinishReason::Stop)));
    assert_eq!(with(true).tokens.len(), 40);
    let forced = one(greedy(|r| (r.prompt, r.ignore_eos, r.min_tokens) = (prompt(10, salt), false, end + 2)));
    assert!(forced.tokens.len() >= end + 2 && !forced.tokens.contains(&EOS));
}

#[test]
fn stop_strings_end_the_answer_across_tokens() {
    let expected = text_of(&continuation(&prompt(10, 1), 40));
    let stop: String = expected.chars().skip(8).take(3).collect();
    let place = expected.find(&stop).unwrap();
    let answer = one(greedy(|r| r.stop = vec![stop.clone(), "never".into()]));
    assert_eq!((answer.text.as_str(), answer.reason), (&expected[..place], Some(FinishReason::StopString(stop.clone()))));
    let answer = one(greedy(|r| (r.stop, r.include_stop) = (vec![stop.clone()], true)));
    assert_eq!(answer.text, expected[..place + stop.len()]);
}

#[test]
fn special_tokens_are_shown_on_request_alone() {
    let bias = |r: &mut GenerateRequest| {
        r.sampling.logit_bias.insert(SPECIAL, 100.0);
        r.max_tokens = Some(2);
    };
    assert_eq!(one(greedy(bias)).text, "");
    assert_eq!(one(greedy(|r| (bias(r), r.show_special = true).0)).text, "<special><special>");
}

#[test]
fn the_models_context_ends_the_answer() {
    let mut bench = Bench::with(Toy::new(10, 50), 512, 4);
    let outcomes = bench.run(vec![greedy(|r| r.max_tokens = None)]);
    assert_eq!(outcomes[0].answers[0].tokens.len(), 40);
    assert_eq!(outcomes[0].answers[0].reason, Some(FinishReason::Context));
}

#[test]
fn a_full_pool_ends_the_last_request_standing_with_what_it_has() {
    let mut bench = Bench::new(3, 512, 4);
    let outcomes = bench.run(vec![greedy(|r| r.max_tokens = None), greedy(|r| (r.max_tokens, r.prompt) = (None, prompt(70, 2)))]);
    for (outcome, num_prompt) in outcomes.iter().zip([10, 70]) {
        let answer = &outcome.answers[0];
        // The last token needs no page of its own.
        assert_eq!((answer.tokens.len(), &answer.reason), (3 * PAGE_LEN + 1 - num_prompt, &Some(FinishReason::Context)));
    }
}

#[test]
fn several_answers_in_too_small_a_pool_take_turns() {
    let request =
        || GenerateRequest { sampling: SamplingParams::default(), seed: Some(1), ..greedy(|r| r.prompt = prompt(90, 2)) };
    let several = || GenerateRequest { n: 4, max_tokens: Some(100), ..request() };
    // Three pages hold one answer of 190 tokens at a time; they take turns, and miss nothing.
    assert_eq!(Bench::new(3, 512, 4).run(vec![several()])[0], alone(several()));
    assert_eq!(Bench::new(3, 512, 4).run(vec![several(), request()])[1], alone(request()));
}

#[test]
fn log_probabilities_are_those_of_the_models_own_logits() {
    let request = greedy(|r| {
        (r.logprobs, r.prompt_logprobs, r.max_tokens) = (Some(4), Some(2), Some(5));
        r.prompt = prompt(100, 1);
        r.sampling = SamplingParams { temperature: 0.3, top_k: 4, repetition_penalty: 1.3, ..SamplingParams::default() };
    });
    let outcomes = alone(request.clone());
    let tokens = [request.prompt.clone(), outcomes.answers[0].tokens.clone()].concat();
    let reported = [outcomes.prompt.clone().unwrap(), outcomes.answers[0].logprobs.clone()].concat();
    assert_eq!(reported.len(), tokens.len() - 1);
    for (place, logprob) in reported.iter().enumerate() {
        let logits = logits_after(&tokens[..=place]);
        let total = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
        assert_eq!(logprob.id, tokens[place + 1]);
        assert!((f64::from(logprob.logprob) - (f64::from(logits[logprob.id as usize]) - total)).abs() < 1e-5);
        let mut order: Vec<u32> = (0..VOCAB as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        order.truncate(if place + 1 < 100 { 2 } else { 4 });
        assert_eq!(logprob.top.iter().map(|top| top.id).collect::<Vec<_>>(), order);
    }
}

#[test]
fn a_prompt_can_be_scored_without_an_answer() {
    let outcomes = alone(greedy(|r| (r.prompt_logprobs, r.max_tokens, r.prompt) = (Some(1), Some(0), prompt(200, 3))));
    assert_eq!(outcomes.prompt.unwrap().len(), 199);
    assert_eq!((outcomes.answers[0].generated, &outcomes.answers[0].reason), (0, &Some(FinishReason::Length)));
}

#[test]
fn broken_logits_fail_their_request_and_no_other() {
    let mut toy = Toy::new(20, 500);
    toy.poison = Some(23);
    let mut bench = Bench::with(toy, 512, 4);
    let clean = || GenerateRequest { max_tokens: Some(1), ..greedy(|r| r.prompt = vec![5, 6]) };
    let outcomes = bench.run(vec![greedy(|r| r.prompt = vec![2, 23])]);
    assert_eq!(
        outcomes[0].failed.as_deref(),
        Some("the logit of token 0 at position 2 is NaN; the weights or the computation are broken")
    );
    assert_eq!(bench.run(vec![clean()])[0].failed, None);
}

#[test]
fn a_model_error_fails_the_requests_of_its_step_and_the_engine_goes_on() {
    let mut toy = Toy::new(20, 500);
    toy.fail_at = Some(1);
    let mut bench = Bench::with(toy, 512, 4);
    let outcomes = bench.run(vec![greedy(|_| {}), greedy(|r| r.n = 2)]);
    assert!(outcomes.iter().all(|o| o.failed.as_deref() == Some("the model failed to run a step: the toy broke")));
    assert_eq!(bench.run(vec![greedy(|_| {})])[0].failed, None);
}

#[test]
fn cancelling_gives_the_pages_back_at_once() {
    let mut bench = Bench::new(40, 512, 8);
    let (id, events) = bench.submit(greedy(|r| (r.n, r.prompt) = (3, prompt(200, 1))));
    let (waiting, waiting_events) = bench.submit(greedy(|r| r.n = 8));
    (0..6).for_each(|_| _ = bench.scheduler.step());
    assert!(bench.scheduler.stats().free_pages < 40);
    bench.scheduler.cancel(id);
    bench.scheduler.cancel(waiting);
    bench.scheduler.check_integrity().unwrap();
    assert_eq!((bench.scheduler.stats().free_pages, bench.scheduler.is_idle()), (40, true));
    for (events, n) in [(events, 3), (waiting_events, 8)] {
        let outcomes = collect(events.try_iter());
        assert_eq!(outcomes.answers.len(), n);
        assert!(outcomes.answers.iter().all(|answer| answer.reason == Some(FinishReason::Cancelled)));
    }
}
