//! Predictions on disk: what `eval perplexity --save-logits` writes and `eval kl` reads. Exact: log-probabilities as f32.
//!
//! All numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `QERNLOGP` |
//! | 4 | version: 1 |
//! | 4 | vocabulary size |
//! | 4 | context: tokens in a window |
//! | 4 | length of the model's name in bytes, at most 4096 |
//! | 8 | number of rows |
//! | 32 | SHA-256 of what was scored: the context as u64, then the token ids of all windows as u32 |
//! | ... | the model's name, UTF-8 |
//! | ... | rows: natural logarithms of the probabilities of all tokens, f32, `[num_rows, vocab_size]` |

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use tempfile::NamedTempFile;

use crate::{hub, output};

const MAGIC: &[u8; 8] = b"QERNLOGP";
const VERSION: u32 = 1;
const FIXED_BYTES: usize = 64;
const MAX_NAME: usize = 4096;
/// Larger than any model's, small enough that a row of a hostile file is no burden.
const MAX_VOCAB: u32 = 1 << 24;
/// Left free on a disk.
const SPARE_SPACE: u64 = 64 << 20;

/// Whose predictions of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) vocab_size: u32,
    pub(super) context: u32,
    pub(super) num_rows: u64,
    pub(super) tokens_sha256: [u8; 32],
    /// The model's name, cut to 4096 bytes.
    pub(super) model: String,
}

impl Header {
    /// The size of the whole file; `None` if no file can be so large.
    pub(super) fn file_bytes(&self) -> Option<u64> {
        let rows = self.num_rows.checked_mul(u64::from(self.vocab_size))?.checked_mul(4)?;
        rows.checked_add((FIXED_BYTES + self.model.len()) as u64)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + self.model.len());
        bytes.extend(MAGIC);
        for number in [VERSION, self.vocab_size, self.context, self.model.len() as u32] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.num_rows.to_le_bytes());
        bytes.extend(self.tokens_sha256);
        bytes.extend(self.model.as_bytes());
        bytes
    }

    /// Reads and checks everything before the rows.
    fn read(reader: &mut impl Read, file_bytes: u64) -> anyhow::Result<Self> {
        let mut fixed = [0; FIXED_BYTES];
        reader.read_exact(&mut fixed).context("it is shorter than its header")?;
        ensure!(&fixed[..8] == MAGIC, "it is not a logits file: it must begin with `QERNLOGP`");
        let number = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().expect("four bytes"));
        let version = number(8);
        ensure!(version == VERSION, "its version must be {VERSION}; it is {version}: save it again with this program");
        let (vocab_size, context, name_len) = (number(12), number(16), number(20) as usize);
        ensure!((1..=MAX_VOCAB).contains(&vocab_size), "its vocabulary size must be 1 to {MAX_VOCAB}; it is {vocab_size}");
        ensure!(name_len <= MAX_NAME, "its model's name must have at most {MAX_NAME} bytes; it has {name_len}");
        let num_rows = u64::from_le_bytes(fixed[24..32].try_into().expect("eight bytes"));
        let mut name = vec![0; name_len];
        reader.read_exact(&mut name).context("it is shorter than its header")?;
        let model = String::from_utf8(name).context("its model's name must be UTF-8")?;
        let tokens_sha256 = fixed[32..].try_into().expect("32 bytes");
        let header = Self { vocab_size, context, num_rows, tokens_sha256, model };
        match header.file_bytes() {
            Some(expected) if expected == file_bytes => Ok(header),
            Some(expected) => bail!("it must have {expected} bytes for its {num_rows} rows; it has {file_bytes}"),
            None => bail!("no file holds {num_rows} rows of {vocab_size} tokens"),
        }
    }
}

/// Writes beside the destination; only [`LogitsWriter::finish`] puts the whole file there.
pub(super) struct LogitsWriter {
    file: NamedTempFile,
    destination: PathBuf,
    remaining: u64, // values
    bytes: Vec<u8>,
}

impl LogitsWriter {
    /// Begins a file, if the disk has room for all of it.
    pub(super) fn create(destination: &Path, header: &Header) -> anyhow::Result<Self> {
        let name = destination.display();
        let folder = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let needed =
            header.file_bytes().with_context(|| format!("the logits of this text are too large for any file: `{name}`"))?;
        if let Some(free) = hub::free_space(folder)
            && needed.saturating_add(SPARE_SPACE) > free
        {
            let (needed, free) = (output::bytes(needed), output::bytes(free));
            bail!("the logits need {needed} and {free} are free where `{name}` would be; free some, or score a shorter text");
        }
        let mut file = temporary(folder).with_context(|| format!("`{name}` cannot be written"))?;
        file.write_all(&header.to_bytes())?;
        let remaining = header.num_rows * u64::from(header.vocab_size);
        Ok(Self { file, destination: destination.to_path_buf(), remaining, bytes: Vec::new() })
    }

    /// Appends whole rows.
    pub(super) fn write(&mut self, log_probs: &[f32]) -> anyhow::Result<()> {
        self.remaining = self.remaining.checked_sub(log_probs.len() as u64).expect("no more rows than announced");
        self.bytes.clear();
        self.bytes.extend(log_probs.iter().flat_map(|value| value.to_le_bytes()));
        self.file.write_all(&self.bytes).with_context(|| format!("`{}` cannot be written", self.destination.display()))
    }

