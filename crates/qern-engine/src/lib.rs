//! Placeholder until the modules land.
#![forbid(unsafe_code)]
