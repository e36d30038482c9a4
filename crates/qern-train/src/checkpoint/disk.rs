//! Writing that has happened when it returns. Behind a trait, so that tests can have a disk that fills up.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Where a run's files are written.
pub trait Disk: Send {
    /// Makes a new file of these bytes, on the disk when this returns.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Makes the names in a folder last.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Elsewhere folders cannot be opened, and renames last without it.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }
}
