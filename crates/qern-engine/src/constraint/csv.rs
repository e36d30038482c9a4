//! The CSV preset: typed columns, header, delimiter, quoting and number of rows, as a grammar (RFC 4180 but for the delimiter; rows
//! end in a newline only where another follows).

use serde::Deserialize;

use super::values::{Notation, ValueType};

/// A table of comma-separated values.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvSpec {
    /// The columns, at least one, at most 200.
    pub columns: Vec<CsvColumn>,
    /// Between cells: one ASCII character that is neither a letter, a digit nor a quote. Default a comma.
    #[serde(default = "comma")]
    pub delimiter: char,
    /// Whether the first row names the columns. Default true.
    #[serde(default = "yes")]
    pub header: bool,
    /// When cells are quoted.
    #[serde(default)]
    pub quoting: Quoting,
    /// Rows at least, the header not counted. Default 1.
    #[serde(default = "one")]
    pub min_rows: usize,
    /// Rows at most, up to 100,000; without it there is no end.
    #[serde(default)]
    pub max_rows: Option<usize>,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct CsvColumn {
    /// Its name in the header.
    pub name: String,
    /// What its cells hold.
    #[serde(flatten)]
    pub value: ValueType,
    /// Whether a cell may be empty. Default false.
    #[serde(default)]
    pub optional: bool,
}

/// When cells are quoted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quoting {
    /// Where the content needs it.
    #[default]
    Minimal,
    /// Always.
    All,
    /// Never: text that would need it cannot be written.
    Never,
}

fn comma() -> char {
    ','
}

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

const MAX_COLUMNS: usize = 200;
const MAX_ROWS: usize = 100_000;

impl CsvSpec {
    /// The grammar in Lark.
    pub(super) fn lark(&self) -> Result<String, String> {
        if !(1..=MAX_COLUMNS).contains(&self.columns.len()) {
            return Err(format!("`columns` must be 1 to {MAX_COLUMNS}; given {}", self.columns.len()));
        }
        let is_delimiter = self.delimiter == '\t' || self.delimiter == ' ' || self.delimiter.is_ascii_punctuation();
        if !is_delimiter || matches!(self.delimiter, '"' | '-' | '.' | '+' | '_') {
            return Err(format!(
                "`delimiter` must be punctuation other than quotes, dashes and dots; given {:?}",
                self.delimiter
            ));
        }
        if self.max_rows.is_some_and(|max| max < self.min_rows.max(1)) || self.min_rows.max(self.max_rows.unwrap_or(0)) > MAX_ROWS
        {
            return Err(format!("`max_rows` must be 1 to {MAX_ROWS} and at least `min_rows`"));
        }
        if !self.header && self.min_rows == 0 {
            return Err("`min_rows` must be at least 1 without a header".into());
        }
        let delimiter = regex_syntax::escape(&self.delimiter.to_string());
        let cells = self.columns.iter().map(|column| self.cell(column)).collect::<Result<Vec<_>, _>>()?;
        let row = cells.join(&delimiter);
        let names = self.columns.iter().map(|column| self.write(&column.name).ok_or_else(|| unwritable(&column.name)));
        let header = names.collect::<Result<Vec<_>, _>>()?.iter().map(|name| regex_syntax::escape(name)).collect::<Vec<_>>();
        // A row is one lexeme: its cells cannot hold what ends them.
        let terminal = |name: &str, regex: &str| format!("{name}: /{}/\n", llguidance::regex_to_lark(regex, ""));
        let rows = |min: usize, max: Option<usize>| match max {
            Some(max) => format!("(NEWLINE ROW){{{min},{max}}}"),
            None => format!("(NEWLINE ROW){{{min},}}"),
        };
        let start = if self.header {
            format!("start: HEADER {}\n", rows(self.min_rows, self.max_rows))
        } else {
            format!("start: ROW {}\n", rows(self.min_rows - 1, self.max_rows.map(|max| max - 1)))
        };
        let header = if self.header { terminal("HEADER", &header.join(&delimiter)) } else { String::new() };
        Ok(format!("{start}{header}{}{}", terminal("ROW", &row), terminal("NEWLINE", "\n")))
    }

    fn cell(&self, column: &CsvColumn) -> Result<String, String> {
        let delimiter = format!("\\x{{{:X}}}", u32::from(self.delimiter));
        let write = |text: &str| self.write(text);
        // What is quoted may hold the delimiter, and quotes twice; what is not may not begin or end with a blank that readers trim.
        let plain = format!("^\\x00-\\x1F\\x7F\"{delimiter}");
        let bare = Notation { plain: &plain, escapes: "", write: &write };
        let quoted = Notation { plain: "^\\x00-\\x1F\\x7F\"", escapes: "\"\"", write: &write };
        let wrong = |reason: String| format!("column {:?}: {reason}", column.name);
        let can_be_bare = self.quoting != Quoting::All;
        let has_text = matches!(column.value, ValueType::Text { .. });
        let mut forms = Vec::new();
        if can_be_bare || matches!(column.value, ValueType::Enum { .. }) {
            // `write` quotes the values of an enumeration as needed.
            let bare = column.value.regex(&bare).map_err(wrong)?;
            // Alone in its row, an empty cell would be an empty line, which readers skip.
            forms.push(if has_text { self.not_empty(&column.value, bare) } else { bare });
        }
        if self.quoting == Quoting::All && !matches!(column.value, ValueType::Enum { .. })
            || has_text && self.quoting == Quoting::Minimal
        {
            forms.push(format!("\"{}\"", column.value.regex(&quoted).map_err(wrong)?));
        }
        if column.optional {
            forms.push(if self.quoting == Quoting::All || self.columns.len() == 1 { "\"\"".into() } else { String::new() });
        }
        Ok(format!("(?:{})", forms.join("|")))
    }

    /// Text without quotes is never empty: empty text is written `""`, which tells it from a missing one.
    fn not_empty(&self, value: &ValueType, regex: String) -> String {
        match value {
            ValueType::Text { min_length: 0, .. } => regex.replacen("{0,", "{1,", 1),
            _ => regex,
        }
    }

    /// One text as a cell.
    fn write(&self, text: &str) -> Option<String> {
        let needs_quotes = text.contains(['"', '\r', '\n', self.delimiter]) || text.is_empty();
        match self.quoting {
            Quoting::All => Some(format!("\"{}\"", text.replace('"', "\"\""))),
            Quoting::Minimal if needs_quotes => Some(format!("\"{}\"", text.replace('"', "\"\""))),
            Quoting::Never if needs_quotes => None,
            Quoting::Minimal | Quoting::Never => Some(text.into()),
        }
    }
}

fn unwritable(name: &str) -> String {
    format!("the name {name:?} cannot be written without quotes; set `quoting` to \"minimal\"")
}
