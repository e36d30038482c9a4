//! Files to a running transformer: GGUF and safetensors, configuration, tokenizer, chat template, the model itself.
//! Knows nothing of requests, scheduling or HTTP.
#![forbid(unsafe_code)]

pub mod batch;
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod context_window;
pub mod error;
pub mod fingerprint;
pub mod generation;
pub mod gguf;
mod inputs;
mod json;
pub mod lora;
pub mod prompt;
pub mod safetensors;
pub mod template;
pub mod tensor;
pub mod thinking;
pub mod tokenizer;
pub mod transformer;
pub mod vocabulary;
pub mod weights;

pub use error::{Error, Result};
