//! Files of rows: JSONL, JSON, CSV, Parquet and plain text, each row an object of columns. Says where a bad row stands and goes
//! on behind it; whether that is fatal is for the caller. Knows nothing of what columns mean.

mod parquet;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A row's columns.
pub type Columns = Map<String, Value>;

/// A row of a file, or why it is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The line of a text file, the number of the row in any other; from 1.
    pub number: u64,
    /// What it holds, or what is wrong with it.
    pub columns: Result<Columns, String>,
}

/// Lines longer than this are bad rows.
const MAX_LINE_BYTES: usize = 32 << 20;
/// JSON files longer than this are refused: they are read whole.
const MAX_JSON_BYTES: u64 = 1 << 30;

/// What a row's number counts in the file: `line` or `row`.
pub fn unit(path: &Path) -> &'static str {
    match extension(path).as_str() {
        "json" | "parquet" => "row",
        _ => "line",
    }
}

/// Calls `each` for every row of a file, in order. The kind of file is told by its name's ending.
pub fn read(path: &Path, each: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    match extension(path).as_str() {
        "jsonl" | "ndjson" => read_lines(path, each),
        "json" => read_json(path, each),
        "csv" => read_csv(path, b',', each),
        "tsv" => read_csv(path, b'\t', each),
        "parquet" => parquet::read(path, each),
        "txt" | "md" => read_text(path, each),
        other => Err(Error::Data(format!(
            "`{}`: examples must be in a file that ends in .jsonl, .json, .csv, .tsv, .parquet, .txt or .md; given `{}`",
            path.display(),
            if other.is_empty() { "no ending" } else { other }
        ))),
    }
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| Error::io("read", path, source))
}

/// One JSON object on every line; empty lines are passed over.
fn read_lines(path: &Path, each: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, open(path)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let failed = |source| Error::io("read", path, source);
        if reader.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        if line.len() == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
            skip_line(&mut reader).map_err(failed)?;
            each(Row { number, columns: Err(format!("it must have at most {MAX_LINE_BYTES} bytes")) })?;
            continue;
        }
        let text = if number == 1 { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&line) } else { &line };
        if !text.trim_ascii().is_empty() {
            each(Row { number, columns: parse_object(text) })?;
        }
    }
    Ok(())
}

/// Reads to the end of a line without keeping it.
fn skip_line(reader: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let (used, is_end) = match buffer.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(used);
        if is_end {
            return Ok(());
        }
    }
}

fn parse_object(text: &[u8]) -> Result<Columns, String> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(columns)) => Ok(columns),
        Ok(_) => Err("it must be a JSON object".into()),
        Err(error) => Err(format!("it is no JSON: {error}")),
    }
}

/// An array of objects, or an object that holds one under `data`.
fn read_json(path: &Path, each: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let mut file = open(path)?;
    let failed = |source| Error::io("read", path, source);
    let len = file.metadata().map_err(failed)?.len();
    if len > MAX_JSON_BYTES {
        return Err(Error::Data(format!(
            "`{}`: a JSON file must have at most {MAX_JSON_BYTES} bytes; it has {len}; JSONL has no such limit",
            path.display()
        )));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(MAX_JSON_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    let value: Value = serde_json::from_slice(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes))
        .map_err(|error| Error::Data(format!("`{}` is no JSON: {error}", path.display())))?;
    let rows = match value {
        Value::Array(rows) => rows,
        Value::Object(mut object) if matches!(object.get("data"), Some(Value::Array(_))) => match object.remove("data") {
            Some(Value::Array(rows)) => rows,
            _ => Vec::new(),
        },
        _ => {
            let rule = "a JSON file must hold an array of objects; objects line by line belong in a .jsonl file";
            return Err(Error::Data(format!("`{}`: {rule}", path.display())));
        }
    };
    for (index, row) in rows.into_iter().enumerate() {
        let columns = match row {
            Value::Object(columns) => Ok(columns),
            _ => Err("it must be a JSON object".into()),
        };
        each(Row { number: index as u64 + 1, columns })?;
    }
    Ok(())
}

/// The first line names the columns.
fn read_csv(path: &Path, delimiter: u8, each: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(open(path)?);
    let failed = |error: csv::Error| Error::Data(format!("`{}`: {error}", path.display()));
    let names = reader.headers().map_err(failed)?.clone();
    if let Some(name) = names.iter().enumerate().find(|(index, name)| names.iter().take(*index).any(|n| n == *name)) {
        return Err(Error::Data(format!("`{}`: columns must have different names; `{}` comes twice", path.display(), name.1)));
    }
    let mut record = csv::StringRecord::new();
    loop {
        let (number, columns) = match reader.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) if record.len() == names.len() => {
                let columns =
                    names.iter().zip(&record).map(|(name, field)| (name.trim_start_matches('\u{feff}').into(), field.into()));
                (record.position().map_or(0, csv::Position::line), Ok(columns.collect()))
            }
            Ok(true) => {
                let message = format!("it must have {} fields, as the first line names; it has {}", names.len(), record.len());
                (record.position().map_or(0, csv::Position::line), Err(message))
            }
            Err(error) => match error.kind() {
                csv::ErrorKind::Utf8 { pos, .. } => (pos.as_ref().map_or(0, csv::Position::line), Err("it is no UTF-8".into())),
                _ => return Err(failed(error)),
            },
        };
        each(Row { number, columns })?;
    }
}

