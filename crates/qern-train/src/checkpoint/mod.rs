//! A run's folder: locked, with checkpoints that are whole or absent. A checkpoint is written under a temporary name, synced,
//! listed with its hashes in a manifest, and renamed; a kill at any moment leaves the ones before it as they were.

mod disk;
mod state;

use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result};
pub use disk::{Disk, RealDisk};
pub use state::{Best, Identity, State, tensors_from_bytes, tensors_to_bytes};

/// A run's folder, locked for as long as this lives.
pub struct RunFolder {
    path: PathBuf,
    disk: Box<dyn Disk>,
    _lock: File,
}

/// A file of a checkpoint: its name and its bytes.
pub type Named = (String, Vec<u8>);

/// A checkpoint, read and found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The step after which it was made.
    pub step: u64,
    files: Vec<Named>,
}

/// What a checkpoint consists of: `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    step: u64,
    files: Vec<ManifestFile>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ManifestFile {
    name: String,
    bytes: u64,
    sha256: String,
}

const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const LOCK: &str = ".lock";
const PREFIX: &str = "checkpoint-";
/// What is not finished begins with this and is swept.
const TEMPORARY: &str = ".tmp-";
/// No file of a checkpoint is believed to be longer: adapters are small.
const MAX_FILE_BYTES: u64 = 64 << 30;

impl RunFolder {
    /// Makes the folder if need be, locks it, and sweeps what an interrupted run left unfinished.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_on(path, Box::new(RealDisk))
    }

    /// The same on another disk: for tests of one that is full.
    pub fn open_on(path: &Path, disk: Box<dyn Disk>) -> Result<Self> {
        fs::create_dir_all(path).map_err(|source| Error::io("make the folder", path, source))?;
        let lock_path = path.join(LOCK);
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(&lock_path);
        let mut lock = opened.map_err(|source| Error::io("open", &lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                _ = lock.take(100).read_to_string(&mut holder);
                return Err(Error::Config(format!(
                    "`{}` is in use by another run (process {}); wait for it, or name another folder",
                    path.display(),
                    holder.trim()
                )));
            }
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", lock_path, source)),
        }
        // Only for the message above; a lock without it locks as well.
        _ = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
        let folder = Self { path: path.into(), disk, _lock: lock };
        folder.sweep()?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn entries(&self) -> Result<Vec<String>> {
        let failed = |source| Error::io("read", &self.path, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        Ok(names)
    }

    /// Removes what was not finished.
    fn sweep(&self) -> Result<()> {
        for name in self.entries()?.iter().filter(|name| name.starts_with(TEMPORARY)) {
            let path = self.path.join(name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|source| Error::io("remove", path, source))?;
        }
        Ok(())
    }

    /// The steps of the checkpoints there are, whole or not, in order.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let mut steps: Vec<u64> = self.entries()?.iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok()).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The folder of a step's checkpoint.
    pub fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.path.join(format!("{PREFIX}{step:06}"))
    }

    /// Writes a checkpoint; it is there whole when this returns, and not at all when it fails.
    pub fn save(&self, step: u64, files: &[Named]) -> Result<()> {
        let temporary = self.path.join(format!("{TEMPORARY}{PREFIX}{step:06}"));
        let written = self.write_checkpoint(&temporary, step, files);
        if written.is_err() {
            // It is swept at the next start anyway; now it would only fill the disk.
            _ = fs::remove_dir_all(&temporary);
        }
        written
    }

    fn write_checkpoint(&self, temporary: &Path, step: u64, files: &[Named]) -> Result<()> {
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::io(action, path, source)
        };
        if temporary.exists() {
            fs::remove_dir_all(temporary).map_err(failed("remove", temporary))?;
        }
        fs::create_dir(temporary).map_err(failed("make the folder", temporary))?;
        let listed = files.iter().map(|(name, bytes)| ManifestFile {
            name: name.clone(),
            bytes: bytes.len() as u64,
            sha256: crate::hex(&Sha256::digest(bytes)),
        });
        let manifest = Manifest { format: FORMAT, step, files: listed.collect() };
        for (name, bytes) in files {
            let path = temporary.join(name);
            self.disk.write(&path, bytes).map_err(failed("write", &path))?;
        }
        let path = temporary.join(MANIFEST);
        let bytes = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::Config(format!("manifest: {error}")))?;
        self.disk.write(&path, &bytes).map_err(failed("write", &path))?;
        self.disk.sync_dir(temporary).map_err(failed("sync", temporary))?;
        let path = self.checkpoint_path(step);
        if path.exists() {
            self.remove(step)?;
        }
        fs::rename(temporary, &path).map_err(failed("rename", temporary))?;
        self.disk.sync_dir(&self.path).map_err(failed("sync", &self.path))
    }

    /// Removes a checkpoint; first its name, so that no half of one is ever taken for a whole.
    fn remove(&self, step: u64) -> Result<()> {
        let path = self.checkpoint_path(step);
        let doomed = self.path.join(format!("{TEMPORARY}old-{step:06}"));
        fs::rename(&path, &doomed).map_err(|source| Error::io("rename", &path, source))?;
        fs::remove_dir_all(&doomed).map_err(|source| Error::io("remove", doomed, source))
    }

    /// Removes all checkpoints but the last `num_kept` and that of step `best`.
    pub fn prune(&self, num_kept: usize, best: Option<u64>) -> Result<()> {
        let steps = self.steps()?;
        let old = &steps[..steps.len().saturating_sub(num_kept.max(1))];
        old.iter().filter(|&&step| Some(step) != best).try_for_each(|&step| self.remove(step))
    }

    /// The newest checkpoint that is whole, and what is wrong with newer ones. An error when there are some and none is whole.
    pub fn latest(&self) -> Result<(Option<Checkpoint>, Vec<String>)> {
        let mut notes = Vec::new();
        for &step in self.steps()?.iter().rev() {
            match self.load(step) {
                Ok(checkpoint) => return Ok((Some(checkpoint), notes)),
                Err(error) => notes.push(format!("{error}; the one before it is taken")),
            }
        }
        match notes.first() {
            None => Ok((None, notes)),
            Some(first) => Err(Error::Checkpoint(format!("no checkpoint is whole: {first}"))),
        }
    }

    /// A step's checkpoint, with every hash checked.
    pub fn load(&self, step: u64) -> Result<Checkpoint> {
        let path = self.checkpoint_path(step);
        let damaged = |what: String| Error::Checkpoint(format!("`{}` is damaged: {what}", path.display()));
        let manifest = read(&path.join(MANIFEST), 1 << 20)?;
        let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|error| damaged(format!("its manifest: {error}")))?;
        if (manifest.format, manifest.step) != (FORMAT, step) {
            return Err(damaged(format!("its manifest is of format {}, step {}", manifest.format, manifest.step)));
        }
        let mut files = Vec::new();
        for ManifestFile { name, bytes: len, sha256 } in manifest.files {
            if Path::new(&name).components().count() != 1 || name.contains(['/', '\\']) || name == ".." {
                return Err(damaged(format!("its manifest names a file outside it: `{}`", name.escape_debug())));
            }
            let bytes = read(&path.join(&name), MAX_FILE_BYTES.min(len))?;
            if bytes.len() as u64 != len || crate::hex(&Sha256::digest(&bytes)) != sha256 {
                return Err(damaged(format!("`{name}` is not what its manifest says")));
            }
            files.push((name, bytes));
        }
        Ok(Checkpoint { step, files })
    }

    /// Writes a file of the folder; it is there whole, or as it was before.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, temporary) = (self.path.join(name), self.path.join(format!("{TEMPORARY}{name}")));
        _ = fs::remove_file(&temporary);
        let written = self
            .disk
            .write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| self.disk.sync_dir(&self.path));
        written.map_err(|source| {
            _ = fs::remove_file(&temporary);
            Error::io("write", path, source)
        })
    }
}

