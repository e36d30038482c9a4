//! The bytes of one file: attempts, ranges, the partial file and its record, the checks at the end. Runs under the lock
//! that `download` holds.

use super::beside;
use crate::hub::client::{Answer, RequestError};
use crate::hub::{Client, HubError, Meter, Progress, Wanted, name};
use crate::{exit::Interrupted, interrupt, output};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{HeaderMap, StatusCode, header};

/// Room left on the disk for everything else.
const SPARE_SPACE: u64 = 64 << 20;
/// Bytes moved at once.
const PIECE: usize = 256 << 10;

/// What the hub said about a file; kept beside the partial file to tell whether a later attempt meets the same one.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    /// The hub's own tag of the content.
    etag: Option<String>,
    /// The tag of the host that sent the bytes, for `If-Range`.
    range_etag: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
}

/// One download in progress.
pub(super) struct Transfer<'a> {
    client: &'a Client,
    wanted: &'a Wanted<'a>,
    progress: Progress,
    listener: &'a interrupt::Listener,
    part: PathBuf,
    record: PathBuf,
    identity: Identity,
    file: File,
    /// Bytes in the partial file, all of them hashed in `hasher`.
    done: u64,
    hasher: Sha256,
    /// Whether some of the bytes come from an earlier run, which may have been of another file.
    resumed: bool,
}

/// Where an answer's bytes belong.
enum Start {
    /// After the bytes that are there.
    Here,
    /// At the file's beginning.
    FromZero,
    /// Nowhere: all bytes are there already.
    Complete,
    /// Nowhere: they are of another file than the bytes that are there.
    AnotherFile,
}

/// How one attempt ended without an error of its own.
enum Attempt {
    Complete,
    Broken(String),
}

impl<'a> Transfer<'a> {
    /// Opens the partial file and reads what an earlier run left.
    pub(super) fn new(
        client: &'a Client,
        wanted: &'a Wanted<'a>,
        progress: Progress,
        listener: &'a interrupt::Listener,
    ) -> Result<Self, HubError> {
        let part = beside(wanted.destination, ".part");
        let record = beside(wanted.destination, ".part.json");
        let identity = fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let open = File::options().create(true).truncate(false).read(true).write(true).open(&part);
        let file = open.map_err(|source| HubError::File { action: "write", path: part.clone(), source })?;
        let mut transfer = Self {
            client,
            wanted,
            progress,
            listener,
            part,
            record,
            identity: Identity::default(),
            file,
            done: 0,
            hasher: Sha256::new(),
            resumed: false,
        };
        match identity {
            Some(identity) => {
                transfer.identity = identity;
                transfer.take_over()?;
            }
            // Bytes without a record are bytes of nobody knows what.
            None => transfer.start_over()?,
        }
        Ok(transfer)
    }

    /// Fetches, checks and places the file.
    pub(super) fn run(mut self) -> Result<(), HubError> {
        let label = self.wanted.destination.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if self.done > 0 {
            self.progress.say(&format!("resuming {label} at {}", output::bytes(self.done)));
        }
        let mut failures = 0;
        let mut answered = false;
        let mut meter = self.progress.start(&label, self.size(), self.done);
        let outcome = loop {
            let before = self.done;
            let (reason, wait) = match self.attempt(&mut meter) {
                Ok(Attempt::Complete) => match self.check() {
                    // The bytes of an earlier run were of another file, or damaged: once more, from the start.
                    Err(HubError::WrongHash { .. }) if self.resumed => {
                        self.start_over()?;
                        meter.restart(0);
                        ("the resumed bytes do not fit".to_string(), Duration::ZERO)
                    }
                    outcome => break outcome,
                },
                Ok(Attempt::Broken(reason)) => {
                    answered = true;
                    (reason, Duration::ZERO)
                }
                Err(RequestError::Transient(reason, wait)) => (reason, wait),
                // A hub that was there a moment ago is worth waiting for; one that never answered is not.
                Err(RequestError::Fatal(HubError::Unreachable { reason, .. })) if answered => (reason, Duration::ZERO),
                Err(RequestError::Fatal(error)) => break Err(error),
            };
            failures = if self.done > before { 1 } else { failures + 1 };
            if failures >= self.client.config.attempts {
                let (what, kept) = (self.what(), output::bytes(self.done));
                break Err(HubError::Broken { what, attempts: failures, reason, kept });
            }
            self.client.back_off(failures, wait, self.listener);
        };
        meter.finish();
        match outcome {
            Ok(()) => self.place(),
            Err(error) => {
                self.leave(&error);
                Err(error)
            }
        }
    }

