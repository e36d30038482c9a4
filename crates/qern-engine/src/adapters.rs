//! Adapters of a running engine: loading and unloading them while requests run, and which ones a request may name. What an adapter
//! does is the model's; that keys and values are not shared between adapters is seen to by `sequence.rs` and the page tables.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flume::{Receiver, RecvTimeoutError, Sender};
use qern_model::lora::Adapter;

use crate::engine::Command;
use crate::handle::EngineHandle;
use crate::scheduler::Scheduler;
use crate::{AdapterId, Error, LanguageModel, Timeout};

/// The adapters that requests may name; all handles share it.
#[derive(Clone, Default)]
pub(crate) struct Available(Arc<Mutex<BTreeSet<AdapterId>>>);

impl Available {
    /// Refuses an adapter that is not loaded, or that is being unloaded. What is sent to the engine while the result is held is
    /// received before the adapter goes.
    pub(crate) fn check(&self, adapter: Option<AdapterId>) -> Result<Option<Held<'_>>, Error> {
        let Some(id) = adapter else { return Ok(None) };
        let available = self.lock();
        if available.contains(&id) { Ok(Some(Held { _available: available })) } else { Err(Error::UnknownAdapter(id)) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<AdapterId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps adapters from being unloaded.
pub(crate) struct Held<'a> {
    _available: MutexGuard<'a, BTreeSet<AdapterId>>,
}

/// The engine thread's answer to an unload.
pub(crate) type Unloaded = Result<(), Error>;

impl EngineHandle {
    /// Makes an adapter one that requests may name, between two steps. An adapter with DoRA that was not fitted before
    /// (`Adapter::fit`) keeps running requests waiting while its norms are computed.
    pub fn load_adapter(&self, adapter: Arc<Adapter>) -> Result<AdapterId, Error> {
        let loading = self.start_loading(adapter)?;
        self.note_loaded(loading.recv().map_err(|_| Error::Stopped)?)
    }

    /// `load_adapter` in any async runtime.
    pub async fn load_adapter_async(&self, adapter: Arc<Adapter>) -> Result<AdapterId, Error> {
        let loading = self.start_loading(adapter)?;
        self.note_loaded(loading.recv_async().await.map_err(|_| Error::Stopped)?)
    }

    /// Refuses requests that name the adapter from now on, and lets it go when the last one that does has ended.
    pub fn unload_adapter(&self, id: AdapterId) -> Result<Unloading, Error> {
        let mut available = self.adapters.lock();
        if !available.remove(&id) {
            return Err(Error::UnknownAdapter(id));
        }
        let (reply, done) = flume::bounded(1);
        self.send(Command::UnloadAdapter { id, reply })?;
        Ok(Unloading { done })
    }

    /// The adapters that requests may name, the oldest first.
    pub fn adapters(&self) -> Vec<AdapterId> {
        self.adapters.lock().iter().copied().collect()
    }

    fn start_loading(&self, adapter: Arc<Adapter>) -> Result<Receiver<Result<AdapterId, Error>>, Error> {
        let (reply, loaded) = flume::bounded(1);
        self.send(Command::LoadAdapter { adapter, reply })?;
        Ok(loaded)
    }

    fn note_loaded(&self, loaded: Result<AdapterId, Error>) -> Result<AdapterId, Error> {
        let id = loaded?;
        self.adapters.lock().insert(id);
        Ok(id)
    }
}

/// An adapter on its way out. It goes whether or not anybody waits.
pub struct Unloading {
    done: Receiver<Unloaded>,
}

impl Unloading {
    /// Waits until no request uses the adapter and its memory is free, but at most `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Unloaded, Timeout> {
        match self.done.recv_timeout(timeout) {
            Ok(unloaded) => Ok(unloaded),
            Err(RecvTimeoutError::Timeout) => Err(Timeout),
            // The engine has ended, and the adapter with it.
            Err(RecvTimeoutError::Disconnected) => Ok(Ok(())),
        }
    }

    /// Waits for it in any async runtime.
    pub async fn wait_async(&self) -> Unloaded {
        self.done.recv_async().await.unwrap_or(Ok(()))
    }
}

/// Unloads that wait for requests to end, on the engine's thread.
#[derive(Default)]
pub(crate) struct PendingUnloads(Vec<(AdapterId, Sender<Unloaded>)>);

impl PendingUnloads {
    pub(crate) fn push(&mut self, id: AdapterId, reply: Sender<Unloaded>) {
        self.0.push((id, reply));
    }

    /// Lets go of what no request uses any more.
    pub(crate) fn settle<M: LanguageModel>(&mut self, scheduler: &mut Scheduler<M>) {
        self.0.retain(|(id, reply)| {
            let is_used = scheduler.uses_adapter(*id);
            if !is_used {
                // Whoever asked may have gone; nobody else wants to know.
                _ = reply.send(scheduler.unload_adapter(*id));
            }
            is_used
        });
    }
}
