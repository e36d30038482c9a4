//! Files from a model hub: what a repository holds, and its files downloaded whole or not at all. Speaks the hub's HTTP;
//! knows nothing of the store's folders or of what is in a file.
//!
//! `name` checks names, `client` makes requests (token, proxy, redirects), `address` says which addresses are allowed,
//! `listing` reads a repository's contents, `download` fetches one file, `progress` tells how far it is.

mod address;
mod client;
mod download;
mod error;
mod listing;
mod name;
mod progress;

pub use client::{Client, HubConfig};
pub use download::{Wanted, free_space};
pub use error::HubError;
pub use listing::{RepoFile, Repository};
pub use name::{NameError, RepoName, check_file, check_revision};
pub use progress::{Meter, Progress};

pub(crate) use download::hex;
pub(crate) use listing::split_part;

/// Where models are fetched from when `HF_ENDPOINT` does not say otherwise.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The revision used when none is named.
pub const DEFAULT_REVISION: &str = "main";
