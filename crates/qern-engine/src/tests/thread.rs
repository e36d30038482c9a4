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
        let config = EngineConfig { max_batch_tokens, max_sequences, ..EngineConfig::default() };
        Engine::start(Toy::new(5, 100), Arc::new(ToyText), config).err().unwrap().to_string()
    };
    assert_eq!(refused(8, 0), "`max_sequences` must be at least 1; given 0");
    assert_eq!(refused(8, 9), "`max_batch_tokens` must be at least `max_sequences` (9); given 8");
}

#[test]
fn a_full_queue_refuses_at_once_and_takes_more_when_it_has_room() {
    let config = EngineConfig { max_sequences: 1, max_waiting: 2, ..EngineConfig::default() };
    let toy = Toy::new(MAX_POSITIONS.div_ceil(PAGE_LEN), MAX_POSITIONS);
    let handle = Engine::start(toy, Arc::new(ToyText), config).unwrap();
    let mut running = submit(&handle, None);
    assert!(matches!(running.next(), Some(Event::Started { .. })));
    let waiting = [submit(&handle, Some(3)), submit(&handle, Some(3))];
    let request = || GenerateRequest { prompt: vec![5], ..GenerateRequest::default() }.validate(&handle.limits()).unwrap();
    match handle.submit(request()).err() {
        Some(error @ Error::QueueFull { waiting: 2, limit: 2, .. }) => {
            assert!(error.to_string().starts_with("2 requests are waiting, and at most 2 may; try again in "), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(handle.stats().unwrap().waiting, 2);
    drop(running);
    for stream in waiting {
        assert!(matches!(stream.last(), Some(Event::Finished { reason: FinishReason::Length, .. })));
    }
    assert!(handle.submit(request()).is_ok());
}

#[test]
fn a_drain_refuses_what_comes_and_finishes_what_runs() {
    let handle = start();
    let mut stream = submit(&handle, Some(200));
    _ = stream.next();
    let drain = handle.drain();
    let request = GenerateRequest { prompt: vec![5], ..GenerateRequest::default() }.validate(&handle.limits()).unwrap();
    assert!(matches!(handle.submit(request), Err(Error::Draining)));
    assert!(matches!(handle.embed(embed_request()), Err(Error::Draining)));
    assert!(drain.wait_timeout(Duration::from_secs(60)).is_ok());
    assert!(matches!(stream.last(), Some(Event::Finished { reason: FinishReason::Length, .. })));
    pollster::block_on(handle.drain().wait_async());
}

#[test]
fn streams_and_embeddings_can_be_awaited() {
    let handle = start();
    let mut stream = submit(&handle, Some(5));
    let mut events = Vec::new();
    pollster::block_on(async {
        while let Some(event) = stream.next_async().await {
            events.push(event);
        }
    });
    assert_eq!(collect(events).answers[0].tokens.len(), 5);
    let waited = handle.embed(embed_request()).unwrap().wait().unwrap();
    let awaited = pollster::block_on(handle.embed(embed_request()).unwrap().wait_async()).unwrap();
    assert_eq!((waited.vectors.len(), waited.prompt_tokens), (2, 70));
    assert_eq!(waited.vectors, awaited.vectors);
    drop(handle.embed(embed_request()).unwrap());
    wait_until_idle(&handle);
    handle.shutdown();
    assert!(matches!(handle.stats(), Err(Error::Stopped)));
}

fn embed_request() -> EmbedRequest {
    EmbedRequest { inputs: vec![prompt(50, 1), prompt(20, 2)], ..EmbedRequest::default() }
}