    /// Puts the file where it was asked for.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        assert_eq!(self.remaining, 0, "all rows were written");
        let named = || format!("`{}` cannot be written", self.destination.display());
        self.file.as_file().sync_all().with_context(named)?;
        self.file.persist(&self.destination).with_context(named)?;
        Ok(())
    }
}

/// Readable to whoever may read the user's other files: `tempfile` alone would keep it private.
fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".qern-logits-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Reads rows in order.
#[derive(Debug)]
pub(super) struct LogitsReader {
    file: BufReader<File>,
    header: Header,
    path: PathBuf,
    rows_read: u64,
    bytes: Vec<u8>,
}

impl LogitsReader {
    /// Opens a file and checks its header against its size.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let named = || format!("the saved logits `{}` cannot be used", path.display());
        let file = File::open(path).with_context(named)?;
        let file_bytes = file.metadata().with_context(named)?.len();
        let mut file = BufReader::new(file);
        let header = Header::read(&mut file, file_bytes).with_context(named)?;
        Ok(Self { file, header, path: path.to_path_buf(), rows_read: 0, bytes: Vec::new() })
    }

    /// Whose predictions of what.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Reads the next `num_rows` rows; each must be a probability distribution.
    pub(super) fn read(&mut self, num_rows: usize, log_probs: &mut Vec<f32>) -> anyhow::Result<()> {
        let vocab_size = self.header.vocab_size as usize;
        self.bytes.resize(num_rows * vocab_size * 4, 0);
        let named = |row: u64| format!("row {row} of the saved logits `{}`", self.path.display());
        self.file.read_exact(&mut self.bytes).with_context(|| named(self.rows_read))?;
        log_probs.clear();
        log_probs.extend(self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))));
        for (row, log_probs) in (self.rows_read..).zip(log_probs.chunks_exact(vocab_size)) {
            let sum: f64 = log_probs.iter().map(|&log_prob| f64::from(log_prob).exp()).sum();
            let is_distribution = log_probs.iter().all(|value| value.is_finite()) && (sum - 1.0).abs() < 1e-3;
            ensure!(is_distribution, "{} is damaged: its probabilities sum to {sum}", named(row));
        }
        self.rows_read += num_rows as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const HALF: f32 = -std::f32::consts::LN_2;

    fn header() -> Header {
        Header { vocab_size: 2, context: 4, num_rows: 3, tokens_sha256: [7; 32], model: "tiny".into() }
    }

    fn written(folder: &Path) -> PathBuf {
        let path = folder.join("reference.logits");
        let mut writer = LogitsWriter::create(&path, &header()).unwrap();
        writer.write(&[HALF; 4]).unwrap();
        writer.write(&[HALF; 2]).unwrap();
        assert!(!path.exists(), "not before it is whole");
        writer.finish().unwrap();
        path
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        let mut reader = LogitsReader::open(&path).unwrap();
        assert_eq!(reader.header(), &header());
        let mut rows = vec![];
        for num_rows in [1, 2] {
            reader.read(num_rows, &mut rows).unwrap();
            assert_eq!(rows, vec![HALF; 2 * num_rows]);
        }
        assert!(reader.read(1, &mut rows).is_err());
    }

    #[test]
    fn a_file_that_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LogitsWriter::create(&folder.path().join("x"), &header()).unwrap();
        writer.write(&[HALF; 2]).unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn more_than_the_disk_has_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        for (num_rows, words) in [(1 << 58, "are free where"), (u64::MAX / 2, "too large for any file")] {
            let header = Header { num_rows, ..header() };
            let error = LogitsWriter::create(&folder.path().join("x"), &header).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Changes the bytes of a good file; the error must contain `words`.
    fn check_refused(words: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let error = LogitsReader::open(&path).and_then(|mut reader| reader.read(3, &mut vec![])).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(words) && error.contains("reference.logits"), "{error}");
    }

    #[test]
    fn hostile_files_are_refused() {
        check_refused("shorter than its header", |bytes| bytes.clear());
        check_refused("shorter than its header", |bytes| bytes.truncate(63));
        check_refused("must begin with `QERNLOGP`", |bytes| bytes[0] = b'G');
        check_refused("version must be 1; it is 2", |bytes| bytes[8] = 2);
        check_refused("vocabulary size must be 1 to", |bytes| bytes[12..16].fill(0));
        check_refused("vocabulary size must be 1 to", |bytes| bytes[12..16].fill(0xff));
        check_refused("at most 4096 bytes; it has 4294967295", |bytes| bytes[20..24].fill(0xff));
        check_refused("shorter than its header", |bytes| bytes[21] = 1);
        check_refused("must be UTF-8", |bytes| bytes[64] = 0xff);
        check_refused("no file holds 18446744073709551615 rows", |bytes| bytes[24..32].fill(0xff));
        check_refused("must have 100 bytes for its 4 rows; it has 92", |bytes| bytes[24] = 4);
        check_refused("it has 93", |bytes| bytes.push(0));
        check_refused("it has 91", |bytes| {
            bytes.pop();
        });
        check_refused("row 0", |bytes| bytes[68..72].copy_from_slice(&f32::NAN.to_le_bytes()));
        check_refused("row 2", |bytes| bytes[84..88].copy_from_slice(&1e30f32.to_le_bytes()));
        check_refused("row 1", |bytes| bytes[76..80].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes()));
    }
}
