//! The limits of compiling and of masks, in one place. All are generous for honest constraints (the largest of 500 real schemas uses a
//! tenth) and small enough that a hostile one costs little.

use std::time::Duration;

/// What a constraint may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConstraintLimits {
    /// Bytes of the constraint's text (a schema as JSON). Default 2 MB.
    pub max_bytes: usize,
    /// How deep brackets of a grammar or a regular expression, or values of a schema, may nest. Default 100.
    pub max_depth: usize,
    /// Wall clock of one compilation. Default 10 s.
    pub compile_time: Duration,
    /// Bytes of compiled constraints that are kept for the next request. Default 256 MB.
    pub cache_bytes: usize,
    /// Bytes that the shared tables of one constraint may grow to before they are begun anew. Default 32 MB.
    pub warm_bytes: usize,
}

impl Default for ConstraintLimits {
    fn default() -> Self {
        Self {
            max_bytes: 2 << 20,
            max_depth: 100,
            compile_time: Duration::from_secs(10),
            cache_bytes: 256 << 20,
            warm_bytes: 32 << 20,
        }
    }
}

impl ConstraintLimits {
    /// The engine's own limits: fuel for compiling and for each mask, so that neither can hang.
    pub(super) fn parser(&self) -> llguidance::api::ParserLimits {
        llguidance::api::ParserLimits { verbose_errors: false, ..llguidance::api::ParserLimits::default() }
    }
}