/// Texts that empty lines divide: one row each, numbered by its first line.
fn read_text(path: &Path, each: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(open(path)?);
    let (mut text, mut first) = (Vec::new(), 0);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let failed = |source| Error::io("read", path, source);
        let is_end = reader.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line).map_err(failed)? == 0;
        if text.is_empty() {
            first = number;
        }
        if is_end || line.trim_ascii().is_empty() {
            if !text.is_empty() {
                let columns = match std::str::from_utf8(&text) {
                    Ok(text) => Ok([("text".to_string(), Value::from(text.trim_end()))].into_iter().collect()),
                    Err(_) => Err("it is no UTF-8".into()),
                };
                each(Row { number: first, columns })?;
                text.clear();
            }
        } else if text.len() + line.len() > MAX_LINE_BYTES {
            return Err(Error::Data(format!(
                "`{}`: the text from line {first} on must have at most {MAX_LINE_BYTES} bytes",
                path.display()
            )));
        } else {
            text.extend_from_slice(&line);
        }
        if is_end {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of a file with this name and content, as `number: columns` or `number! error`.
    fn rows(name: &str, content: &[u8]) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let mut rows = Vec::new();
        read(&path, &mut |row| {
            rows.push(match row.columns {
                Ok(columns) => format!("{}: {}", row.number, Value::Object(columns)),
                Err(error) => format!("{}! {error}", row.number),
            });
            Ok(())
        })?;
        Ok(rows)
    }

    #[test]
    fn every_format_gives_its_rows_with_their_numbers() {
        let check = |name: &str, content: &str, expected: &[&str]| {
            assert_eq!(rows(name, content.as_bytes()).unwrap(), expected, "{name}")
        };
        check("a.jsonl", "{\"a\":1}\n\n{\"a\":2}", &["1: {\"a\":1}", "3: {\"a\":2}"]);
        check("a.ndjson", "\u{feff}{\"a\":1}\r\n", &["1: {\"a\":1}"]);
        check("a.json", "[{\"a\":1},{\"a\":2}]", &["1: {\"a\":1}", "2: {\"a\":2}"]);
        check("a.json", "{\"data\":[{\"a\":1}]}", &["1: {\"a\":1}"]);
        check("a.csv", "a,b\n1,\"x\ny\"\n2,z\n", &["2: {\"a\":\"1\",\"b\":\"x\\ny\"}", "4: {\"a\":\"2\",\"b\":\"z\"}"]);
        check("a.tsv", "a\tb\n1\t2\n", &["2: {\"a\":\"1\",\"b\":\"2\"}"]);
        check("a.TXT", "one\ntwo\n\n\nthree", &["1: {\"text\":\"one\\ntwo\"}", "5: {\"text\":\"three\"}"]);
        check("a.jsonl", "", &[]);
        check("a.txt", "\n\n", &[]);
    }

    #[test]
    fn a_bad_row_is_named_and_the_next_one_read() {
        let check = |name: &str, content: &[u8], expected: &[&str]| {
            let rows = rows(name, content).unwrap();
            assert_eq!(rows.len(), expected.len(), "{rows:?}");
            for (row, expected) in rows.iter().zip(expected) {
                assert!(row.starts_with(expected), "{row} does not begin with {expected}");
            }
        };
        check("a.jsonl", b"{\"a\":1}\n{\"a\":\n{\"a\":2}", &["1:", "2! it is no JSON: EOF", "3:"]);
        check("a.jsonl", b"[1]\n\xff\n{}", &["1! it must be a JSON object", "2! it is no JSON", "3:"]);
        check("a.json", b"[1,{}]", &["1! it must be a JSON object", "2:"]);
        check(
            "a.csv",
            b"a,b\n1\n1,2,3\n1,2\n",
            &["2! it must have 2 fields, as the first line names; it has 1", "3! it must have", "4:"],
        );
        check("a.csv", b"a\n\xff\nx\n", &["2! it is no UTF-8", "3:"]);
    }

    #[test]
    fn a_line_without_end_is_a_bad_row_and_is_not_kept() {
        let mut content = vec![b'x'; MAX_LINE_BYTES + 5];
        content.extend_from_slice(b"\n{}\n");
        assert_eq!(rows("a.jsonl", &content).unwrap(), ["1! it must have at most 33554432 bytes", "2: {}"]);
    }

    #[test]
    fn files_that_hold_no_rows_are_refused() {
        let check = |name: &str, content: &[u8], expected: &str| {
            let message = rows(name, content).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check("a.xls", b"", "must be in a file that ends in .jsonl");
        check("a", b"", "given `no ending`");
        check("a.json", b"{\"a\":1}", "must hold an array of objects");
        check("a.json", b"{\"a\":", "is no JSON: EOF");
        check("a.csv", b"a,a\n", "`a` comes twice");
        check("a.parquet", b"PAR1nonsense", "parquet");
        check("a.parquet", b"", "parquet");
    }
}
