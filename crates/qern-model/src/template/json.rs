//! JSON as Python's `json.dumps` writes it, which is what models were trained on. Values only, no conversations.

use std::fmt::Write as _;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

/// The options of `json.dumps`.
pub struct Style {
    ensure_ascii: bool,
    sort_keys: bool,
    item_separator: String,
    key_separator: String,
    indent: Option<String>,
}

const MAX_DEPTH: usize = 200;
const MAX_INDENT: usize = 64;

impl Style {
    /// All on one line.
    pub fn new(ensure_ascii: bool, sort_keys: bool) -> Self {
        Self { ensure_ascii, sort_keys, item_separator: ", ".into(), key_separator: ": ".into(), indent: None }
    }

    /// What stands between items, and between a key and its value.
    pub fn separators(&mut self, item: String, key: String) {
        (self.item_separator, self.key_separator) = (item, key);
    }

    /// A number of spaces, or a text.
    pub fn indent(&mut self, indent: &Value) -> Result<(), Error> {
        let indent = match (indent.as_str(), indent.as_usize()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(width)) if width <= MAX_INDENT => " ".repeat(width),
            _ => {
                return Err(invalid(format!("tojson: the indent must be a text or a number up to {MAX_INDENT}; given {indent}")));
            }
        };
        self.indent = Some(indent);
        self.item_separator = ",".into();
        Ok(())
    }
}

/// Writes a value.
pub fn write(state: &State, value: &Value, style: &Style) -> Result<String, Error> {
    let mut writer = Writer { state, style, text: String::new(), paid: 0 };
    writer.value(value, 0)?;
    Ok(writer.text)
}

struct Writer<'a> {
    state: &'a State<'a, 'a>,
    style: &'a Style,
    text: String,
    paid: usize, // bytes of `text` that fuel was taken for
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid(format!("tojson: a value must be at most {MAX_DEPTH} levels deep")));
        }
        self.state.consume_fuel(1 + (self.text.len() - self.paid) as u64 / 64)?;
        self.paid = self.text.len();
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item));
                self.container(['[', ']'], items, depth)?;
            }
            ValueKind::Map => {
                let mut fields = Vec::new();
                for key in value.try_iter()? {
                    let field = value.get_item(&key)?;
                    fields.push((Some(self.key(&key)?), field));
                }
                if self.style.sort_keys {
                    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.container(['{', '}'], fields.into_iter(), depth)?;
            }
            kind => return Err(invalid(format!("tojson: a value of kind `{kind}` is not JSON serializable"))),
        }
        Ok(())
    }

    fn container(
        &mut self,
        [open, close]: [char; 2],
        items: impl Iterator<Item = (Option<String>, Value)>,
        depth: usize,
    ) -> Result<(), Error> {
        self.text.push(open);
        let mut is_empty = true;
        for (key, item) in items {
            if !is_empty {
                self.text.push_str(&self.style.item_separator);
            }
            is_empty = false;
            self.line(depth + 1);
            if let Some(key) = key {
                self.string(&key);
                self.text.push_str(&self.style.key_separator);
            }
            self.value(&item, depth + 1)?;
        }
        if !is_empty {
            self.line(depth);
        }
        self.text.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.text.push('\n');
            (0..depth).for_each(|_| self.text.push_str(indent));
        }
    }

    fn key(&self, key: &Value) -> Result<String, Error> {
        match key.kind() {
            ValueKind::String => Ok(key.as_str().unwrap_or_default().into()),
            ValueKind::None => Ok("null".into()),
            ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
            ValueKind::Number => Ok(number(key)),
            kind => Err(invalid(format!("tojson: keys must be texts or numbers; given a `{kind}`"))),
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                // The noncharacters are the marks of `guard`, which must come through.
                '\u{FDD0}'..='\u{FDEF}' => self.text.push(c),
                c if c < ' ' || self.style.ensure_ascii && !c.is_ascii() || c == '\u{7f}' && self.style.ensure_ascii => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.text, "\\u{unit:04x}").ok();
                    }
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}

fn number(value: &Value) -> String {
    python_float_of(value).unwrap_or_else(|| value.to_string())
}

/// How Python writes a value that is a float.
pub fn python_float_of(value: &Value) -> Option<String> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    is_float.then(|| f64::try_from(value.clone()).ok()).flatten().map(python_float)
}

/// `repr` of a float: the shortest digits that give it back, with an exponent outside 1e-4..1e16.
fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value == 0.0 || (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_read_as_python_writes_them() {
        let check = |value: f64, expected: &str| assert_eq!(python_float(value), expected);
        check(0.0, "0.0");
        check(-0.0, "-0.0");
        check(1.0, "1.0");
        check(0.1, "0.1");
        check(1e20, "1e+20");
        check(1e15, "1000000000000000.0");
        check(1e16, "1e+16");
        check(1.5e-7, "1.5e-07");
        check(0.0001, "0.0001");
        check(0.00001, "1e-05");
        check(-1.25e300, "-1.25e+300");
        check(f64::INFINITY, "Infinity");
    }
}
