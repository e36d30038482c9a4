//! Requests to tokens: page tables, scheduling, sampling, detokenization, and the one thread that steps the model.
//! Knows nothing of HTTP, JSON dialects, files or tensors: a model is anything that implements [`LanguageModel`].
//!
//! ```text
//! GenerateRequest -> ValidRequest -> EngineHandle::submit -> RequestStream of Event
//! EmbedRequest                    -> EngineHandle::embed  -> PendingEmbeddings
//! ```
#![forbid(unsafe_code)]

mod adapters;
mod answer_text;
mod beam;
pub mod constraint;
mod detokenizer;
mod embed;
mod engine;
mod error;
mod event;
mod gate;
mod group;
mod handle;
mod model;
mod overrides;
mod pages;
mod random;
mod request;
mod runner;
mod sampler;
mod sampling;
mod scheduler;
mod sequence;
mod stats;
mod stop;
mod stream;

pub use adapters::Unloading;
pub use embed::{EmbedRequest, Embeddings, PendingEmbeddings, Pooling};
pub use engine::{Engine, EngineConfig};
pub use error::Error;
pub use event::{BeamAnswer, Event, FinishReason, TokenLogprob, TopLogprob, Usage};
pub use handle::{Drain, EngineHandle};
pub use model::{BoxError, LanguageModel, Rows, TokenText};
pub use overrides::{SamplingOverrides, recommended};
pub use qern_model::batch::{AdapterId, BatchSequence, LogitsFor, PAGE_LEN, PageId, TokenId};
pub use request::{BeamParams, EarlyStopping, GenerateRequest, Limits, ValidRequest};
pub use runner::{ModelText, Runner};
pub use sampler::{Sampler, SamplerContext, SamplerScratch};
pub use sampling::{Sampling, SamplingParams};
pub use stats::{Counts, Stats};
pub use stream::{RequestStream, Timeout};

#[cfg(test)]
mod tests;
