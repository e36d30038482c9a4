//! The same request gives the same answer whoever shares the batch, however it is chunked, and however often it is set back.

use super::toy::*;
use crate::*;

fn requests() -> Vec<GenerateRequest> {
    let base = |len, salt| GenerateRequest {
        prompt: prompt(len, salt),
        max_tokens: Some(90),
        seed: Some(u64::from(salt)),
        ignore_eos: true,
        ..GenerateRequest::default()
    };
    let sampling = |edit: fn(&mut SamplingParams)| {
        let mut params = SamplingParams::default();
        edit(&mut params);
        params
    };
    vec![
        GenerateRequest { sampling: SamplingParams::greedy(), ..base(130, 1) },
        base(1, 2),
        GenerateRequest { sampling: sampling(|p| (p.top_k, p.top_p) = (8, 0.9)), n: 3, ..base(70, 3) },
        GenerateRequest { sampling: sampling(|p| (p.mirostat, p.mirostat_tau) = (2, 3.0)), ..base(64, 4) },
        GenerateRequest { sampling: sampling(|p| (p.dry_multiplier, p.repetition_penalty) = (0.8, 1.2)), ..base(200, 5) },
        GenerateRequest { logprobs: Some(3), prompt_logprobs: Some(2), ..base(150, 6) },
        GenerateRequest { prompt_logprobs: Some(0), n: 2, max_tokens: Some(70), ..base(129, 7) },
        GenerateRequest { stop: vec!["ab".into(), "qr".into()], ignore_eos: false, ..base(20, 8) },
        GenerateRequest {
            beam: Some(BeamParams { width: 3, length_penalty: 1.0, early_stopping: EarlyStopping::Never }),
            n: 2,
            ignore_eos: false,
            min_tokens: 30,
            max_tokens: Some(80),
            ..base(65, 9)
        },
    ]
}

#[test]
fn answers_depend_on_the_request_alone() {
    let expected: Vec<Outcomes> = requests().into_iter().map(alone).collect();
    for answers in &expected {
        assert!(answers.failed.is_none() && !answers.answers.is_empty());
    }
    let mut preempted = 0;
    for (num_pages, max_batch_tokens, max_sequences) in [
        (400, 512, 16),
        (400, 16, 16),
        (400, 64, 4),
        (400, 5, 3),
        (24, 512, 16),
        (16, 33, 16),
        (12, 512, 8),
        (14, 17, 5),
        (11, 64, 8),
        (10, 512, 16),
    ] {
        let mut bench = Bench::new(num_pages, max_batch_tokens, max_sequences);
        let outcomes = bench.run(requests());
        for (id, (ours, expected)) in outcomes.iter().zip(&expected).enumerate() {
            assert_eq!(ours, expected, "request {id} at {num_pages} pages, {max_batch_tokens} tokens, {max_sequences} sequences");
        }
        preempted += bench.scheduler.stats().preemptions;
    }
    assert!(preempted > 8, "the small pools preempt: {preempted}");
}

#[test]
fn answers_equal_sampling_by_hand() {
    for index in 0..3 {
        let request = requests().remove(2);
        let mut tokens = request.prompt.clone();
        let mut sampler = Sampler::new(request.sampling.clone().validate(VOCAB).unwrap(), 3, index);
        let num_prompt = tokens.len();
        for _ in 0..90 {
            let context = SamplerContext { tokens: &tokens, num_prompt, forbidden: &[], legal: None, text: &ToyText };
            let token = sampler.sample(&logits_after(&tokens), context, &mut SamplerScratch::default()).unwrap();
            tokens.push(token);
        }
        assert_eq!(alone(request).answers[index].tokens, tokens[num_prompt..]);
    }
}

#[test]
fn the_answers_of_one_request_share_the_pages_of_its_prompt() {
    let mut bench = Bench::new(40, 512, 8);
    let (_, _events) = bench.submit(GenerateRequest {
        prompt: prompt(641, 1),
        n: 8,
        max_tokens: Some(3),
        ignore_eos: true,
        ..GenerateRequest::default()
    });
    bench.scheduler.step();
    bench.scheduler.step();
    bench.scheduler.step();
    // Ten full pages once, and the eleventh for each.
    assert_eq!(bench.scheduler.stats().free_pages, 40 - 10 - 8);
    bench.finish();
}

#[test]
fn requests_start_in_the_order_they_came() {
    let mut bench = Bench::new(4, 512, 2);
    let streams: Vec<_> = (1..6)
        .map(|salt| {
            let request = GenerateRequest { prompt: prompt(60, salt), max_tokens: Some(5), ..GenerateRequest::default() };
            bench.submit(request).1
        })
        .collect();
    let mut started = Vec::new();
    while !bench.scheduler.is_idle() {
        bench.scheduler.step();
        for (id, stream) in streams.iter().enumerate() {
            if stream.try_iter().any(|event| matches!(event, Event::Started { .. })) {
                started.push(id);
            }
        }
    }
    assert_eq!(started, [0, 1, 2, 3, 4]);
}
