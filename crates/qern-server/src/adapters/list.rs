//! The list of adapters on disk: whole or as it was before, whenever the process ends. One server has it at a time.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// An adapter that a request loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What requests call it.
    pub name: String,
    /// The model that it belongs to.
    pub model: String,
    /// Where it is read from.
    pub path: PathBuf,
}

/// The list cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// Another server keeps its list there.
    #[error("the folder `{}` belongs to a server that runs; give another one by --state-dir", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The file is not one that a server wrote.
    #[error("the list of adapters `{}` cannot be used: {reason}; remove it to start with none", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system refused.
    #[error("cannot keep the list of adapters in `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The list, and the lock on its folder.
pub(super) struct SavedList {
    folder: PathBuf,
    entries: Vec<Entry>,
    _lock: File,
}

const FILE: &str = "adapters.json";

impl SavedList {
    /// Takes the folder, making it if it is not there, and reads the list in it.
    pub fn open(folder: &Path) -> Result<Self, ListError> {
        let io = |source| ListError::Io { path: folder.into(), source };
        fs::create_dir_all(folder).map_err(io)?;
        let lock = File::create(folder.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ListError::InUse { folder: folder.into() }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let path = folder.join(FILE);
        let entries = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| ListError::Broken { path, reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(ListError::Io { path, source }),
        };
        Ok(Self { folder: folder.into(), entries, _lock: lock })
    }

    /// The adapters in the list.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.clone()
    }

    /// Replaces the list. Once this returns, it is on the disk.
    pub fn save(&mut self, entries: Vec<Entry>) -> Result<(), ListError> {
        let io = |source| ListError::Io { path: self.folder.join(FILE), source };
        let bytes = serde_json::to_vec_pretty(&entries).map_err(|error| io(error.into()))?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(io)?;
        file.write_all(&bytes).map_err(io)?;
        file.as_file().sync_all().map_err(io)?;
        file.persist(self.folder.join(FILE)).map_err(|error| io(error.error))?;
        // The new name is only kept by a folder that is written too; folders cannot be opened everywhere.
        #[cfg(unix)]
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        self.entries = entries;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_outlives_its_server_and_belongs_to_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry { name: "a".into(), model: "m".into(), path: "/x".into() };
        let mut list = SavedList::open(folder.path()).unwrap();
        assert!(matches!(SavedList::open(folder.path()), Err(ListError::InUse { .. })));
        list.save(vec![entry.clone()]).unwrap();
        drop(list);
        assert_eq!(SavedList::open(folder.path()).unwrap().entries(), [entry]);
        fs::write(folder.path().join(FILE), "[{").unwrap();
        assert!(matches!(SavedList::open(folder.path()), Err(ListError::Broken { .. })));
    }
}
