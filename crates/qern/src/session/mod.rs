//! The chat without its terminal, and what `qern run` shares with it: conversation, settings, prompt, request, answer.
//!
//! ```text
//! command -> chat -> prompt (conversation to tokens) -> request (settings) -> generate (engine events to a follower)
//! ```
//! How text looks is in `terminal`; the loops that join both are in `commands::chat` and `commands::run`.

pub mod chat;
pub mod command;
pub mod constraint;
pub mod conversation;
pub mod file;
pub mod generate;
pub mod prompt;
pub mod report;
pub mod request;
pub mod settings;