    /// One request, from the byte reached so far to the end.
    fn attempt(&mut self, meter: &mut Meter) -> Result<Attempt, RequestError> {
        let mut headers = Vec::new();
        if self.done > 0 {
            headers.push(("range", format!("bytes={}-", self.done)));
            if let Some(etag) = &self.identity.range_etag {
                headers.push(("if-range", etag.clone()));
            }
        }
        let file: Vec<String> = self.wanted.file.split('/').map(percent_encode).collect();
        let revision = self.wanted.revision.replace('/', "%2F");
        let path = format!("/{}/resolve/{revision}/{}", self.wanted.repo, file.join("/"));
        self.stop_if_asked()?;
        let answer = self.client.get(&path, &self.what(), &headers)?;
        match self.accept(&answer)? {
            Start::Here => {}
            Start::FromZero => {
                self.empty().map_err(RequestError::Fatal)?;
                meter.restart(0);
            }
            Start::Complete => return Ok(Attempt::Complete),
            Start::AnotherFile => {
                self.start_over().map_err(RequestError::Fatal)?;
                meter.restart(0);
                return Ok(Attempt::Broken("the hub has another file by now".to_string()));
            }
        }
        self.check_space().map_err(RequestError::Fatal)?;
        self.receive(answer.response.into_body().into_reader(), meter)
    }

    /// Reads what the answer says about the file, and where its bytes start.
    fn accept(&mut self, answer: &Answer) -> Result<Start, RequestError> {
        let headers = answer.response.headers();
        let status = answer.response.status();
        let (start, total) = match status {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(headers, "content-range").and_then(content_range);
                let (start, total) = range.ok_or_else(|| self.malformed("a partial answer that does not say which part"))?;
                if start != self.done {
                    return Err(self.malformed("a partial answer that starts at another byte than asked for"));
                }
                (start, total)
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                // Nothing after our last byte: the file is complete, or is another one by now.
                let complete = self.done > 0 && self.size() == Some(self.done);
                return Ok(if complete { Start::Complete } else { Start::AnotherFile });
            }
            _ => (0, text(headers, "content-length").and_then(|value| value.parse().ok())),
        };
        let found = identity(&answer.first, headers, total);
        let changed = |old: &Option<String>, new: &Option<String>| old.is_some() && new.is_some() && old != new;
        if start > 0 && (changed(&self.identity.etag, &found.etag) || changed(&self.identity.sha256, &found.sha256)) {
            return Ok(Start::AnotherFile);
        }
        for (expected, actual) in [(self.wanted.size, found.size), (self.wanted.size, total), (found.size, total)] {
            if let (Some(expected), Some(actual)) = (expected, actual)
                && expected != actual
            {
                return Err(RequestError::Fatal(HubError::WrongSize { what: self.what(), expected, actual }));
            }
        }
        if self.identity != found {
            self.identity = found;
            let record = serde_json::to_vec(&self.identity).unwrap_or_default();
            fs::write(&self.record, record).map_err(|source| self.file_error("write", self.record.clone(), source))?;
        }
        Ok(if start == self.done { Start::Here } else { Start::FromZero })
    }

    /// Appends what arrives.
    fn receive(&mut self, mut body: impl Read, meter: &mut Meter) -> Result<Attempt, RequestError> {
        let mut piece = vec![0; PIECE];
        loop {
            self.stop_if_asked()?;
            let count = match body.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Attempt::Broken(error.to_string())),
            };
            if let Some(expected) = self.size()
                && self.done + count as u64 > expected
            {
                return Err(RequestError::Fatal(HubError::WrongSize {
                    what: self.what(),
                    expected,
                    actual: self.done + count as u64,
                }));
            }
            self.file.write_all(&piece[..count]).map_err(|source| self.file_error("write", self.part.clone(), source))?;
            self.hasher.update(&piece[..count]);
            self.done += count as u64;
            meter.add(count as u64);
        }
        match self.size() {
            Some(size) if self.done < size => Ok(Attempt::Broken("the connection ended early".to_string())),
            _ => Ok(Attempt::Complete),
        }
    }

    fn stop_if_asked(&self) -> Result<(), RequestError> {
        if !self.listener.raised() {
            return Ok(());
        }
        let kept = format!("stopped; {} of {} are kept, the same command continues there", output::bytes(self.done), self.what());
        Err(RequestError::Fatal(Interrupted(kept).into()))
    }

    /// The whole file is there: is it the right one?
    fn check(&self) -> Result<(), HubError> {
        if let Some(expected) = self.size()
            && expected != self.done
        {
            return Err(HubError::WrongSize { what: self.what(), expected, actual: self.done });
        }
        let actual = hex(&self.hasher.clone().finalize());
        // What we knew beforehand counts before what the hub says.
        match self.wanted.sha256.or(self.identity.sha256.as_deref()) {
            Some(expected) if !expected.eq_ignore_ascii_case(&actual) => {
                Err(HubError::WrongHash { what: self.what(), expected: expected.to_ascii_lowercase(), actual })
            }
            _ => Ok(()),
        }
    }

    /// Makes the partial file the file.
    fn place(self) -> Result<(), HubError> {
        let destination = self.wanted.destination;
        let error = |action, path: &Path, source| HubError::File { action, path: path.to_path_buf(), source };
        self.file.sync_all().map_err(|source| error("write", &self.part, source))?;
        fs::rename(&self.part, destination).map_err(|source| error("create", destination, source))?;
        let _ = fs::remove_file(&self.record);
        // The rename itself should survive a power cut; where folders cannot be synced, the file still can be fetched again.
        if let Some(folder) = destination.parent() {
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }

    /// After a failure: keep bytes that are worth resuming, and nothing else.
    fn leave(&self, error: &HubError) {
        let worthless = matches!(error, HubError::WrongHash { .. } | HubError::WrongSize { .. }) || self.done == 0;
        if worthless {
            let _ = fs::remove_file(&self.part);
            let _ = fs::remove_file(&self.record);
        } else {
            let _ = self.file.sync_all();
        }
    }

    /// Hashes the bytes of an earlier run, and goes on after them.
    fn take_over(&mut self) -> Result<(), HubError> {
        let read = io::copy(&mut self.file, &mut HashWriter(&mut self.hasher));
        self.done = read.map_err(|source| HubError::File { action: "read", path: self.part.clone(), source })?;
        self.resumed = self.done > 0;
        if self.size().is_some_and(|size| self.done > size) {
            self.start_over()?;
        }
        Ok(())
    }

    /// Forgets everything about the file.
    fn start_over(&mut self) -> Result<(), HubError> {
        self.identity = Identity::default();
        self.empty()
    }

    /// Forgets the bytes, not what is known about the file.
    fn empty(&mut self) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| HubError::File { action: "write", path: self.part.clone(), source })?;
        self.done = 0;
        self.hasher = Sha256::new();
        self.resumed = false;
        Ok(())
    }

    fn check_space(&self) -> Result<(), HubError> {
        let folder = self.wanted.destination.parent().unwrap_or(Path::new("."));
        let (Some(size), Some(free)) = (self.size(), (self.client.config.free_space)(folder)) else {
            return Ok(());
        };
        let needed = size - self.done.min(size);
        if needed > 0 && needed.saturating_add(SPARE_SPACE) > free {
            return Err(HubError::DiskFull { what: self.what(), folder: folder.to_path_buf(), needed, free });
        }
        Ok(())
    }

    fn size(&self) -> Option<u64> {
        self.wanted.size.or(self.identity.size)
    }

    fn what(&self) -> String {
        format!("`{}` of `{}`", self.wanted.file, self.wanted.repo)
    }

    fn malformed(&self, reason: &str) -> RequestError {
        RequestError::Fatal(HubError::Malformed { what: self.what(), reason: reason.to_string() })
    }

    fn file_error(&self, action: &'static str, path: PathBuf, source: io::Error) -> RequestError {
        if source.kind() == io::ErrorKind::StorageFull {
            let folder = path.parent().unwrap_or(Path::new(".")).to_path_buf();
            let needed = self.size().unwrap_or_default().saturating_sub(self.done);
            return RequestError::Fatal(HubError::DiskFull { what: self.what(), folder, needed, free: 0 });
        }
        RequestError::Fatal(HubError::File { action, path, source })
    }
}

