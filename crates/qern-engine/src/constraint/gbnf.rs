//! llama.cpp's GBNF as a grammar of the engine. A grammar without recursion becomes one regular expression; in others, rules whose words
//! never begin one another do, and the rest goes character by character, so that what is accepted is what llama.cpp accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use llguidance::api::TopLevelGrammar;
use llguidance::derivre::{RegexAst, RegexBuilder};

use super::ConstraintError;

/// Bytes that one rule's regular expression may have, and rules in all.
const MAX_REGEX: usize = 100_000;
const MAX_RULES: usize = 5_000;
/// Work to find out whether the words of a rule begin one another.
const FUEL: u64 = 20_000;

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GbnfError {
    line: usize,
    reason: String,
}

impl GbnfError {
    pub(super) fn refuse(self, kind: &'static str) -> ConstraintError {
        ConstraintError::Refused { kind, reason: format!("line {}: {}", self.line, self.reason), fix: "correct that line".into() }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Expr {
    /// Characters, as a class of a regular expression.
    Class(String),
    Rule(String),
    Sequence(Vec<Expr>),
    Either(Vec<Expr>),
    Repeat(Box<Expr>, u32, Option<u32>),
}

pub(super) fn grammar(text: &str) -> Result<TopLevelGrammar, GbnfError> {
    let rules = Parser::new(text).rules()?;
    if !rules.contains_key("root") {
        return Err(GbnfError { line: 1, reason: "there must be a rule `root`".into() });
    }
    let recursive = recursive_rules(&rules);
    if !recursive.contains("root")
        && let Some(regex) = regex_of(&rules, &rules["root"])
        && reachable(&rules).is_disjoint(&recursive)
    {
        return Ok(TopLevelGrammar::from_regex(&regex));
    }
    Ok(TopLevelGrammar::from_lark(lark(&rules, &recursive)))
}

fn lark(rules: &BTreeMap<String, Expr>, recursive: &BTreeSet<String>) -> String {
    let numbers: BTreeMap<&str, usize> = rules.keys().enumerate().map(|(number, name)| (name.as_str(), number)).collect();
    let mut out = format!("start: r{}\n", numbers["root"]);
    for (name, expr) in rules.iter().filter(|(name, _)| reachable(rules).contains(*name)) {
        let whole = if recursive.contains(name) { None } else { regex_of(rules, expr).filter(|regex| is_prefix_free(regex)) };
        let body = whole.map_or_else(|| lark_of(expr, &numbers), |regex| format!("/{}/", llguidance::regex_to_lark(&regex, "")));
        // A rule that is one regular expression is lexed as a whole.
        _ = writeln!(out, "r{}: {body}", numbers[name.as_str()]);
    }
    out
}

fn lark_of(expr: &Expr, numbers: &BTreeMap<&str, usize>) -> String {
    match expr {
        Expr::Class(class) => format!("/{}/", llguidance::regex_to_lark(class, "")),
        Expr::Rule(name) => format!("r{}", numbers[name.as_str()]),
        Expr::Sequence(parts) if parts.is_empty() => "\"\"".into(),
        Expr::Sequence(parts) => parts.iter().map(|part| lark_of(part, numbers)).collect::<Vec<_>>().join(" "),
        Expr::Either(parts) => format!("({})", parts.iter().map(|part| lark_of(part, numbers)).collect::<Vec<_>>().join(" | ")),
        Expr::Repeat(part, min, max) => {
            let part = lark_of(part, numbers);
            match (min, max) {
                (0, None) => format!("({part})*"),
                (1, None) => format!("({part})+"),
                (0, Some(1)) => format!("({part})?"),
                (min, None) => format!("({part}){{{min},}}"),
                (min, Some(max)) => format!("({part}){{{min},{max}}}"),
            }
        }
    }
}

/// An expression without recursion as a regular expression; `None` if it is too large.
fn regex_of(rules: &BTreeMap<String, Expr>, expr: &Expr) -> Option<String> {
    let mut out = String::new();
    write_regex(rules, expr, &mut out).then_some(out)
}

/// False if it has become too large, or recursive.
fn write_regex(rules: &BTreeMap<String, Expr>, expr: &Expr, out: &mut String) -> bool {
    if out.len() > MAX_REGEX {
        return false;
    }
    match expr {
        Expr::Class(class) => {
            out.push_str(class);
            true
        }
        Expr::Rule(name) => {
            out.push_str("(?:");
            let is_whole = rules.get(name).is_some_and(|expr| write_regex(rules, expr, out));
            out.push(')');
            is_whole
        }
        Expr::Sequence(parts) => parts.iter().all(|part| write_regex(rules, part, out)),
        Expr::Either(parts) => {
            out.push_str("(?:");
            let is_whole = parts.iter().enumerate().all(|(id, part)| {
                out.push_str(if id > 0 { "|" } else { "" });
                write_regex(rules, part, out)
            });
            out.push(')');
            is_whole
        }
        Expr::Repeat(part, min, max) => {
            out.push_str("(?:");
            let is_whole = write_regex(rules, part, out);
            let max = max.map_or(String::new(), |max| max.to_string());
            _ = write!(out, "){{{min},{max}}}");
            is_whole
        }
    }
}

/// Whether no word begins another, so that taking the longest loses nothing.
fn is_prefix_free(regex: &str) -> bool {
    let word = || RegexAst::Regex(regex.to_string());
    let more = RegexAst::Concat(vec![word(), RegexAst::Regex("(?s:.+)".into())]);
    let mut builder = RegexBuilder::new();
    let Ok(both) = builder.mk(&RegexAst::And(vec![word(), more])) else { return false };
    let Ok(empty) = builder.mk(&word()) else { return false };
    !builder.is_nullable(empty) && builder.into_regex_limited(both, FUEL).is_ok_and(|mut regex| regex.always_empty())
}

fn references(expr: &Expr, into: &mut BTreeSet<String>) {
    match expr {
        Expr::Class(_) => {}
        Expr::Rule(name) => _ = into.insert(name.clone()),
        Expr::Sequence(parts) | Expr::Either(parts) => parts.iter().for_each(|part| references(part, into)),
        Expr::Repeat(part, ..) => references(part, into),
    }
}

fn reachable(rules: &BTreeMap<String, Expr>) -> BTreeSet<String> {
    closure(rules, "root", true)
}

/// What a rule refers to, directly or not; itself only if it does, or if asked for.
fn closure(rules: &BTreeMap<String, Expr>, name: &str, itself: bool) -> BTreeSet<String> {
    let (mut known, mut open) = (BTreeSet::new(), vec![name.to_string()]);
    if itself {
        known.insert(name.to_string());
    }
    while let Some(name) = open.pop() {
        let mut next = BTreeSet::new();
        rules.get(&name).into_iter().for_each(|expr| references(expr, &mut next));
        for name in next {
            if known.insert(name.clone()) {
                open.push(name);
            }
        }
    }
    known
}

/// Rules from which a recursion can be reached.
fn recursive_rules(rules: &BTreeMap<String, Expr>) -> BTreeSet<String> {
    let loops: BTreeSet<&String> = rules.keys().filter(|name| closure(rules, name, false).contains(*name)).collect();
    let reaches = |name: &&String| closure(rules, name, true).iter().any(|other| loops.contains(other));
    rules.keys().filter(reaches).cloned().collect()
}

struct Parser<'a> {
    text: &'a str,
    place: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, place: 0 }
    }

    fn rules(mut self) -> Result<BTreeMap<String, Expr>, GbnfError> {
        let mut rules: BTreeMap<String, Expr> = BTreeMap::new();
        let mut used: Vec<(String, usize)> = Vec::new();
        self.space(true);
        while !self.rest().is_empty() {
            let name = self.name()?;
            self.space(false);
            if !self.take("::=") {
                return Err(self.error(format!("expected `::=` after `{name}`")));
            }
            self.space(true);
            let line = self.line();
            let expr = self.alternatives(false)?;
            let mut names = BTreeSet::new();
            references(&expr, &mut names);
            used.extend(names.into_iter().map(|name| (name, line)));
            if rules.insert(name.clone(), expr).is_some() {
                return Err(self.error(format!("the rule `{name}` is defined twice")));
            }
            if rules.len() > MAX_RULES {
                return Err(self.error(format!("there must be at most {MAX_RULES} rules")));
            }
            self.space(true);
        }
        match used.into_iter().find(|(name, _)| !rules.contains_key(name)) {
            Some((name, line)) => Err(GbnfError { line, reason: format!("there is no rule `{name}`") }),
            None => Ok(rules),
        }
    }

    fn alternatives(&mut self, is_nested: bool) -> Result<Expr, GbnfError> {
        let mut all = vec![self.sequence(is_nested)?];
        while self.take("|") {
            self.space(true);
            all.push(self.sequence(is_nested)?);
        }
        Ok(if all.len() == 1 { all.swap_remove(0) } else { Expr::Either(all) })
    }

    fn sequence(&mut self, is_nested: bool) -> Result<Expr, GbnfError> {
        let mut parts = Vec::new();
        loop {
            let part = match self.rest().chars().next() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.place += 1;
                    Expr::Class("(?s:.)".into())
                }
                Some('(') => {
                    self.place += 1;
                    self.space(true);
                    let inner = self.alternatives(true)?;
                    if !self.take(")") {
                        return Err(self.error("expected `)`".into()));
                    }
                    inner
                }
                Some(c) if is_name(c) => Expr::Rule(self.name()?),
                _ => break,
            };
            self.space(is_nested);
            parts.push(self.repeated(part)?);
            self.space(is_nested);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Expr::Sequence(parts) })
    }

    fn repeated(&mut self, part: Expr) -> Result<Expr, GbnfError> {
        let (min, max) = if self.take("*") {
            (0, None)
        } else if self.take("+") {
            (1, None)
        } else if self.take("?") {
            (0, Some(1))
        } else if self.take("{") {
            let min = self.number()?;
            let max = if !self.take(",") {
                Some(min)
            } else if self.rest().starts_with('}') {
                None
            } else {
                Some(self.number()?)
            };
            if !self.take("}") || max.is_some_and(|max| max < min) {
                return Err(self.error("expected a count like {2}, {2,} or {2,4}".into()));
            }
            (min, max)
        } else {
            return Ok(part);
        };
        let part = Expr::Repeat(Box::new(part), min, max);
        self.space(false);
        self.repeated(part)
    }

    fn number(&mut self) -> Result<u32, GbnfError> {
        let len = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let number = self.rest()[..len].parse::<u32>().ok().filter(|&number| number <= 10_000);
        self.place += len;
        number.ok_or_else(|| self.error("expected a count of at most 10000".into()))
    }

    fn literal(&mut self) -> Result<Expr, GbnfError> {
        self.place += 1;
        let mut parts = Vec::new();
        while !self.take("\"") {
            let c = self.character()?;
            parts.push(Expr::Class(escaped(c)));
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Expr::Sequence(parts) })
    }

    fn class(&mut self) -> Result<Expr, GbnfError> {
        self.place += 1;
        let mut out = String::from(if self.take("^") { "[^" } else { "[" });
        let before = out.len();
        while !self.take("]") {
            let first = self.character()?;
            out.push_str(&escaped(first));
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.place += 1;
                let last = self.character()?;
                if last < first {
                    return Err(self.error(format!("the range {first:?} to {last:?} is backwards")));
                }
                out.push('-');
                out.push_str(&escaped(last));
            }
        }
        if out.len() == before {
            return Err(self.error("a class must name at least one character".into()));
        }
        out.push(']');
        Ok(Expr::Class(out))
    }

    /// One character of a literal or a class, escapes resolved.
    fn character(&mut self) -> Result<char, GbnfError> {
        let mut chars = self.rest().chars();
        let c = chars.next().filter(|&c| c != '\n').ok_or_else(|| self.error("a literal or a class is not closed".into()))?;
        self.place += c.len_utf8();
        if c != '\\' {
            return Ok(c);
        }
        let kind = chars.next().ok_or_else(|| self.error("an escape is not complete".into()))?;
        self.place += kind.len_utf8();
        let hex = |len: usize| self.rest().get(..len).and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
        let (c, len) = match kind {
            'x' => (hex(2), 2),
            'u' => (hex(4), 4),
            'U' => (hex(8), 8),
            'n' => (Some('\n'), 0),
            'r' => (Some('\r'), 0),
            't' => (Some('\t'), 0),
            '\\' | '"' | '[' | ']' | '-' | '^' => (Some(kind), 0),
            _ => (None, 0),
        };
        self.place += len;
        c.ok_or_else(|| self.error(format!("the escape `\\{kind}` is not one of GBNF")))
    }

    fn name(&mut self) -> Result<String, GbnfError> {
        let len: usize = self.rest().chars().take_while(|&c| is_name(c)).map(char::len_utf8).sum();
        if len == 0 {
            return Err(self.error("expected the name of a rule".into()));
        }
        self.place += len;
        Ok(self.text[self.place - len..self.place].to_string())
    }

    /// Blanks and comments; newlines only where a rule cannot end.
    fn space(&mut self, newlines: bool) {
        loop {
            let rest = self.rest();
            match rest.chars().next() {
                Some(' ' | '\t') => self.place += 1,
                Some('\n' | '\r') if newlines => self.place += 1,
                Some('#') => self.place += rest.find('\n').unwrap_or(rest.len()),
                _ => return,
            }
        }
    }

    fn take(&mut self, text: &str) -> bool {
        let is_there = self.rest().starts_with(text);
        self.place += if is_there { text.len() } else { 0 };
        is_there
    }

    fn rest(&self) -> &'a str {
        &self.text[self.place.min(self.text.len())..]
    }

    fn line(&self) -> usize {
        self.text[..self.place.min(self.text.len())].matches('\n').count() + 1
    }

    fn error(&self, reason: String) -> GbnfError {
        GbnfError { line: self.line(), reason }
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// A character for a regular expression, inside of a class or outside.
fn escaped(c: char) -> String {
    if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\x{{{:X}}}", u32::from(c)) }
}
