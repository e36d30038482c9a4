//! The crate's one error type. Messages name the thing, the rule, the value and the fix; where they are shown is for the
//! callers to decide.

use std::io;
use std::path::PathBuf;

/// What can go wrong between a file of examples and an adapter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A setting breaks its rule, or contradicts another.
    #[error("{0}")]
    Config(String),
    /// A file of examples that cannot be trained on.
    #[error("{0}")]
    Data(String),
    /// A checkpoint that is damaged or of another run.
    #[error("{0}")]
    Checkpoint(String),
    /// The model cannot run a batch, or be trained in the way asked for.
    #[error("model: {0}")]
    Model(String),
    /// A loss or a gradient that is not a number, or infinite. Never averaged over: training stops.
    #[error("step {step}: {what} is {value}, with data rows {rows}; lower the learning rate, or look at these rows")]
    NonFinite {
        /// The optimizer step, from 1.
        step: u64,
        /// The loss, or the gradient of which parameter.
        what: String,
        /// `NaN`, `inf` or `-inf`.
        value: f64,
        /// The rows of the data file in the batch, as in `17, 4 and 302`.
        rows: String,
    },
    /// An error of the model's files, tokenizer or template.
    #[error(transparent)]
    Base(#[from] qern_model::Error),
    /// The machine has no memory left.
    #[error(transparent)]
    OutOfMemory(#[from] qern_kernels::memory::OutOfMemory),
}

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An operating system error while doing `action` with `path`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }
}
