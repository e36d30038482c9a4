//! The events of one request, for threads and for async callers. What the events mean is `event.rs`.
//!
//! The channel has no bound of its own, and does not need one: the engine sets a request back whose reader is `MAX_UNREAD` events
//! behind, and goes on with it when the reader has caught up. So a reader that never reads costs at most that many events and no
//! pages, and an engine is never blocked by one.

use std::time::Duration;

use flume::{Receiver, RecvTimeoutError, Sender};

use crate::engine::{Command, RequestId};
use crate::{Error, Event};

/// Unread events beyond which a request waits for its reader.
pub(crate) const MAX_UNREAD: usize = 4096;

/// The events of one request. Dropping it cancels the request.
pub struct RequestStream {
    pub(crate) id: RequestId,
    pub(crate) events: Receiver<Event>,
    pub(crate) commands: Sender<Command>,
    pub(crate) ended: bool,
}

/// No event arrived in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout;

impl RequestStream {
    /// The next event, waiting at most `timeout` for it. `Ok(None)` is the end of the stream, `Err` the timeout.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Event>, Timeout> {
        if self.ended {
            return Ok(None);
        }
        match self.events.recv_timeout(timeout) {
            Ok(event) => Ok(Some(self.note(event))),
            Err(RecvTimeoutError::Timeout) => Err(Timeout),
            Err(RecvTimeoutError::Disconnected) => Ok(self.closed()),
        }
    }

    /// The next event, in any async runtime; `None` at the end of the stream. A future that is dropped loses no event.
    pub async fn next_async(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        match self.events.recv_async().await {
            Ok(event) => Some(self.note(event)),
            Err(_) => self.closed(),
        }
    }

    /// An event that has arrived already, without waiting for one.
    pub fn try_next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        self.events.try_recv().ok().map(|event| self.note(event))
    }

    /// Asks the engine to stop; the events sent so far and `Finished` with `Cancelled` still arrive.
    pub fn cancel(&self) {
        // A closed channel means that the engine, and the request with it, has ended already.
        _ = self.commands.send(Command::Cancel(self.id));
    }

    fn note(&mut self, event: Event) -> Event {
        match &event {
            Event::Finished { answers_left: 0, .. } | Event::Failed(_) => self.ended = true,
            _ => {}
        }
        event
    }

    /// The engine dropped its end before the last event: it was torn down, or panicked.
    fn closed(&mut self) -> Option<Event> {
        self.ended = true;
        Some(Event::Failed(Error::Stopped))
    }
}

impl Iterator for RequestStream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        match self.events.recv() {
            Ok(event) => Some(self.note(event)),
            Err(_) => self.closed(),
        }
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        if !self.ended {
            self.cancel();
        }
    }
}
