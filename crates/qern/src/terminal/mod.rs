//! The terminal: what is typed and how an answer looks while it arrives. Knows nothing of models or sessions.

pub mod answer;
pub mod input;
pub mod markdown;
pub mod prefill;
pub mod style;
