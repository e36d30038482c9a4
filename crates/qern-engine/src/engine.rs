//! The thread that owns the model: how it is started, what it can be told, when it sleeps. No scheduling policy: see `scheduler.rs`.
//! The way in from other threads is `handle.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use qern_model::lora::Adapter;

use crate::adapters::{PendingUnloads, Unloaded};
use crate::embed::{EmbedRequest, Part};
use crate::gate::{Gate, Place};
use crate::scheduler::Scheduler;
use crate::stats::Board;
use crate::{AdapterId, EngineHandle, Error, Event, LanguageModel, TokenText, ValidRequest};

/// Starts engines.
pub struct Engine;

/// How an engine schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Tokens per step at most, decode rows and prefill chunks together. At least `max_sequences`. Default 512.
    pub max_batch_tokens: usize,
    /// Sequences that run at once (each of `n` answers and each beam is one). At least 1. Default 16.
    pub max_sequences: usize,
    /// Requests that may wait; more are refused with `QueueFull`. At least 1. Default 256.
    pub max_waiting: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_batch_tokens: 512, max_sequences: 16, max_waiting: 256 }
    }
}

pub(crate) type RequestId = u64;

/// What the engine thread can be told.
pub(crate) enum Command {
    Submit {
        arrival: Arrival,
        request: Box<ValidRequest>,
        events: Sender<Event>,
    },
    Embed {
        arrival: Arrival,
        request: Box<EmbedRequest>,
        parts: Sender<Part>,
    },
    LoadAdapter {
        adapter: Arc<Adapter>,
        reply: Sender<Result<AdapterId, Error>>,
    },
    /// Answered when no request uses it. None that does will be submitted.
    UnloadAdapter {
        id: AdapterId,
        reply: Sender<Unloaded>,
    },
    Cancel(RequestId),
    /// Answered when nothing runs and nothing waits.
    WhenIdle(Sender<()>),
    Shutdown,
}

/// How a request came in.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) id: RequestId,
    pub(crate) submitted: Instant,
    /// Its place in the queue, until it starts.
    pub(crate) place: Option<Arc<Place>>,
}

/// How long the engine sleeps when all that it has waits for slow readers.
const READER_POLL: Duration = Duration::from_millis(5);

impl Engine {
    /// Checks the configuration, moves the model to a thread of its own and returns the handle.
    pub fn start(
        model: impl LanguageModel + 'static,
        text: Arc<dyn TokenText>,
        config: EngineConfig,
    ) -> Result<EngineHandle, Error> {
        let scheduler = Scheduler::new(model, text, config)?;
        let limits = scheduler.limits();
        let (commands, inbox) = flume::unbounded();
        let (gate, board) = (Arc::new(Gate::new(config.max_waiting)), Board::default());
        board.publish(scheduler.stats());
        let thread = EngineThread {
            scheduler,
            inbox,
            gate: Arc::clone(&gate),
            board: board.clone(),
            idle_askers: Vec::new(),
            unloads: PendingUnloads::default(),
        };
        let thread = std::thread::Builder::new()
            .name("qern-engine".into())
            .spawn(move || thread.run())
            .map_err(|error| Error::Model(Arc::new(error)))?;
        Ok(EngineHandle::new(commands, limits, gate, board, thread))
    }
}

/// What the thread holds.
struct EngineThread<M> {
    scheduler: Scheduler<M>,
    inbox: Receiver<Command>,
    gate: Arc<Gate>,
    board: Board,
    idle_askers: Vec<Sender<()>>,
    unloads: PendingUnloads,
}

impl<M: LanguageModel> EngineThread<M> {
    /// Takes commands while there are any, steps while there is work, sleeps otherwise.
    fn run(mut self) {
        let mut connected = true;
        // The last step had nothing to compute: what there is waits for its readers.
        let mut is_stalled = false;
        loop {
            let command = match (self.scheduler.is_idle(), connected) {
                (true, false) => return,
                (true, true) => self.inbox.recv().map_err(|_| TryRecvError::Disconnected),
                (false, true) if is_stalled => self.inbox.recv_timeout(READER_POLL).map_err(|error| match error {
                    RecvTimeoutError::Timeout => TryRecvError::Empty,
                    RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                }),
                (false, false) if is_stalled => {
                    std::thread::sleep(READER_POLL);
                    Err(TryRecvError::Disconnected)
                }
                (false, _) => self.inbox.try_recv(),
            };
            match command {
                Ok(Command::Shutdown) => return self.scheduler.cancel_all(),
                Ok(command) => self.obey(command),
                Err(TryRecvError::Disconnected) => connected = false,
                Err(TryRecvError::Empty) => {}
            }
            // Commands first, so that requests that arrive together start together.
            if self.inbox.is_empty() {
                is_stalled = !self.scheduler.step();
                self.gate.note_starts(self.scheduler.take_starts());
            }
            self.unloads.settle(&mut self.scheduler);
            self.board.publish(self.scheduler.stats());
            if self.scheduler.is_idle() && self.inbox.is_empty() {
                // An asker may have gone; nobody else wants to know.
                self.idle_askers.drain(..).for_each(|asker| _ = asker.send(()));
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit { arrival, request, events } => self.scheduler.submit(arrival, *request, events),
            Command::Embed { arrival, request, parts } => self.scheduler.embed(&arrival, &request, &parts),
            Command::LoadAdapter { adapter, reply } => {
                let loaded = self.scheduler.load_adapter(adapter);
                // Whoever asked may have gone; then nobody can name the adapter.
                if let Err(flume::SendError(Ok(id))) = reply.send(loaded)
                    && let Err(error) = self.scheduler.unload_adapter(id)
                {
                    tracing::error!("adapter {}: {error}", id.0);
                }
            }
            Command::UnloadAdapter { id, reply } => self.unloads.push(id, reply),
            Command::Cancel(id) => self.scheduler.cancel(id),
            Command::WhenIdle(asker) => self.idle_askers.push(asker),
            Command::Shutdown => {}
        }
    }
}
