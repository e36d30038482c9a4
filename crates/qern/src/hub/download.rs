//! One file, downloaded whole or not at all: locked against a second download, resumed where it stopped, checked for
//! length and hash, synced, renamed into place. Until the rename only `NAME.part` exists, and it is never read as a model.

mod transfer;

pub(crate) use transfer::hex;

use super::client::RequestError;
use super::{Client, HubError, Progress, RepoName, check_file, check_revision};
use crate::{exit::Interrupted, interrupt};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// One file to fetch.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The repository.
    pub repo: &'a RepoName,
    /// The revision.
    pub revision: &'a str,
    /// The file's path inside the repository.
    pub file: &'a str,
    /// Where it goes. Its folder is created.
    pub destination: &'a Path,
    /// Its length, if known beforehand.
    pub size: Option<u64>,
    /// Its SHA-256 in hex, if known beforehand.
    pub sha256: Option<&'a str>,
}

impl Client {
    /// Fetches one file to its destination; does nothing when it is there already.
    pub fn fetch(&self, wanted: &Wanted<'_>, progress: Progress) -> Result<(), HubError> {
        check_file(wanted.file)?;
        check_revision(wanted.revision)?;
        if wanted.destination.is_file() {
            return Ok(());
        }
        let listener = interrupt::listen();
        let folder = wanted.destination.parent().unwrap_or(Path::new("."));
        let lock = Lock::acquire(wanted.destination, folder, progress, &listener)?;
        // Whoever held the lock may have finished the file.
        let outcome = if wanted.destination.is_file() {
            Ok(())
        } else {
            transfer::Transfer::new(self, wanted, progress, &listener).and_then(transfer::Transfer::run)
        };
        lock.remove();
        // A download that left nothing leaves no folder either.
        let _ = fs::remove_dir(folder);
        outcome
    }

    /// Runs a request until it is answered, fails for good, or has failed too often in a row.
    pub(super) fn retrying<T>(&self, what: &str, mut request: impl FnMut() -> Result<T, RequestError>) -> Result<T, HubError> {
        let listener = interrupt::listen();
        let mut failures = 0;
        loop {
            let (reason, wait) = match request() {
                Ok(answer) => return Ok(answer),
                Err(RequestError::Fatal(error)) => return Err(error),
                Err(RequestError::Transient(reason, wait)) => (reason, wait),
            };
            failures += 1;
            if failures >= self.config.attempts {
                return Err(HubError::Broken { what: what.to_string(), attempts: failures, reason, kept: "0 B".to_string() });
            }
            self.back_off(failures, wait, &listener);
            if listener.raised() {
                return Err(Interrupted(format!("stopped while asking the hub for {what}")).into());
            }
        }
    }

    /// Waits before attempt number `failures + 1`, at least as long as the hub asks for. Returns early on Ctrl-C.
    fn back_off(&self, failures: u32, asked: Duration, listener: &interrupt::Listener) {
        let own = self.config.backoff * 2_u32.pow(failures.saturating_sub(1).min(5));
        let until = Instant::now() + own.max(asked);
        while Instant::now() < until && !listener.raised() {
            thread::sleep(Duration::from_millis(50).min(until.saturating_duration_since(Instant::now())));
        }
    }
}

/// How much room the disk of a folder (or of its nearest existing parent) has for this user.
#[cfg(unix)]
pub fn free_space(folder: &Path) -> Option<u64> {
    let existing = folder.ancestors().find(|path| path.exists())?;
    let disk = rustix::fs::statvfs(existing).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// How much room the disk of a folder has: not known here.
#[cfg(not(unix))]
pub fn free_space(_folder: &Path) -> Option<u64> {
    None
}

/// `NAME.suffix` beside `path`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

/// The right to download one file; given back by the system even when the process is killed.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn acquire(destination: &Path, folder: &Path, progress: Progress, listener: &interrupt::Listener) -> Result<Self, HubError> {
        let path = beside(destination, ".lock");
        let error = |source: io::Error| HubError::File { action: "lock", path: path.clone(), source };
        let (mut told, mut vanished) = (false, 0);
        loop {
            // Again in every round: a download beside this one that failed may have removed the empty folder.
            let folder_error = |source| HubError::File { action: "create the folder", path: folder.to_path_buf(), source };
            fs::create_dir_all(folder).map_err(folder_error)?;
            let file = match File::options().create(true).truncate(false).write(true).open(&path) {
                Err(gone) if gone.kind() == io::ErrorKind::NotFound && vanished < 100 => {
                    vanished += 1;
                    continue;
                }
                opened => opened.map_err(error)?,
            };
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Self { path, _file: file }),
                // The holder has removed the file that we opened: locking it locks nobody out.
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(error(source)),
            }
            if !told {
                progress.say(&format!("another qern is fetching {}; waiting for it", destination.display()));
                told = true;
            }
            if listener.raised() {
                return Err(Interrupted("stopped while waiting for another download".to_string()).into());
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Removes the lock file while it is still locked, so that nobody else's is removed.
    fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether an open file is still the one that its path names.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |data: fs::Metadata| (data.dev(), data.ino());
    matches!((file.metadata().map(id), path.metadata().map(id)), (Ok(open), Ok(named)) if open == named)
}

/// Whether an open file is still the one that its path names: here, open files are not removed.
#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}
