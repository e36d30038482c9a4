//! Decides what runs in each step, and steps the model. First cut: refuses everything.

use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::engine::RequestId;
use crate::{EngineConfig, Error, Event, LanguageModel, Limits, Stats, TokenText, ValidRequest};

pub(crate) struct Scheduler<M> {
    model: M,
    config: EngineConfig,
}

impl<M: LanguageModel> Scheduler<M> {
    pub(crate) fn new(model: M, _text: Arc<dyn TokenText>, config: EngineConfig) -> Result<Self, Error> {
        Ok(Self { model, config })
    }
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            vocab_size: self.model.vocab_size(),
            max_positions: self.model.max_positions(),
            num_pages: self.model.num_pages(),
            max_sequences: self.config.max_sequences,
        }
    }
    pub(crate) fn is_idle(&self) -> bool {
        true
    }
    pub(crate) fn submit(&mut self, _id: RequestId, request: ValidRequest, events: Sender<Event>) {
        _ = (request.prompt(), request.raw(), request.sampling());
        _ = events.send(Event::Failed(Error::Stopped));
    }
    pub(crate) fn cancel(&mut self, _id: RequestId) {}
    pub(crate) fn cancel_all(&mut self) {}
    pub(crate) fn step(&mut self) {}
    pub(crate) fn stats(&self) -> Stats {
        Stats::default()
    }
}
