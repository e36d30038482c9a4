//! Who may come in: a bounded queue and the closed door of a drain. Shared by the handles and the engine thread, so that a full queue
//! refuses at once, without waiting for a step. No scheduling.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::Error;

/// A place in the queue frees up when a request starts; nobody is told to come back sooner or later than this.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The door of one engine.
#[derive(Debug)]
pub(crate) struct Gate {
    max_waiting: usize,
    waiting: Arc<AtomicUsize>,
    is_open: RwLock<bool>,
    pace: Mutex<Pace>,
}

/// A place in the queue, given back when dropped: when the request starts, or ends without having started.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

/// How fast requests leave the queue.
#[derive(Debug)]
struct Pace {
    last_start: Instant,
    /// Moving average of the time between starts.
    interval: Option<Duration>,
}

impl Gate {
    pub(crate) fn new(max_waiting: usize) -> Self {
        let pace = Pace { last_start: Instant::now(), interval: None };
        Self { max_waiting, waiting: Arc::default(), is_open: RwLock::new(true), pace: Mutex::new(pace) }
    }

    /// Runs `send` with a place in the queue, unless there is none or the door is closed. Once `close` has returned, everything
    /// that was let in has been sent.
    pub(crate) fn enter<T>(&self, send: impl FnOnce(Arc<Place>) -> Result<T, Error>) -> Result<T, Error> {
        let is_open = self.is_open.read().unwrap_or_else(PoisonError::into_inner);
        if !*is_open {
            return Err(Error::Draining);
        }
        let waiting = self.waiting.fetch_add(1, Ordering::AcqRel);
        let place = Arc::new(Place(Arc::clone(&self.waiting)));
        if waiting >= self.max_waiting {
            return Err(Error::QueueFull { waiting, limit: self.max_waiting, retry_after: self.retry_after() });
        }
        send(place)
    }

    pub(crate) fn close(&self) {
        *self.is_open.write().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Requests that have not started.
    pub(crate) fn num_waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// The engine notes that so many requests have left the queue.
    pub(crate) fn note_starts(&self, count: u64) {
        if count == 0 {
            return;
        }
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let interval = now.duration_since(pace.last_start) / u32::try_from(count).unwrap_or(u32::MAX);
        pace.interval = Some(pace.interval.map_or(interval, |average| (average * 7 + interval) / 8));
        pace.last_start = now;
    }

    /// When a place is likely to be free: the usual time between starts, or the time without one if that is longer.
    fn retry_after(&self) -> Duration {
        let pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let (least, most) = RETRY;
        pace.interval.unwrap_or_default().max(pace.last_start.elapsed()).clamp(least, most)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_it_is_dropped() {
        let gate = Gate::new(2);
        let places: Vec<_> = (0..2).map(|_| gate.enter(Ok).unwrap()).collect();
        let error = gate.enter(Ok).unwrap_err();
        assert!(matches!(error, Error::QueueFull { waiting: 2, limit: 2, retry_after } if retry_after >= RETRY.0));
        assert_eq!(gate.num_waiting(), 2);
        drop(places);
        assert_eq!(gate.num_waiting(), 0);
        assert!(gate.enter(Ok).is_ok());
    }

    #[test]
    fn a_closed_door_stays_closed() {
        let gate = Gate::new(2);
        gate.close();
        assert!(matches!(gate.enter(Ok), Err(Error::Draining)));
        assert_eq!(gate.num_waiting(), 0);
    }
}
