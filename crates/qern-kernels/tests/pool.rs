//! The thread pool under every use that the engine makes of it, and some that it should not.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use qern_kernels::pool::Pool;

/// A small generator (xorshift64), so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

fn thread_ids(pool: &Pool) -> Vec<usize> {
    let ids = Mutex::new(Vec::new());
    pool.run(&|thread_id| ids.lock().unwrap().push(thread_id));
    let mut ids = ids.into_inner().unwrap();
    ids.sort_unstable();
    ids
}

fn chunks(pool: &Pool, num_items: usize, chunk: usize) -> Vec<Range<usize>> {
    let seen = Mutex::new(Vec::new());
    pool.for_chunks(num_items, chunk, &|range| seen.lock().unwrap().push(range));
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable_by_key(|range| range.start);
    seen
}

#[test]
fn every_thread_runs_once() {
    for num_threads in 1..=5 {
        let pool = Pool::new(num_threads);
        assert_eq!(pool.num_threads(), num_threads);
        for _ in 0..100 {
            assert_eq!(thread_ids(&pool), (0..num_threads).collect::<Vec<_>>());
        }
    }
    assert!(Pool::new(0).num_threads() >= 1);
}

#[test]
fn chunks_cover_every_item_once_at_fixed_boundaries() {
    for num_threads in 1..=4 {
        let pool = Pool::new(num_threads);
        for (num_items, chunk) in [(0, 1), (1, 1), (1, 7), (7, 7), (8, 7), (100, 1), (100, 3), (1000, 64), (5, usize::MAX)] {
            let expect: Vec<_> =
                (0..num_items).step_by(chunk).map(|i: usize| i..num_items.min(i.saturating_add(chunk))).collect();
            assert_eq!(chunks(&pool, num_items, chunk), expect, "{num_threads} threads, {num_items} items by {chunk}");
        }
    }
}

#[test]
fn a_hundred_thousand_dispatches_of_random_shape_add_up() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for (num_threads, rounds) in [(1, 30_000), (2, 50_000), (3, 10_000), (4, 10_000)] {
        let pool = Pool::new(num_threads);
        for round in 0..rounds {
            let (num_items, chunk) = (random.below(200), 1 + random.below(40));
            let sum = AtomicUsize::new(0);
            pool.for_chunks(num_items, chunk, &|range| _ = sum.fetch_add(range.sum(), Ordering::Relaxed));
            assert_eq!(sum.into_inner(), num_items * num_items.saturating_sub(1) / 2);
            if round % 5000 == 0 {
                // Long enough for every worker to park.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

#[test]
fn results_written_by_workers_are_seen_by_the_caller() {
    let pool = Pool::new(3);
    for round in 0..2000u64 {
        // Relaxed stores: only the pool orders them before the caller's loads.
        let values: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(0)).collect();
        pool.for_chunks(64, 5, &|range| range.for_each(|i| values[i].store(round * 64 + i as u64, Ordering::Relaxed)));
        assert!(values.iter().enumerate().all(|(i, v)| v.load(Ordering::Relaxed) == round * 64 + i as u64));
    }
}

#[test]
fn parked_workers_wake() {
    let pool = Pool::new(2);
    for pause in [0, 1, 5, 20, 1, 0] {
        std::thread::sleep(Duration::from_millis(pause));
        assert_eq!(thread_ids(&pool), [0, 1]);
    }
}

#[test]
fn a_caller_that_parks_while_workers_run_wakes() {
    let pool = Pool::new(2);
    for _ in 0..5 {
        pool.run(&|thread_id| std::thread::sleep(Duration::from_millis(3 * thread_id as u64)));
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(3);
    for culprit in [0, 1, 2, 1, 0] {
        let finished = AtomicUsize::new(0);
        let payload = catch_unwind(AssertUnwindSafe(|| {
            pool.run(&|thread_id| {
                assert!(thread_id != culprit, "thread {thread_id} fails");
                std::thread::sleep(Duration::from_millis(1));
                finished.fetch_add(1, Ordering::Relaxed);
            });
        }))
        .unwrap_err();
        assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("thread {culprit} fails"));
        assert_eq!(finished.into_inner(), 2, "the panic waits for the other threads");
        assert_eq!(thread_ids(&pool), [0, 1, 2]);
    }
    assert!(catch_unwind(AssertUnwindSafe(|| pool.for_chunks(10, 1, &|range| assert!(range.start != 7)))).is_err());
    assert_eq!(chunks(&pool, 10, 5), [0..5, 5..10]);
}

#[test]
fn a_nested_call_runs_on_the_thread_that_makes_it() {
    let (outer, other) = (Pool::new(2), Pool::new(3));
    let calls = AtomicUsize::new(0);
    outer.run(&|_| {
        let here = std::thread::current().id();
        for pool in [&outer, &other] {
            let ids = Mutex::new(Vec::new());
            pool.run(&|thread_id| {
                assert_eq!(std::thread::current().id(), here);
                ids.lock().unwrap().push(thread_id);
            });
            assert_eq!(ids.into_inner().unwrap(), (0..pool.num_threads()).collect::<Vec<_>>());
            assert_eq!(chunks(pool, 9, 4), [0..4, 4..8, 8..9]);
        }
        calls.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(calls.into_inner(), 2);
}

#[test]
fn calls_from_several_threads_take_turns() {
    let pool = Pool::new(2);
    let running = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let sum = AtomicUsize::new(0);
                    pool.for_chunks(100, 7, &|range| {
                        assert!(running.fetch_add(1, Ordering::SeqCst) < 2);
                        sum.fetch_add(range.sum(), Ordering::Relaxed);
                        running.fetch_sub(1, Ordering::SeqCst);
                    });
                    assert_eq!(sum.into_inner(), 4950);
                }
            });
        }
    });
}

