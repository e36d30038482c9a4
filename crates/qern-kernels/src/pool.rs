//! The persistent thread pool. Runs one function on all of its threads at a time and waits for them; it has no queue, no
//! futures and no nested parallelism, because a step of a transformer needs none. How many threads a machine should have is
//! in `cores`.

use std::any::Any;
use std::cell::Cell;
use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread, park, yield_now};
use std::time::{Duration, Instant};

use crate::cores::physical_cores;

/// A fixed set of threads that wait for work: spinning for [`SPIN`], so that the next matmul of a step starts within a
/// microsecond, then yielding for [`YIELD`], then parked at no cost. The thread that calls [`Pool::run`] is one of them.
///
/// What a pool computes never depends on who runs what, as long as the function writes disjoint results per chunk.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a dispatch: calls from several threads take turns.
    turn: Mutex<()>,
    /// The chunks that each thread's own range still holds, during `for_chunks`.  // [num_threads]
    ranges: Vec<Padded<ChunkRange>>,
}

/// How long an idle thread spins before it offers its core to others. Short, because on a machine that others use too, the
/// thread waited for may need this very core: 50 us here made a dispatch ten times slower there, and no faster elsewhere.
const SPIN: Duration = Duration::from_micros(5);
/// How long it then yields before it parks; with the core to itself, yielding notices work within a microsecond as well.
const YIELD: Duration = Duration::from_micros(50);
/// More threads than this help no matmul.
const MAX_THREADS: usize = 1024;

