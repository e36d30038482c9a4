//! The crate's one error type. Messages name the thing, the rule, the value and the fix; where they are shown, and with
//! which exit status or HTTP code, is for the callers to decide.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong between a file and a running model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An error in the contents of a known file.
    #[error("`{}`: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<Error>,
    },
    /// The bytes break a rule of the GGUF format, or ask for a part of it that Qern does not read.
    #[error("gguf: {0}")]
    Gguf(String),
    /// The bytes break a rule of the safetensors format, or ask for a part of it that Qern does not read.
    #[error("safetensors: {0}")]
    Safetensors(String),
    /// The model's configuration is incomplete, contradictory, or of a model that Qern does not run.
    #[error("model configuration: {0}")]
    Config(String),
    /// The files of a model do not fit together: missing, superfluous or misshapen parts.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// A tokenizer file that cannot be read exactly, or a text that its vocabulary cannot spell.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A chat template that does not compile, refuses the conversation, or costs too much.
    #[error("chat template: {0}")]
    Template(String),
    /// The system prompt, the tools and the last turn alone are longer than the context.
    #[error(
        "the system prompt, the tools and the last turn need {needed} tokens but {available} are available; shorten them or \
         allow a larger context"
    )]
    ContextTooSmall {
        /// Tokens of the shortest prompt that windowing may make.
        needed: usize,
        /// Tokens that the prompt may have.
        available: usize,
    },
    /// The conversation does not fit, and the caller asked for refusal instead of dropping turns.
    #[error(
        "the conversation has {prompt_tokens} tokens but {limit} are available; the oldest {dropped_turns} of {total_turns} turns \
         ({dropped_tokens} tokens) would have to be dropped, which strict context forbids"
    )]
    StrictContext {
        /// Tokens of the whole conversation.
        prompt_tokens: usize,
        /// Tokens that the prompt may have.
        limit: usize,
        /// Turns that would have been dropped.
        dropped_turns: usize,
        /// Turns of the conversation.
        total_turns: usize,
        /// Tokens that would have been dropped.
        dropped_tokens: usize,
    },
    /// An adapter that asks for what Qern does not compute, is broken, or was made for another model.
    #[error("adapter: {0}")]
    Adapter(String),
    /// A batch that does not fit the model or its pages.
    #[error("batch: {0}")]
    Batch(String),
    /// The machine has no memory left.
    #[error(transparent)]
    OutOfMemory(#[from] qern_kernels::memory::OutOfMemory),
}

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An operating system error about `path`.
    pub fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// Says in which file the error is; an error that names a file already stays as it is.
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Io { .. } | Self::InFile { .. } => self,
            source => Self::InFile { path: path.into(), source: Box::new(source) },
        }
    }
}

/// A name out of a file, cut and escaped so that a hostile one cannot flood or steer a terminal.
pub(crate) fn shorten(name: &str) -> String {
    const MAX_CHARS: usize = 100;
    let mut short: String = name.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if name.chars().nth(MAX_CHARS).is_some() {
        short.push_str("...");
    }
    short
}
