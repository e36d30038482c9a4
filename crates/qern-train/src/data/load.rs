//! A file of examples, whole: read, understood, encoded; bad rows collected. All or nothing, unless bad rows are to be left out.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::example::{self, Kind, Reading};
use super::{Encoder, Item, rows};
use crate::{Error, Result};

/// How a file is read.
#[derive(Clone, Debug, Default)]
pub struct LoadSettings {
    /// Columns, plain text, system prompt.
    pub reading: Reading,
    /// Leave bad rows out, and say so, rather than refuse the file.
    pub skip_bad_rows: bool,
}

/// Examples, encoded.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// In the order of the file.
    pub items: Vec<Item>,
    /// What they are.
    pub kind: Kind,
    /// What became of the file.
    pub report: DataReport,
}

/// What became of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataReport {
    /// The file.
    pub path: PathBuf,
    /// Rows in it.
    pub num_rows: u64,
    /// Rows that were left out, and why; the first `MAX_BAD_ROWS` of them.
    pub bad_rows: Vec<(u64, String)>,
    /// How many were left out.
    pub num_bad: u64,
    /// Sequences that were cut.
    pub num_truncated: u64,
}

/// Bad rows that are told; the others are only counted.
const MAX_BAD_ROWS: usize = 10;

/// Reads a file.
pub fn load(path: &Path, settings: &LoadSettings, encoder: &Encoder) -> Result<Dataset> {
    let mut report = DataReport { path: path.into(), ..DataReport::default() };
    let mut items: Vec<Item> = Vec::new();
    let mut first: Option<(u64, Kind)> = None;
    let unit = rows::unit(path);
    rows::read(path, &mut |row| {
        report.num_rows += 1;
        let read = row.columns.and_then(|columns| example::read(columns, &settings.reading));
        let encoded = read.and_then(|(kind, example)| Ok((kind, encoder.encode(&example, row.number)?)));
        match encoded {
            Ok((kind, encoded)) => {
                let (first_row, first_kind) = *first.get_or_insert((row.number, kind));
                if kind != first_kind {
                    return Err(Error::Data(format!(
                        "`{}`: all examples must be of one kind; {unit} {first_row} is {first_kind}, {unit} {} is {kind}; put them \
                         into files of their own",
                        path.display(),
                        row.number
                    )));
                }
                let cut = encoded.iter().flat_map(|item| &item.sequences);
                report.num_truncated += cut.filter(|s| encoder.truncate && s.tokens.len() == encoder.max_tokens).count() as u64;
                items.extend(encoded);
            }
            Err(message) => {
                report.num_bad += 1;
                if report.bad_rows.len() < MAX_BAD_ROWS {
                    report.bad_rows.push((row.number, message));
                }
            }
        }
        Ok(())
    })?;
    if report.num_bad > 0 && !settings.skip_bad_rows {
        return Err(bad_rows_error(&report, unit));
    }
    match first {
        Some((_, kind)) if !items.is_empty() => Ok(Dataset { items, kind, report }),
        _ if report.num_bad > 0 => Err(Error::Data(format!("{}; no row is left", bad_rows_error(&report, unit)))),
        _ => Err(Error::Data(format!("`{}` must have at least one example; it is empty", path.display()))),
    }
}

fn bad_rows_error(report: &DataReport, unit: &str) -> Error {
    let told: Vec<_> = report.bad_rows.iter().map(|(row, message)| format!("\n  {unit} {row}: {message}")).collect();
    let more = report.num_bad - report.bad_rows.len() as u64;
    Error::Data(format!(
        "`{}`: {} of {} rows cannot be trained on; correct them, or leave them out by `skip_bad_rows`:{}{}",
        report.path.display(),
        report.num_bad,
        report.num_rows,
        told.concat(),
        if more > 0 { format!("\n  and {more} more") } else { String::new() }
    ))
}

impl Dataset {
    /// A hash over all tokens and masks. A run is only resumed on the same examples.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for sequence in self.items.iter().flat_map(|item| &item.sequences) {
            hash.update((sequence.tokens.len() as u64).to_le_bytes());
            for (token, &is_trained) in sequence.tokens.iter().zip(&sequence.is_trained) {
                hash.update(token.to_le_bytes());
                hash.update([u8::from(is_trained)]);
            }
        }
        crate::hex(&hash.finalize())
    }

    /// Tokens of all examples.
    pub fn num_tokens(&self) -> usize {
        self.items.iter().map(Item::num_tokens).sum()
    }

    /// Tokens whose loss counts.
    pub fn num_trained(&self) -> usize {
        self.items.iter().map(Item::num_trained).sum()
    }
}