thread_local! {
    /// Whether this thread is inside a function that a pool runs.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of `num_threads` threads, the caller included (so it starts one fewer); 0 means one per physical core that
    /// this process may use. Has fewer threads when the system refuses to start so many: see [`Pool::num_threads`].
    pub fn new(num_threads: usize) -> Self {
        let num_threads = if num_threads == 0 { physical_cores() } else { num_threads }.min(MAX_THREADS);
        let oversubscribed = std::thread::available_parallelism().is_ok_and(|cores| num_threads > cores.get());
        let shared = Arc::new(Shared {
            signal: Padded(Signal { epoch: AtomicUsize::new(0), job: AtomicPtr::new(std::ptr::null_mut()) }),
            num_running: Padded(AtomicUsize::new(0)),
            num_parked: Padded(AtomicUsize::new(0)),
            caller_parked: AtomicBool::new(false),
            parked_caller: Mutex::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            spin: if oversubscribed { Duration::ZERO } else { SPIN },
        });
        let mut workers = Vec::with_capacity(num_threads - 1);
        for thread_id in 1..num_threads {
            let shared = Arc::clone(&shared);
            let worker = std::thread::Builder::new().name(format!("qern-{thread_id}")).spawn(move || shared.work(thread_id));
            match worker {
                Ok(handle) => workers.push(handle),
                Err(_) => break,
            }
        }
        let ranges = (0..=workers.len()).map(|_| Padded(ChunkRange(AtomicU64::new(0)))).collect();
        Self { shared, workers, turn: Mutex::new(()), ranges }
    }

    /// The number of threads, the caller included. At least 1.
    pub fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(thread_id)` once for every `thread_id` below [`Pool::num_threads`], at the same time (0 on the caller), and
    /// returns when all are done. Calls from several threads take turns.
    ///
    /// Inside a function that any pool runs, a call runs `f` for one id after the other on the calling thread; so `f` must
    /// not wait for another id.
    ///
    /// If `f` panics, the panic continues on the caller once every thread is done, and the pool remains usable.
    pub fn run(&self, f: &(dyn Fn(usize) + Sync)) {
        if self.runs_inline() {
            return (0..self.num_threads()).for_each(f);
        }
        self.dispatch(lock(&self.turn), f);
    }

    /// Runs `f` on all of `0..num_items`, cut into chunks of `chunk` (the last may be shorter) at multiples of `chunk`.
    /// Each thread works through a contiguous part of its own from front to back, then takes chunks from the back of the
    /// others'. Nesting and panics as in [`Pool::run`]; after a panic, the chunks that other threads hold still run.
    pub fn for_chunks(&self, num_items: usize, chunk: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
        assert!(chunk > 0, "`chunk` must be at least 1; given 0");
        let num_chunks = num_items.div_ceil(chunk);
        assert!(
            u32::try_from(num_chunks).is_ok(),
            "items must make fewer than 2^32 chunks; given {num_chunks}: use a larger `chunk`"
        );
        let items = |chunk_id: u32| {
            let start = chunk_id as usize * chunk;
            start..num_items.min(start.saturating_add(chunk))
        };
        if num_chunks <= 1 || self.runs_inline() {
            return (0..num_chunks as u32).map(items).for_each(f);
        }
        let turn = lock(&self.turn);
        let num_threads = self.num_threads();
        for (thread_id, range) in self.ranges.iter().enumerate() {
            range.0.reset(num_chunks * thread_id / num_threads..num_chunks * (thread_id + 1) / num_threads);
        }
        self.dispatch(turn, &|thread_id| {
            while let Some(chunk_id) = self.ranges[thread_id].0.take_front() {
                f(items(chunk_id));
            }
            for victim in (thread_id + 1..num_threads).chain(0..thread_id) {
                while let Some(chunk_id) = self.ranges[victim].0.take_back() {
                    f(items(chunk_id));
                }
            }
        });
    }

    fn runs_inline(&self) -> bool {
        self.workers.is_empty() || INSIDE.get()
    }

    fn dispatch(&self, turn: MutexGuard<'_, ()>, f: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        shared.num_running.0.store(self.workers.len(), Ordering::Relaxed);
        shared.signal.0.job.store((&raw const f).cast_mut().cast(), Ordering::Relaxed);
        // SeqCst against `Shared::wait_for_work`: either this sees the worker parked, or the worker sees the new epoch.
        shared.signal.0.epoch.fetch_add(1, Ordering::SeqCst);
        if shared.num_parked.0.load(Ordering::SeqCst) > 0 {
            self.workers.iter().for_each(|worker| worker.thread().unpark());
        }

        INSIDE.set(true);
        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        INSIDE.set(false);
        // Also when `f(0)` panicked: the workers borrow `f`, and what it borrows, until they are done.
        shared.wait_for_workers();

        let other = lock(&shared.panic).take();
        drop(turn);
        if let Some(payload) = own.err().or(other) {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.signal.0.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its jobs, so it ends in no other way than by returning.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.num_threads())
    }
}

/// What the threads of one pool share.
struct Shared {
    signal: Padded<Signal>,
    /// Workers that have not finished the job of this epoch.
    num_running: Padded<AtomicUsize>,
    /// Workers that are parked, or about to be.
    num_parked: Padded<AtomicUsize>,
    caller_parked: AtomicBool,
    parked_caller: Mutex<Option<Thread>>,
    /// The first panic of a worker in this epoch.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    spin: Duration,
}

/// What workers watch: in one cache line, so that a job arrives in one transfer.
struct Signal {
    /// Grows by one with every job.
    epoch: AtomicUsize,
    /// Points to the caller's `&dyn Fn(usize)`, erased because it lives only as long as the dispatch.
    job: AtomicPtr<()>,
}

impl Shared {
    fn work(&self, thread_id: usize) {
        INSIDE.set(true);
        let mut epoch = 0;
        loop {
            epoch = self.wait_for_work(epoch);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let job = self.signal.0.job.load(Ordering::Relaxed).cast::<&(dyn Fn(usize) + Sync)>();
            // SAFETY: `dispatch` stored a pointer to its own parameter before it raised the epoch (the load of the epoch
            // that got us here acquires it), and stays in `wait_for_workers` until this worker has counted itself off
            // below. Until then the reference, and the function it refers to, are alive; afterwards neither is used.
            // The function is `Sync`, so it may be called from here.
            let f = unsafe { *job };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| f(thread_id))) {
                lock(&self.panic).get_or_insert(payload);
            }
            // SeqCst against `wait_for_workers`: either the caller sees the last worker done, or that one sees it parked.
            if self.num_running.0.fetch_sub(1, Ordering::SeqCst) == 1 && self.caller_parked.load(Ordering::SeqCst) {
                // By now this may be the caller of a later epoch: it wakes, finds its workers running, and parks again.
                if let Some(caller) = lock(&self.parked_caller).take() {
                    caller.unpark();
                }
            }
        }
    }

    /// Returns the epoch that follows `seen`, once it has begun.
    fn wait_for_work(&self, seen: usize) -> usize {
        let epoch = || self.signal.0.epoch.load(Ordering::SeqCst);
        loop {
            if self.spin_until(|| epoch() != seen) {
                return epoch();
            }
            self.num_parked.0.fetch_add(1, Ordering::SeqCst);
            if epoch() == seen {
                park();
            }
            self.num_parked.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Returns once every worker has finished the job.
    fn wait_for_workers(&self) {
        let done = || self.num_running.0.load(Ordering::SeqCst) == 0;
        while !self.spin_until(done) {
            *lock(&self.parked_caller) = Some(std::thread::current());
            self.caller_parked.store(true, Ordering::SeqCst);
            if !done() {
                park();
            }
            self.caller_parked.store(false, Ordering::SeqCst);
        }
    }

    /// Whether `ready` came true before it was time to park.
    fn spin_until(&self, ready: impl Fn() -> bool) -> bool {
        // Reading the clock costs as much as a short wait, so that comes after the first look.
        let mut started = None;
        loop {
            for _ in 0..64 {
                if ready() {
                    return true;
                }
                spin_loop();
            }
            match started.get_or_insert_with(Instant::now).elapsed() {
                waited if waited < self.spin => {}
                waited if waited < self.spin + YIELD => yield_now(),
                _ => return false,
            }
        }
    }
}

/// Chunks that are not taken yet: the first in the low half, the end in the high half. Within one epoch the first only
/// grows and the end only falls, so a compare-and-swap that succeeds has seen the whole truth.
struct ChunkRange(AtomicU64);

impl ChunkRange {
    fn reset(&self, chunks: Range<usize>) {
        self.0.store(chunks.start as u64 | (chunks.end as u64) << 32, Ordering::Relaxed);
    }

    fn take_front(&self) -> Option<u32> {
        self.take(|first, end| (first, first + 1, end))
    }

    fn take_back(&self) -> Option<u32> {
        self.take(|first, end| (end - 1, first, end - 1))
    }

    /// Takes a chunk by `choose(first, end) -> (taken, new first, new end)`. Relaxed suffices: the epoch orders the reset
    /// before every claim and every result before the caller's return.
    fn take(&self, choose: impl Fn(u32, u32) -> (u32, u32, u32)) -> Option<u32> {
        let mut current = self.0.load(Ordering::Relaxed);
        loop {
            let (first, end) = (current as u32, (current >> 32) as u32);
            if first >= end {
                return None;
            }
            let (taken, first, end) = choose(first, end);
            let next = u64::from(first) | u64::from(end) << 32;
            match self.0.compare_exchange_weak(current, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken),
                Err(seen) => current = seen,
            }
        }
    }
}

/// A value alone in its cache lines (two, as adjacent lines are fetched in pairs), so that writers do not disturb each other.
#[repr(align(128))]
struct Padded<T>(T);

/// The lock, whether or not somebody panicked while holding it: nothing these locks guard can be left half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
