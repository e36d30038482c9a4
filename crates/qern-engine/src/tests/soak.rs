//! A thousand random requests with random cancels in a small pool: nothing leaks, nothing stalls, every stream ends.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::toy::*;
use crate::*;

fn random_request(random: &mut ChaCha8Rng) -> GenerateRequest {
    let mut below = |n: u32| random.next_u32() % n;
    let (len, salt) = (1 + below(200) as usize, below(1000));
    let mut request = GenerateRequest { prompt: prompt(len, salt), ..GenerateRequest::default() };
    request.max_tokens = [Some(0), Some(1), Some(20), Some(60), Some(150)][below(5) as usize];
    request.n = 1 + below(3) as usize;
    request.ignore_eos = below(2) == 0;
    request.prompt_logprobs = [None, None, Some(1)][below(3) as usize];
    match below(5) {
        0 => request.sampling = SamplingParams::greedy(),
        1 => request.sampling.top_k = 5,
        2 => request.sampling.presence_penalty = 0.5,
        3 => request.stop = vec!["abc".into()],
        _ => request.beam = Some(BeamParams { width: 3, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic }),
    }
    request
}

#[test]
fn a_thousand_requests_with_cancels_leave_nothing_behind() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut bench = Bench::new(14, 96, 8);
    let mut streams = Vec::new();
    let mut num_submitted = 0;
    while num_submitted < 1000 || !bench.scheduler.is_idle() {
        if num_submitted < 1000 && bench.scheduler.stats().waiting < 6 {
            streams.push(bench.submit(random_request(&mut random)));
            num_submitted += 1;
        }
        bench.scheduler.step();
        if random.next_u32() % 20 == 0 {
            let (id, _) = &streams[streams.len() - 1 - random.next_u32() as usize % streams.len().min(10)];
            bench.scheduler.cancel(*id);
        }
        bench.scheduler.check_integrity().unwrap();
        assert!(bench.scheduler.stats().steps < 300_000, "no progress");
    }
    bench.finish();
    let mut num_cancelled = 0;
    for (id, events) in streams {
        let outcomes = collect(events.try_iter());
        assert_eq!(outcomes.failed, None, "request {id}");
        assert!(!outcomes.answers.is_empty() && outcomes.answers.iter().all(|answer| answer.reason.is_some()), "request {id}");
        num_cancelled += usize::from(outcomes.answers.iter().any(|answer| answer.reason == Some(FinishReason::Cancelled)));
    }
    assert!(num_cancelled > 50 && num_cancelled < 900, "{num_cancelled} cancelled");
    assert!(bench.scheduler.stats().preemptions > 20, "{:?}", bench.scheduler.stats());
}
