//! Time limits and slow readers, stepped by hand: no clock is waited for.

use std::time::{Duration, Instant};

use super::toy::*;
use crate::stream::MAX_UNREAD;
use crate::*;

fn endless(salt: u32) -> GenerateRequest {
    GenerateRequest { prompt: prompt(30, salt), ignore_eos: true, seed: Some(1), ..GenerateRequest::default() }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn answers_end_with_what_they_have_when_their_time_is_up() {
    let mut bench = Bench::new(40, 512, 4);
    let beam = BeamParams { width: 3, length_penalty: 1.0, early_stopping: EarlyStopping::Never };
    let requests = [
        GenerateRequest { n: 2, timeout: Some(HOUR), ..endless(1) },
        GenerateRequest { timeout: Some(2 * HOUR), ..endless(2) },
        // It waits: the others leave it no room.
        GenerateRequest { n: 2, timeout: Some(HOUR), max_tokens: Some(5), ..endless(3) },
    ];
    let streams = requests.map(|request| bench.submit(request).1);
    (0..10).for_each(|_| _ = bench.scheduler.step());
    bench.scheduler.expire(Instant::now() + HOUR);
    assert_eq!((bench.scheduler.stats().running, bench.scheduler.stats().waiting), (1, 0));
    assert_eq!(bench.scheduler.stats().counts.finished_deadline, 4);
    let (_, beams) = bench.submit(GenerateRequest { beam: Some(beam), timeout: Some(HOUR), ..endless(4) });
    (0..10).for_each(|_| _ = bench.scheduler.step());
    bench.scheduler.expire(Instant::now() + 2 * HOUR);
    assert!(bench.scheduler.is_idle());
    bench.finish();
    let lens = |events: flume::Receiver<Event>| {
        let answers = collect(events.try_iter()).answers;
        assert!(answers.iter().all(|answer| answer.reason == Some(FinishReason::Deadline)));
        answers.iter().map(|answer| answer.tokens.len()).collect::<Vec<_>>()
    };
    let [first, second, waiting] = streams;
    assert!(lens(first).iter().all(|&len| len > 5));
    assert!(lens(second)[0] > 15);
    assert_eq!(lens(waiting), [0, 0]);
    assert!(lens(beams)[0] > 5);
}

#[test]
fn a_reader_that_is_behind_holds_no_pages_and_misses_nothing() {
    let mut bench = Bench::with(Toy::new(400, 20_000), 512, 4);
    let (_, events) = bench.submit(endless(1));
    let mut read = Vec::new();
    while bench.scheduler.step() {
        read.extend(events.try_iter());
    }
    let expected = collect(read);
    let (_, events) = bench.submit(endless(1));
    let mut read = Vec::new();
    let mut num_stalls = 0;
    while !bench.scheduler.is_idle() {
        if !bench.scheduler.step() {
            num_stalls += 1;
            assert!(events.len() <= MAX_UNREAD + 1, "{} events wait", events.len());
            assert_eq!(bench.scheduler.stats().free_pages, 400);
            // Others are not held up.
            assert_eq!(bench.run_beside(GenerateRequest { max_tokens: Some(3), ..endless(2) }).answers[0].tokens.len(), 3);
            read.extend(events.try_iter());
        }
    }
    read.extend(events.try_iter());
    assert!(num_stalls > 3, "{num_stalls}");
    assert_eq!(collect(read), expected);
}
