//! The regular expressions of tokenizer files, run by automata in linear time. One look-around is understood, the
//! `\s+(?!\S)|\s+` at the end of GPT-2's pattern and all its descendants; others, and everything else that needs
//! backtracking, are refused when the file is read.

use std::ops::Range;

use regex_automata::{Input, meta};

use super::error;
use crate::Result;
use crate::error::shorten;

/// An automaton over one or several patterns; at one place the earlier pattern wins.
pub type Regex = meta::Regex;

const MAX_PATTERN_LEN: usize = 16 << 10;
const MAX_AUTOMATON_BYTES: usize = 10 << 20;

/// A pattern that finds pieces in text.
#[derive(Debug)]
pub struct Pattern {
    regex: Regex,
    /// Whether the regex's last pattern is a `\s+` that stands for `\s+(?!\S)|\s+`.
    last_is_whitespace: bool,
}

const WHITESPACE_TAIL: &str = r"\s+(?!\S)|\s+";

impl Pattern {
    pub fn new(pattern: &str) -> Result<Self> {
        check_dialect(pattern)?;
        let head = pattern.strip_suffix(WHITESPACE_TAIL);
        match head {
            Some("") => Ok(Self { regex: compile(&[r"\s+"])?, last_is_whitespace: true }),
            Some(head) if head.ends_with('|') && is_alternative(head) => {
                Ok(Self { regex: compile(&[&head[..head.len() - 1], r"\s+"])?, last_is_whitespace: true })
            }
            _ => Ok(Self { regex: compile(&[pattern])?, last_is_whitespace: false }),
        }
    }

    /// Finds a text as it stands.
    pub fn literal(text: &str) -> Result<Self> {
        Ok(Self { regex: compile(&[escape(text)])?, last_is_whitespace: false })
    }

    /// The matches from left to right, none of them overlapping.
    pub fn matches<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        let mut start = 0;
        std::iter::from_fn(move || {
            while start <= text.len() {
                let found = self.regex.search(&Input::new(text).range(start..))?;
                let mut range = found.range();
                if self.last_is_whitespace && found.pattern().as_usize() + 1 == self.regex.pattern_len() {
                    range.end = give_back_one(text, &range);
                }
                if range.is_empty() {
                    start = range.end + text[range.end..].chars().next().map_or(1, char::len_utf8);
                    continue; // an empty match cuts nothing off
                }
                start = range.end;
                return Some(range);
            }
            None
        })
    }
}

/// Where `\s+(?!\S)|\s+` ends if `\s+` matches `range`: before the last whitespace, which then leads the next word, unless it
/// is all there is or the text ends.
fn give_back_one(text: &str, range: &Range<usize>) -> usize {
    let last = text[range.clone()].char_indices().next_back().map_or(0, |(index, _)| index);
    if range.end == text.len() || last == 0 { range.end } else { range.start + last }
}

/// Compiles patterns, bounding what a hostile one can cost.
pub fn compile<S: AsRef<str>>(patterns: &[S]) -> Result<Regex> {
    let config = meta::Config::new().nfa_size_limit(Some(MAX_AUTOMATON_BYTES)).hybrid_cache_capacity(2 << 20);
    let patterns: Vec<&str> = patterns.iter().map(AsRef::as_ref).collect();
    meta::Builder::new().configure(config).build_many(&patterns).map_err(|cause| {
        if cause.size_limit().is_some() {
            return error(format!("a splitting pattern must compile to at most {MAX_AUTOMATON_BYTES} bytes; one has more"));
        }
        let cause = cause.syntax_error().map_or_else(|| cause.to_string(), |syntax| shorten(&syntax.to_string()));
        error(format!("a splitting pattern must be a regular expression without look-around or back-references: {cause}"))
    })
}

/// The pattern of a text as it stands.
pub fn escape(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!(r"\x{{{:x}}}", c as u32) }).collect()
}

/// Refuses what means one thing to the patterns' authors (Oniguruma) and another to the automata.
fn check_dialect(pattern: &str) -> Result<()> {
    if pattern.len() > MAX_PATTERN_LEN {
        return Err(error(format!("a splitting pattern must have at most {MAX_PATTERN_LEN} bytes; given {}", pattern.len())));
    }
    let refuse = |what: &str| Err(error(format!("a splitting pattern must not use {what}: `{}`", shorten(pattern))));
    let mut chars = pattern.chars().peekable();
    let mut class_depth = 0_usize;
    let mut after_quantifier = false;
    while let Some(c) = chars.next() {
        let mut is_quantifier = false;
        match c {
            '\\' => {
                chars.next();
                // `\p{L}`: these braces do not count anything.
                if chars.next_if_eq(&'{').is_some() {
                    while chars.next().is_some_and(|c| c != '}') {}
                }
            }
            '[' if class_depth > 0 && chars.peek() == Some(&':') => return refuse("POSIX classes"),
            '[' => class_depth += 1,
            ']' => class_depth = class_depth.saturating_sub(1),
            _ if class_depth > 0 => {}
            '^' | '$' => return refuse("the anchors ^ and $"),
            '+' if after_quantifier => return refuse("possessive quantifiers"),
            '*' | '+' | '?' | '}' => is_quantifier = true,
            _ => {}
        }
        // The `?` after `(` begins a group's flags.
        after_quantifier = is_quantifier;
        if c == '(' && chars.peek() == Some(&'?') {
            chars.next();
        }
    }
    Ok(())
}

/// Whether a pattern's last `|` stands outside all groups and classes, so that what follows it is an alternative of the whole.
fn is_alternative(head: &str) -> bool {
    let mut depth = 0_i32;
    let mut class_depth = 0_i32;
    let mut chars = head.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => _ = chars.next(),
            '[' => class_depth += 1,
            ']' => class_depth = (class_depth - 1).max(0),
            '(' if class_depth == 0 => depth += 1,
            ')' if class_depth == 0 => depth -= 1,
            _ => {}
        }
    }
    // An escaped `\|` leaves a lone backslash, which then does not compile.
    depth == 0 && class_depth == 0
}
