//! The chat: a conversation, its settings and commands, and the turns between user and model. Everything here works without
//! a terminal; how text looks is in `terminal`, the loop that joins both is in `commands::chat`.

pub mod command;
pub mod conversation;
pub mod file;
pub mod generate;
pub mod request;
pub mod settings;