/// What the headers say about the file. For large files the endpoint sends `X-Linked-Size` and `X-Linked-Etag`, the
/// latter being the content's SHA-256; for small ones its `ETag` is a tag and no more.
fn identity(first: &HeaderMap, last: &HeaderMap, total: Option<u64>) -> Identity {
    let linked = text(first, "x-linked-etag").map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_string());
    let sha256 = linked.clone().filter(|tag| name::is_sha256(tag)).map(|tag| tag.to_ascii_lowercase());
    let etag = linked.or_else(|| text(first, "etag").map(str::to_string));
    // Only a strong tag may be used with If-Range (RFC 9110, section 13.1.5).
    let range_etag = text(last, "etag").filter(|tag| tag.starts_with('"')).map(str::to_string);
    let size = text(first, "x-linked-size").and_then(|value| value.parse().ok()).or(total);
    Identity { etag, range_etag, size, sha256 }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    debug_assert!(header::HeaderName::from_bytes(name.as_bytes()).is_ok());
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// `bytes 5-9/10` as its start and total; the total may be `*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end): (u64, u64) = (start.trim().parse().ok()?, end.trim().parse().ok()?);
    let total = if total.trim() == "*" { None } else { Some(total.trim().parse().ok()?) };
    (start <= end && total.is_none_or(|total| end < total)).then_some((start, total))
}

/// One path segment, with everything but RFC 3986's unreserved characters escaped.
fn percent_encode(segment: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    segment.bytes().map(escape).collect()
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in ["bytes 9-5/10", "bytes 5-10/10", "bytes */10", "5-9/10", "bytes -1-9/10", ""] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn path_segments_are_escaped() {
        assert_eq!(percent_encode("a b+ü.gguf"), "a%20b%2B%C3%BC.gguf");
    }
}