#[test]
fn more_threads_than_cores_do_not_collapse() {
    let pool = Pool::new(32);
    let started = Instant::now();
    for _ in 0..200 {
        assert_eq!(chunks(&pool, 64, 1).len(), 64);
    }
    assert!(started.elapsed() < Duration::from_secs(60), "took {:?}", started.elapsed());
}

#[test]
fn every_thread_starts_in_its_own_contiguous_part() {
    let pool = Pool::new(2);
    let first = [const { Mutex::new(None) }; 2];
    let barrier = std::sync::Barrier::new(2);
    let caller = std::thread::current().id();
    pool.for_chunks(1000, 10, &|range| {
        let mut first = first[usize::from(std::thread::current().id() != caller)].lock().unwrap();
        if first.is_none() {
            *first = Some(range.start);
            barrier.wait();
        }
    });
    assert_eq!(first.map(|f| f.into_inner().unwrap()), [Some(0), Some(500)]);
}

/// `cargo test --release -p qern-kernels --test pool -- --ignored --nocapture dispatch`
#[test]
#[ignore = "a measurement"]
fn dispatch_cost() {
    for num_threads in 1..=4 {
        let pool = Pool::new(num_threads);
        let median = |f: &dyn Fn()| {
            let mut times: Vec<_> = (0..201)
                .map(|_| {
                    let started = Instant::now();
                    (0..100).for_each(|_| f());
                    started.elapsed().as_nanos() as f64 / 100.0
                })
                .collect();
            times.sort_unstable_by(f64::total_cmp);
            (times[10], times[100], times[190])
        };
        let (low, run, high) = median(&|| pool.run(&|_| {}));
        let (_, chunks, _) = median(&|| pool.for_chunks(64, 4, &|_| {}));
        println!("{num_threads} threads: run {run:.0} ns ({low:.0} to {high:.0} at 5%, 95%), for_chunks of 16 {chunks:.0} ns");
        std::thread::sleep(Duration::from_millis(20));
        let wakes: Vec<f64> = (0..21)
            .map(|_| {
                std::thread::sleep(Duration::from_millis(2));
                let started = Instant::now();
                pool.run(&|_| {});
                started.elapsed().as_nanos() as f64 / 1000.0
            })
            .collect();
        println!("    after parking: {:.1} us", {
            let mut w = wakes;
            w.sort_unstable_by(f64::total_cmp);
            w[10]
        });
    }
}
