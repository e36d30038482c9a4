//! The engine on its own thread: streams, cancellation by dropping, statistics, shutdown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::toy::*;
use crate::*;

/// The longest answer takes seconds, as each step of the toy checks the whole history: no stall of the machine between a test's two
/// calls lasts as long.
const MAX_POSITIONS: usize = 100_000;

fn start() -> EngineHandle {
    let toy = Toy::new(MAX_POSITIONS.div_ceil(PAGE_LEN), MAX_POSITIONS);
    Engine::start(toy, Arc::new(ToyText), EngineConfig::default()).unwrap()
}

fn submit(handle: &EngineHandle, max_tokens: Option<usize>) -> RequestStream {
    let request = GenerateRequest {
        prompt: prompt(100, 1),
        sampling: SamplingParams::greedy(),
        max_tokens,
        ignore_eos: true,
        ..GenerateRequest::default()
    };
    handle.submit(request.validate(&handle.limits()).unwrap()).unwrap()
}

fn wait_until_idle(handle: &EngineHandle) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let stats = handle.stats().unwrap();
        if (stats.running, stats.waiting, stats.free_pages) == (0, 0, stats.num_pages) {
            return;
        }
        assert!(Instant::now() < deadline, "still busy: {stats:?}");
    }
}

#[test]
fn a_stream_yields_its_events_and_ends() {
    let handle = start();
    let mut stream = submit(&handle, Some(5));
    assert!(matches!(stream.next(), Some(Event::Started { prompt_tokens: 100, .. })));
    let rest: Vec<Event> = stream.by_ref().collect();
    assert_eq!(rest.len(), 6);
    match &rest[5] {
        Event::Finished { reason: FinishReason::Length, usage, answers_left: 0, .. } => {
            assert_eq!((usage.prompt_tokens, usage.generated_tokens), (100, 5));
            assert!(usage.time_to_first_token.unwrap() > 0.0 && usage.decode_seconds >= 0.0 && usage.prefill_seconds > 0.0);
        }
        other => panic!("{other:?}"),
    }
    assert!(stream.next().is_none());
    assert!(matches!(stream.next_timeout(Duration::from_millis(1)), Ok(None)));
}

#[test]
fn dropping_a_stream_cancels_its_request() {
    let handle = start();
    let mut stream = submit(&handle, None);
    _ = stream.nth(3);
    drop(stream);
    wait_until_idle(&handle);
}

#[test]
fn cancelling_a_stream_ends_it_with_what_it_has() {
    let handle = start();
    let mut stream = submit(&handle, None);
    _ = stream.nth(3);
    stream.cancel();
    assert!(matches!(stream.last(), Some(Event::Finished { reason: FinishReason::Cancelled, .. })));
    wait_until_idle(&handle);
}

#[test]
fn a_drawn_seed_is_reported_and_gives_the_same_text_again() {
    let handle = start();
    let request = |seed| GenerateRequest { prompt: prompt(9, 1), max_tokens: Some(30), seed, ..GenerateRequest::default() };
    let run = |seed| handle.submit(request(seed).validate(&handle.limits()).unwrap()).unwrap().collect::<Vec<_>>();
    let first = run(None);
    let Event::Started { seed, .. } = first[0] else { panic!("{:?}", first[0]) };
    assert_eq!(collect(first), collect(run(Some(seed))));
}

#[test]
fn shutdown_cancels_what_runs_and_refuses_what_comes() {
    let handle = start();
    let stream = submit(&handle, None);
    handle.shutdown();
    assert!(matches!(stream.last(), Some(Event::Finished { reason: FinishReason::Cancelled, .. })));
    let request = GenerateRequest { prompt: vec![5], ..GenerateRequest::default() }.validate(&handle.limits()).unwrap();
    assert_eq!(handle.submit(request).err().unwrap().to_string(), "the engine has stopped; start it again");
    handle.shutdown();
}

#[test]
fn a_stream_outlives_its_handle() {
    let handle = start();
    let stream = submit(&handle, Some(50));
    drop(handle);
    assert!(matches!(stream.last(), Some(Event::Finished { reason: FinishReason::Length, .. })));
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let refused = |max_batch_tokens, max_sequences| {
        let config = EngineConfig { max_batch_tokens, max_sequences };
        Engine::start(Toy::new(5, 100), Arc::new(ToyText), config).err().unwrap().to_string()
    };
    assert_eq!(refused(8, 0), "`max_sequences` must be at least 1; given 0");
    assert_eq!(refused(8, 9), "`max_batch_tokens` must be at least `max_sequences` (9); given 8");
}
