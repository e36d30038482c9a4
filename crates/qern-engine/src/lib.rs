//! Requests to tokens: page tables, scheduling, sampling, detokenization, and the one thread that steps the model.
//! Knows nothing of HTTP, JSON dialects, files or tensors: a model is anything that implements [`LanguageModel`].
//!
//! ```text
//! GenerateRequest -> ValidRequest -> EngineHandle::submit -> RequestStream of Event
//! ```
#![forbid(unsafe_code)]

mod answer_text;
mod beam;
mod detokenizer;
mod engine;
mod error;
mod event;
mod group;
mod model;
mod pages;
mod random;
mod request;
mod runner;
mod sampler;
mod sampling;
mod scheduler;
mod sequence;
mod stop;

pub use engine::{Engine, EngineConfig, EngineHandle, RequestStream, Stats, Timeout};
pub use error::Error;
pub use event::{BeamAnswer, Event, FinishReason, TokenLogprob, TopLogprob, Usage};
pub use model::{BoxError, LanguageModel, TokenText};
pub use qern_model::batch::{BatchSequence, LogitsFor, PAGE_LEN, PageId, TokenId};
pub use request::{BeamParams, EarlyStopping, GenerateRequest, Limits, ValidRequest};
pub use runner::{ModelText, Runner};
pub use sampler::{Sampler, SamplerContext, SamplerScratch};
pub use sampling::{Sampling, SamplingParams};

#[cfg(test)]
mod tests;
