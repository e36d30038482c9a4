//! Where models live on this machine: the folders, a model's name turned into a path, fetched if it has to be. Knows
//! names, paths and sizes; reads no weights and draws no tables.
//!
//! `resolve` reads a name, `fetch` makes sure its files are here, `package` is the way around an unreachable hub, `local`
//! lists and removes.

mod fetch;
mod local;
mod package;
mod resolve;

pub use local::{LocalModel, ModelKind};
pub use resolve::ModelRef;

use crate::catalogue::Entry;
use crate::hub::{Progress, RepoName};
use anyhow::Context;
use std::env;
use std::path::{Path, PathBuf};

/// Reads a model's name as given on the command line; see [`ModelRef`]. Fetches nothing.
pub fn resolve(name: &str) -> anyhow::Result<ModelRef> {
    Store::open()?.resolve(name)
}

/// The path of a model (a GGUF file or a safetensors folder), fetched first if it is not here.
pub fn locate_or_fetch(model: &ModelRef, progress: Progress) -> anyhow::Result<PathBuf> {
    Store::open()?.locate_or_fetch(model, progress)
}

/// The folder of everything Qern keeps: `QERN_HOME`, else `qern` in the user's data folder (`XDG_DATA_HOME`).
pub fn home() -> anyhow::Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = set("QERN_HOME") {
        return std::path::absolute(&home).with_context(|| format!("QERN_HOME must name a folder; it is `{}`", home.display()));
    }
    // A relative XDG path is to be ignored (XDG base directory specification).
    let data = set("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let data =
        data.or_else(|| if cfg!(windows) { set("LOCALAPPDATA") } else { set("HOME").map(|home| home.join(".local/share")) });
    let data = data.context("there is no home folder to keep models in; set QERN_HOME to a folder")?;
    Ok(data.join("qern"))
}

/// The models on this machine.
#[derive(Debug, Clone)]
pub struct Store {
    models: PathBuf,
}

impl Store {
    /// The user's store. Creates nothing.
    pub fn open() -> anyhow::Result<Self> {
        Ok(Self::at(&home()?))
    }

    /// The store in a folder as `QERN_HOME` would name it.
    pub fn at(home: &Path) -> Self {
        Self { models: home.join("models") }
    }

    /// The folder of all models.
    pub fn models(&self) -> &Path {
        &self.models
    }

    /// Where the file of a catalogue model belongs.
    pub fn catalogue_path(&self, entry: &Entry) -> PathBuf {
        self.models.join(entry.folder()).join(&entry.file)
    }

    /// Where the files of a hub repository belong.
    pub fn hub_folder(&self, repo: &RepoName, revision: Option<&str>) -> PathBuf {
        let folder = match revision {
            None => repo.repo().to_string(),
            Some(revision) => format!("{}@{}", repo.repo(), revision.replace('/', "%2F")),
        };
        self.models.join("hub").join(repo.owner()).join(folder)
    }
}
