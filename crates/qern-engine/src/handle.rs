//! The way to a running engine from any thread: submitting, watching, draining, ending. Computes nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flume::{Receiver, Sender};

use crate::adapters::Available;
use crate::embed::{EmbedRequest, Embeddings, PendingEmbeddings};
use crate::engine::{Arrival, Command};
use crate::gate::Gate;
use crate::stats::{Board, Stats};
use crate::stream::RequestStream;
use crate::{Error, Limits, Timeout, ValidRequest};

/// The way to a running engine. Clones share it; when the last clone and the last stream are gone, the thread ends.
#[derive(Clone)]
pub struct EngineHandle {
    commands: Sender<Command>,
    next_id: Arc<AtomicU64>,
    limits: Limits,
    gate: Arc<Gate>,
    board: Board,
    pub(crate) adapters: Available,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl EngineHandle {
    pub(crate) fn new(commands: Sender<Command>, limits: Limits, gate: Arc<Gate>, board: Board, thread: JoinHandle<()>) -> Self {
        Self {
            commands,
            next_id: Arc::default(),
            limits,
            gate,
            board,
            adapters: Available::default(),
            thread: Arc::new(Mutex::new(Some(thread))),
        }
    }

    /// What requests must respect.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Queues a request. Refused at once, without waiting for the engine, when the queue is full or the engine drains.
    pub fn submit(&self, request: ValidRequest) -> Result<RequestStream, Error> {
        let _held = self.adapters.check(request.raw().adapter)?;
        let (events, receiver) = flume::unbounded();
        self.gate.enter(|place| {
            let arrival = self.arrival(place);
            let id = arrival.id;
            self.send(Command::Submit { arrival, request: Box::new(request), events })?;
            Ok(RequestStream { id, events: receiver, commands: self.commands.clone(), ended: false })
        })
    }

    /// Queues a request for embeddings; it takes one place in the queue, however many inputs it has. Inputs run in the same steps as
    /// everything else, and a vector does not depend on what else is in them.
    pub fn embed(&self, request: EmbedRequest) -> Result<PendingEmbeddings, Error> {
        request.validate(&self.limits)?;
        let _held = self.adapters.check(request.adapter)?;
        let (parts, receiver) = flume::unbounded();
        let missing = request.inputs.len();
        let prompt_tokens = request.inputs.iter().map(Vec::len).sum();
        let embeddings = Embeddings { vectors: vec![Vec::new(); missing], prompt_tokens, cached_tokens: 0 };
        self.gate.enter(|place| {
            let arrival = self.arrival(place);
            let id = arrival.id;
            self.send(Command::Embed { arrival, request: Box::new(request), parts })?;
            Ok(PendingEmbeddings { id, parts: receiver, commands: self.commands.clone(), missing, embeddings })
        })
    }

    /// The engine as it was when its last step ended; does not wait for the present one.
    pub fn stats(&self) -> Result<Stats, Error> {
        if self.commands.is_disconnected() {
            return Err(Error::Stopped);
        }
        let stats = self.board.read();
        // Requests that the engine has not looked at yet wait as well.
        Ok(Stats { waiting: stats.waiting.max(self.gate.num_waiting()), ..stats })
    }

    /// Refuses new requests from now on (`Error::Draining`) and lets those that came finish, the waiting ones included.
    pub fn drain(&self) -> Drain {
        self.gate.close();
        let (idle, receiver) = flume::bounded(1);
        // A closed channel means that the engine has ended: `Drain` finds its own channel closed, and nothing runs.
        _ = self.commands.send(Command::WhenIdle(idle));
        Drain { idle: receiver }
    }

    /// Cancels every request and waits for the thread, and with it the model, to be gone.
    pub fn shutdown(&self) {
        // A closed channel means that the thread has ended already.
        _ = self.commands.send(Command::Shutdown);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the engine thread panicked");
        }
    }

    fn arrival(&self, place: Arc<crate::gate::Place>) -> Arrival {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        Arrival { id, submitted: Instant::now(), place: Some(place) }
    }

    pub(crate) fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).map_err(|_| Error::Stopped)
    }
}

/// A drain that has begun.
pub struct Drain {
    idle: Receiver<()>,
}

impl Drain {
    /// Waits until nothing runs and nothing waits, but at most `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<(), Timeout> {
        match self.idle.recv_timeout(timeout) {
            Err(flume::RecvTimeoutError::Timeout) => Err(Timeout),
            Ok(()) | Err(flume::RecvTimeoutError::Disconnected) => Ok(()),
        }
    }

    /// Waits, in any async runtime, until nothing runs and nothing waits.
    pub async fn wait_async(&self) {
        // Closed: the engine has ended, and nothing runs.
        _ = self.idle.recv_async().await;
    }
}
