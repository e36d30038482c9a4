//! Simple values as text: what a cell of CSV or an attribute of XML may hold, as regular expressions. Knows no file format but the
//! characters that one keeps for itself.

use serde::Deserialize;

use super::schema::language::Language;

/// The type of a value that is written as text.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum ValueType {
    /// Any text on one line.
    Text {
        /// Characters at least. Default 0.
        #[serde(default)]
        min_length: usize,
        /// Characters at most.
        #[serde(default)]
        max_length: Option<usize>,
    },
    /// A whole number.
    Integer {
        /// The least.
        #[serde(default)]
        minimum: Option<i64>,
        /// The greatest.
        #[serde(default)]
        maximum: Option<i64>,
    },
    /// A number with decimals.
    Number {
        /// Digits after the point at most. Default 6.
        #[serde(default = "six")]
        decimals: usize,
    },
    /// `true` or `false`.
    Boolean,
    /// `2024-12-31`.
    Date,
    /// `2024-12-31T23:59:59Z`, fractions of a second and time zone as in RFC 3339.
    Datetime,
    /// One of these texts.
    Enum {
        /// The texts, at least one.
        values: Vec<String>,
    },
    /// Text that matches a regular expression as a whole.
    Pattern {
        /// The expression.
        pattern: String,
    },
}

fn six() -> usize {
    6
}

const DATE: &str = "[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))";
const TIME: &str = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";

/// How a file format writes text.
pub(super) struct Notation<'a> {
    /// The inside of a character class: what stands for itself.
    pub(super) plain: &'a str,
    /// Ways to write one of the other characters, as a regular expression; empty if there is none.
    pub(super) escapes: &'a str,
    /// One text as the format writes it; `None` if it cannot.
    pub(super) write: &'a dyn Fn(&str) -> Option<String>,
}

impl ValueType {
    /// The values as the notation writes them.
    pub(super) fn regex(&self, notation: &Notation<'_>) -> Result<String, String> {
        Ok(match self {
            Self::Text { min_length, max_length } => {
                if max_length.is_some_and(|max| max < *min_length) {
                    return Err("`max_length` must be at least `min_length`".into());
                }
                let max = max_length.map_or(String::new(), |max| max.to_string());
                let unit = match notation.escapes {
                    "" => format!("[{}]", notation.plain),
                    escapes => format!("(?:[{}]|{escapes})", notation.plain),
                };
                format!("{unit}{{{min_length},{max}}}")
            }
            Self::Integer { minimum, maximum } => integers(*minimum, *maximum)?,
            Self::Number { decimals: 0 } => "(?:0|-?[1-9][0-9]{0,17})".into(),
            Self::Number { decimals } => format!("-?(?:0|[1-9][0-9]{{0,17}})(?:\\.[0-9]{{1,{decimals}}})?"),
            Self::Boolean => "(?:true|false)".into(),
            Self::Date => DATE.into(),
            Self::Datetime => format!("{DATE}T{TIME}"),
            Self::Enum { values } if values.is_empty() => return Err("`values` must name at least one text".into()),
            Self::Enum { values } => {
                let write = |value: &String| {
                    (notation.write)(value)
                        .map(|text| regex_syntax::escape(&text))
                        .ok_or_else(|| format!("{value:?} cannot be written"))
                };
                format!("(?:{})", values.iter().map(write).collect::<Result<Vec<_>, _>>()?.join("|"))
            }
            Self::Pattern { pattern } => {
                let plain = Language::pattern(&format!("^(?:[{}])*$", notation.plain))?;
                let both = Language::pattern(&format!("^(?:{pattern})$"))?.and(plain);
                if both.is_empty() == Some(true) {
                    return Err(format!("nothing that {pattern:?} matches can be written"));
                }
                let anchored = both.to_pattern().ok_or_else(|| format!("{pattern:?} is too large"))?;
                anchored.trim_start_matches('^').trim_end_matches('$').to_string()
            }
        })
    }
}

/// Whole numbers between two bounds, both allowed.
fn integers(min: Option<i64>, max: Option<i64>) -> Result<String, String> {
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        return Err(format!("`minimum` ({min}) must be at most `maximum` ({max})"));
    }
    let mut parts = Vec::new();
    if min.is_none_or(|min| min < 0) {
        // Below zero: the magnitudes, the other way round.
        let least = max.map_or(1, |max| if max < 0 { max.unsigned_abs() } else { 1 });
        parts.extend(magnitudes(least, min.map(i64::unsigned_abs)).into_iter().map(|part| format!("-{part}")));
    }
    if max.is_none_or(|max| max >= 0) {
        parts.extend(magnitudes(min.unwrap_or(0).max(0).unsigned_abs(), max.map(i64::unsigned_abs)));
    }
    Ok(format!("(?:{})", parts.join("|")))
}

/// Numbers from `least` to `most` (without end: of up to 18 digits), grouped by their number of digits.
fn magnitudes(least: u64, most: Option<u64>) -> Vec<String> {
    let most = most.unwrap_or(999_999_999_999_999_999).max(least);
    let mut parts = Vec::new();
    let mut low = least;
    loop {
        let digits = low.to_string().len() as u32;
        let high = 10_u64.checked_pow(digits).map_or(u64::MAX, |next| next - 1).min(most);
        parts.push(same_length(&low.to_string(), &high.to_string()));
        if high == most {
            return parts;
        }
        low = high + 1;
    }
}

/// Numbers between two of the same length.
fn same_length(low: &str, high: &str) -> String {
    let (Some(a), Some(b)) = (low.chars().next(), high.chars().next()) else { return String::new() };
    let (low, high) = (&low[1..], &high[1..]);
    let digit = |a: char, b: char| if a == b { a.to_string() } else { format!("[{a}-{b}]") };
    if a == b {
        return format!("{a}{}", same_length(low, high));
    }
    let is_least = low.chars().all(|c| c == '0');
    let is_most = high.chars().all(|c| c == '9');
    let (mut first, mut last, mut parts) = (a, b, Vec::new());
    if !is_least {
        parts.push(format!("{a}{}", same_length(low, &"9".repeat(low.len()))));
        first = char::from(a as u8 + 1);
    }
    if !is_most {
        parts.push(format!("{b}{}", same_length(&"0".repeat(high.len()), high)));
        last = char::from(b as u8 - 1);
    }
    if first <= last {
        let rest = if low.is_empty() { String::new() } else { format!("[0-9]{{{}}}", low.len()) };
        parts.push(format!("{}{rest}", digit(first, last)));
    }
    if parts.len() == 1 { parts.swap_remove(0) } else { format!("(?:{})", parts.join("|")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_between_the_bounds() {
        for (min, max) in [(0, 9), (-5, 12), (7, 7), (98, 1203), (-340, -17), (0, 100), (-1, 0), (199, 201)] {
            let language = Language::pattern(&format!("^{}$", integers(Some(min), Some(max)).unwrap())).unwrap();
            for number in -1500..1500_i64 {
                let expected = (min..=max).contains(&number);
                assert_eq!(language.contains(&number.to_string()), Some(expected), "{number} in {min}..={max}");
            }
            assert_eq!(language.contains("007"), Some(false));
        }
        let all = Language::pattern(&format!("^{}$", integers(None, Some(5)).unwrap())).unwrap();
        assert_eq!(
            [("-99999", true), ("5", true), ("6", false), ("-0", false)].map(|(text, _)| all.contains(text)),
            [true, true, false, false].map(Some)
        );
    }
}
