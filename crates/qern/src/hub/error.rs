//! What can go wrong between the hub and a whole file on the disk, each with what to do about it.

use crate::output;
use std::io;
use std::path::PathBuf;

/// A download that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No connection, or no answer, after every retry.
    #[error("cannot reach the hub at {endpoint}: {reason}")]
    Unreachable {
        /// The endpoint's address.
        endpoint: String,
        /// What failed.
        reason: String,
    },
    /// 401 or 403.
    #[error(
        "the hub refuses {what} (status {status}{detail}); if it is private or gated, accept its terms on the hub and set \
         HF_TOKEN to a token that may read it{token_hint}"
    )]
    Refused {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The hub's own words, if any.
        detail: String,
        /// A word about the token in use.
        token_hint: &'static str,
    },
    /// 404.
    #[error("the hub has no {what}{detail}; check the name's spelling, and HF_TOKEN if it is private")]
    NotFound {
        /// What was asked for.
        what: String,
        /// The hub's own words, if any.
        detail: String,
    },
    /// Any other status, after every retry where a retry makes sense.
    #[error("the hub answers {what} with status {status}{detail}")]
    Status {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The hub's own words, if any.
        detail: String,
    },
    /// A redirect that is not followed.
    #[error("the hub redirects {what} to {target}, which is not followed: {rule}")]
    Redirect {
        /// What was asked for.
        what: String,
        /// Where the redirect points, without its query.
        target: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// Not the expected length.
    #[error("{what} should have {expected} bytes, but the hub offers {actual}; nothing was kept")]
    WrongSize {
        /// The file.
        what: String,
        /// The length known beforehand.
        expected: u64,
        /// The length offered.
        actual: u64,
    },
    /// Not the expected content.
    #[error(
        "{what} should have SHA-256 {expected}, but the bytes received have {actual}; nothing was kept, try again or use another hub"
    )]
    WrongHash {
        /// The file.
        what: String,
        /// The hash known beforehand.
        expected: String,
        /// The hash of what came.
        actual: String,
    },
    /// Connections kept failing halfway.
    #[error(
        "the download of {what} failed {attempts} times in a row: {reason}; {kept} are kept, the same command continues there"
    )]
    Broken {
        /// The file.
        what: String,
        /// How many attempts in a row brought nothing.
        attempts: u32,
        /// What failed last.
        reason: String,
        /// How much is there, in words.
        kept: String,
    },
    /// Not enough room.
    #[error(
        "{what} needs {} more, but {} has {} free; free some space, or set QERN_HOME to a folder on another disk",
        output::bytes(*needed), folder.display(), output::bytes(*free)
    )]
    DiskFull {
        /// The file.
        what: String,
        /// The folder.
        folder: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// An answer that makes no sense.
    #[error("the hub's answer about {what} cannot be used: {reason}")]
    Malformed {
        /// What was asked for.
        what: String,
        /// Why not.
        reason: String,
    },
    /// A file system operation.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A wrong setting.
    #[error("{name} {rule}; it is `{value}`")]
    Setting {
        /// The environment variable.
        name: &'static str,
        /// The rule.
        rule: &'static str,
        /// Its value.
        value: String,
    },
    /// Ctrl-C.
    #[error("{0}")]
    Interrupted(#[from] crate::exit::Interrupted),
    /// A name that breaks a rule.
    #[error(transparent)]
    Name(#[from] super::NameError),
}
