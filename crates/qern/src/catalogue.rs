//! Being written.
/// The model used when none is named.
pub const DEFAULT_MODEL: &str = "smollm2";