impl Checkpoint {
    /// The bytes of one of its files.
    pub fn file(&self, name: &str) -> Result<&[u8]> {
        let file = self.files.iter().find(|(known, _)| known == name);
        let missing = || Error::Checkpoint(format!("the checkpoint of step {} has no `{name}`", self.step));
        file.map(|(_, bytes)| bytes.as_slice()).ok_or_else(missing)
    }
}

/// A file of at most `max_bytes`; of a longer one, one byte more than that.
fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(|source| Error::io("read", path, source))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn files(content: &str) -> Vec<Named> {
        vec![("a.bin".into(), content.as_bytes().repeat(50)), ("b.json".into(), b"{}".to_vec())]
    }

    fn message<T>(result: Result<T>) -> String {
        result.err().expect("an error").to_string()
    }

    /// A disk with so many bytes left.
    struct SmallDisk(Arc<AtomicUsize>);

    impl Disk for SmallDisk {
        fn write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
            let left = self.0.load(Ordering::SeqCst);
            let fitting = bytes.len().min(left);
            self.0.store(left - fitting, Ordering::SeqCst);
            RealDisk.write(path, &bytes[..fitting])?;
            if fitting < bytes.len() { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn sync_dir(&self, path: &Path) -> std::io::Result<()> {
            RealDisk.sync_dir(path)
        }
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(dir.path()).unwrap();
        assert_eq!(folder.latest().unwrap(), (None, vec![]));
        folder.save(3, &files("x")).unwrap();
        folder.save(12, &files("y")).unwrap();
        let (latest, notes) = folder.latest().unwrap();
        let latest = latest.unwrap();
        assert_eq!((latest.step, latest.file("a.bin").unwrap(), notes.len()), (12, "y".repeat(50).as_bytes(), 0));
        assert!(message(latest.file("c")).contains("has no `c`"));
        folder.save(12, &files("z")).unwrap();
        assert_eq!(folder.load(12).unwrap().files, files("z"));
    }

    #[test]
    fn a_damaged_checkpoint_is_told_and_the_one_before_it_taken() {
        let check = |damage: &dyn Fn(&Path), expected: &str| {
            let dir = tempfile::tempdir().unwrap();
            let folder = RunFolder::open(dir.path()).unwrap();
            folder.save(1, &files("x")).unwrap();
            folder.save(2, &files("y")).unwrap();
            damage(&folder.checkpoint_path(2));
            let (latest, notes) = folder.latest().unwrap();
            assert_eq!(latest.unwrap().step, 1);
            assert!(notes[0].contains(expected), "{notes:?}");
            damage(&folder.checkpoint_path(1));
            assert!(message(folder.latest()).contains("no checkpoint is whole"));
        };
        let flip = |path: &Path| {
            let mut bytes = fs::read(path.join("a.bin")).unwrap();
            bytes[7] ^= 1;
            fs::write(path.join("a.bin"), bytes).unwrap();
        };
        check(&flip, "`a.bin` is not what its manifest says");
        check(&|path| fs::write(path.join("a.bin"), "x").unwrap(), "is not what its manifest says");
        check(&|path| fs::remove_file(path.join("b.json")).unwrap(), "cannot read");
        check(&|path| fs::remove_file(path.join(MANIFEST)).unwrap(), "cannot read");
        check(&|path| fs::write(path.join(MANIFEST), "{").unwrap(), "its manifest: EOF");
        let outside = r#"{"format":1,"step":2,"files":[{"name":"../x","bytes":1,"sha256":""}]}"#;
        let outside_1 = outside.replace(":2,", ":1,");
        check(
            &|path| {
                fs::write(path.join(MANIFEST), if path.ends_with("checkpoint-000002") { outside } else { &outside_1 }).unwrap()
            },
            "names a file outside it",
        );
    }

    #[test]
    fn a_full_disk_loses_nothing() {
        let whole: usize = {
            let dir = tempfile::tempdir().unwrap();
            let left = Arc::new(AtomicUsize::new(usize::MAX));
            let folder = RunFolder::open_on(dir.path(), Box::new(SmallDisk(left.clone()))).unwrap();
            folder.save(2, &files("y")).unwrap();
            usize::MAX - left.load(Ordering::SeqCst)
        };
        for bytes in (0..whole).step_by(13) {
            let dir = tempfile::tempdir().unwrap();
            RunFolder::open(dir.path()).unwrap().save(1, &files("x")).unwrap();
            let left = Arc::new(AtomicUsize::new(bytes));
            let folder = RunFolder::open_on(dir.path(), Box::new(SmallDisk(left))).unwrap();
            assert!(message(folder.save(2, &files("y"))).contains("cannot write"), "{bytes} bytes left");
            assert!(message(folder.write("final", &[0; 5000])).contains("cannot write"));
            assert_eq!(folder.steps().unwrap(), [1]);
            assert_eq!(folder.latest().unwrap().0.unwrap().files, files("x"));
            assert!(folder.entries().unwrap().iter().all(|name| !name.starts_with(TEMPORARY)), "the disk is not kept full");
        }
    }

    #[test]
    fn what_a_killed_run_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".tmp-checkpoint-000007")).unwrap();
        fs::write(dir.path().join(".tmp-checkpoint-000007/a.bin"), "half").unwrap();
        fs::write(dir.path().join(".tmp-adapter_model.safetensors"), "half").unwrap();
        let folder = RunFolder::open(dir.path()).unwrap();
        assert_eq!(folder.entries().unwrap(), [LOCK]);
    }

    #[test]
    fn two_runs_in_one_folder_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunFolder::open(dir.path()).unwrap();
        let expected = format!("is in use by another run (process {})", std::process::id());
        assert!(message(RunFolder::open(dir.path())).contains(&expected));
        drop(first);
        RunFolder::open(dir.path()).unwrap();
    }

    #[test]
    fn the_last_and_the_best_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(dir.path()).unwrap();
        (1..=6).for_each(|step| folder.save(step, &files("x")).unwrap());
        folder.prune(2, Some(3)).unwrap();
        assert_eq!(folder.steps().unwrap(), [3, 5, 6]);
        folder.prune(0, None).unwrap();
        assert_eq!(folder.steps().unwrap(), [6]);
    }
}
