//! The thread that owns the model, and the handle that others talk to it by. No scheduling policy: see `scheduler.rs`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, unbounded};

use crate::scheduler::Scheduler;
use crate::{Error, Event, LanguageModel, Limits, TokenText, ValidRequest};

/// Starts engines.
pub struct Engine;

/// How an engine schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Tokens per step at most, decode rows and prefill chunks together. At least `max_sequences`. Default 512.
    pub max_batch_tokens: usize,
    /// Sequences that run at once (each of `n` answers and each beam is one). At least 1. Default 16.
    pub max_sequences: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_batch_tokens: 512, max_sequences: 16 }
    }
}

/// A picture of the engine between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that have pages and are computed.
    pub running: usize,
    /// Requests in the queue.
    pub waiting: usize,
    /// Pages that no sequence holds.
    pub free_pages: usize,
    /// Pages of the pool.
    pub num_pages: usize,
    /// Requests that were set back to be recomputed because pages ran out, since the start.
    pub preemptions: u64,
    /// Steps run since the start.
    pub steps: u64,
}

pub(crate) type RequestId = u64;

/// What the engine thread can be told.
pub(crate) enum Command {
    Submit { id: RequestId, request: Box<ValidRequest>, events: Sender<Event> },
    Cancel(RequestId),
    Stats(Sender<Stats>),
    Shutdown,
}

/// The way to a running engine. Clones share it; when the last clone and the last stream are gone, the thread ends.
#[derive(Clone)]
pub struct EngineHandle {
    commands: Sender<Command>,
    next_id: Arc<AtomicU64>,
    limits: Limits,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// The events of one request. Dropping it cancels the request.
pub struct RequestStream {
    id: RequestId,
    events: Receiver<Event>,
    commands: Sender<Command>,
    ended: bool,
}

impl Engine {
    /// Checks the configuration, moves the model to a thread of its own and returns the handle.
    pub fn start(
        model: impl LanguageModel + 'static,
        text: Arc<dyn TokenText>,
        config: EngineConfig,
    ) -> Result<EngineHandle, Error> {
        let scheduler = Scheduler::new(model, text, config)?;
        let limits = scheduler.limits();
        let (commands, inbox) = unbounded();
        let thread = std::thread::Builder::new()
            .name("qern-engine".into())
            .spawn(move || run(scheduler, &inbox))
            .map_err(|error| Error::Model(Arc::new(error)))?;
        Ok(EngineHandle { commands, next_id: Arc::default(), limits, thread: Arc::new(Mutex::new(Some(thread))) })
    }
}

/// The engine thread: takes commands while there are any, steps while there is work, sleeps otherwise.
fn run<M: LanguageModel>(mut scheduler: Scheduler<M>, inbox: &Receiver<Command>) {
    let mut connected = true;
    loop {
        let command = match (scheduler.is_idle(), connected) {
            (true, false) => return,
            (true, true) => inbox.recv().map_err(|_| TryRecvError::Disconnected),
            (false, _) => inbox.try_recv(),
        };
        match command {
            Ok(Command::Submit { id, request, events }) => scheduler.submit(id, *request, events),
            Ok(Command::Cancel(id)) => scheduler.cancel(id),
            // The asker may have gone; nobody else wants the answer.
            Ok(Command::Stats(reply)) => _ = reply.send(scheduler.stats()),
            Ok(Command::Shutdown) => return scheduler.cancel_all(),
            Err(TryRecvError::Disconnected) => connected = false,
            Err(TryRecvError::Empty) => {}
        }
        // Commands first, so that requests that arrive together start together.
        if inbox.is_empty() {
            scheduler.step();
        }
    }
}

impl EngineHandle {
    /// What requests must respect.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Queues a request.
    pub fn submit(&self, request: ValidRequest) -> Result<RequestStream, Error> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (events, receiver) = unbounded();
        let command = Command::Submit { id, request: Box::new(request), events };
        self.commands.send(command).map_err(|_| Error::Stopped)?;
        Ok(RequestStream { id, events: receiver, commands: self.commands.clone(), ended: false })
    }

    /// Asks for a picture of the engine; waits for the present step to end.
    pub fn stats(&self) -> Result<Stats, Error> {
        let (reply, answer) = unbounded();
        self.commands.send(Command::Stats(reply)).map_err(|_| Error::Stopped)?;
        answer.recv().map_err(|_| Error::Stopped)
    }

    /// Cancels every request and waits for the thread, and with it the model, to be gone.
    pub fn shutdown(&self) {
        // A closed channel means that the thread has ended already.
        _ = self.commands.send(Command::Shutdown);
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the engine thread panicked");
        }
    }
}

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

/// No event arrived in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout;

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
