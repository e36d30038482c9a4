//! OpenAI's API, with the fields that vLLM and llama.cpp added to it.

pub(crate) mod chat;
mod chat_stream;
pub(crate) mod completions;
mod completions_stream;
pub(crate) mod embeddings;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod settings;
mod shapes;
