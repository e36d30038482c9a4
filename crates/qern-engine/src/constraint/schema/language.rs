//! Sets of strings that a schema describes by patterns, lengths and lists: intersection, complement, membership, emptiness, and back
//! to a pattern. Deciding is `derivre`'s; a pattern is read off its automaton by eliminating states. Knows nothing of JSON.

use std::collections::BTreeMap;

use llguidance::derivre::{RegexAst, RegexBuilder};
use llguidance::regex_to_lark;
use regex_syntax::hir::{Class, Hir, HirKind};

/// Work that a decision may take.
const FUEL: u64 = 30_000;
/// States of an automaton that a pattern is made of, and bytes of that pattern.
const MAX_STATES: usize = 80;
const MAX_PATTERN: usize = 30_000;

/// A regular set of strings.
#[derive(Clone)]
pub(in crate::constraint) struct Language {
    ast: RegexAst,
    /// First characters of intervals within which all characters are alike. Sorted.
    starts: Vec<char>,
}

impl Language {
    /// Strings in which the pattern is found, as JSON Schema has it.
    pub(in crate::constraint) fn pattern(pattern: &str) -> Result<Self, String> {
        let lark = regex_to_lark(pattern, "dw");
        let hir = regex_syntax::parse(&lark).map_err(|error| first_line(&error.to_string()))?;
        let mut starts = vec!['\0'];
        boundaries(&hir, &mut starts);
        let ast = RegexAst::SearchRegex(lark);
        RegexBuilder::new().mk(&ast).map_err(|error| first_line(&error.to_string()))?;
        Ok(Self::new(ast, starts))
    }

    /// Just these strings.
    pub(in crate::constraint) fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let words: Vec<&str> = words.into_iter().collect();
        let mut starts = vec!['\0'];
        words.iter().flat_map(|word| word.chars()).for_each(|c| single(c, &mut starts));
        Self::new(RegexAst::Or(words.into_iter().map(|word| RegexAst::Literal(word.into())).collect()), starts)
    }

    /// Strings of so many characters.
    pub(in crate::constraint) fn length(min: usize, max: Option<usize>) -> Self {
        let max = max.map_or(String::new(), |max| max.to_string());
        Self::new(RegexAst::Regex(format!("(?s:.{{{min},{max}}})")), vec!['\0'])
    }

    pub(in crate::constraint) fn and(self, other: Self) -> Self {
        Self::new(RegexAst::And(vec![self.ast, other.ast]), [self.starts, other.starts].concat())
    }

    pub(in crate::constraint) fn or(self, other: Self) -> Self {
        Self::new(RegexAst::Or(vec![self.ast, other.ast]), [self.starts, other.starts].concat())
    }

    pub(in crate::constraint) fn not(self) -> Self {
        let any = RegexAst::Regex("(?s:.*)".into());
        Self::new(RegexAst::And(vec![any, RegexAst::Not(Box::new(self.ast))]), self.starts)
    }

    fn new(ast: RegexAst, mut starts: Vec<char>) -> Self {
        starts.sort_unstable();
        starts.dedup();
        Self { ast, starts }
    }

    /// `None` if that takes too long to say.
    pub(in crate::constraint) fn contains(&self, text: &str) -> Option<bool> {
        let mut builder = RegexBuilder::new();
        let expr = builder.mk(&self.ast).ok()?;
        let mut regex = builder.into_regex_limited(expr, FUEL).ok()?;
        Some(regex.is_match(text))
    }

    /// `None` if that takes too long to say.
    pub(in crate::constraint) fn is_empty(&self) -> Option<bool> {
        let mut builder = RegexBuilder::new();
        let expr = builder.mk(&self.ast).ok()?;
        let mut regex = builder.into_regex_limited(expr, FUEL).ok()?;
        Some(regex.always_empty())
    }

    /// Whether the two have no string in common, for sure.
    pub(in crate::constraint) fn is_disjoint(&self, other: &Self) -> bool {
        self.clone().and(other.clone()).is_empty() == Some(true)
    }

    /// A pattern (anchored) for exactly these strings; `None` if it would be too large.
    pub(in crate::constraint) fn to_pattern(&self) -> Option<String> {
        let automaton = self.automaton()?;
        let body = automaton.minimized().eliminate(&self.starts)?;
        Some(format!("^(?:{body})$"))
    }

    /// Over intervals of characters instead of bytes.
    fn automaton(&self) -> Option<Automaton> {
        let mut builder = RegexBuilder::new();
        let expr = builder.mk(&self.ast).ok()?;
        let mut regex = builder.into_regex_limited(expr, FUEL).ok()?;
        let mut states = vec![regex.initial_state()];
        let mut automaton = Automaton { next: Vec::new(), accepting: Vec::new() };
        let mut done = 0;
        while done < states.len() {
            let state = states[done];
            automaton.accepting.push(regex.is_accepting(state));
            let mut row = Vec::with_capacity(self.starts.len());
            for start in &self.starts {
                let target = regex.transition_bytes(state, start.encode_utf8(&mut [0; 4]).as_bytes());
                let place = states.iter().position(|&known| known == target);
                row.push(place.unwrap_or(states.len()));
                if place.is_none() {
                    states.push(target);
                }
            }
            automaton.next.push(row);
            done += 1;
            if states.len() > MAX_STATES || regex.cost() > 10 * FUEL {
                return None;
            }
        }
        Some(automaton)
    }
}

/// Deterministic; begins in state 0.
struct Automaton {
    next: Vec<Vec<usize>>, // [states, intervals]
    accepting: Vec<bool>,
}

impl Automaton {
    /// Moore's partition refinement.
    fn minimized(&self) -> Self {
        let mut class: Vec<usize> = self.accepting.iter().map(|&accepting| usize::from(accepting)).collect();
        let mut count = 0;
        loop {
            let mut ids: BTreeMap<(usize, Vec<usize>), usize> = BTreeMap::new();
            let mut refined = Vec::with_capacity(class.len());
            for (state, row) in self.next.iter().enumerate() {
                let key = (class[state], row.iter().map(|&target| class[target]).collect());
                let fresh = ids.len();
                refined.push(*ids.entry(key).or_insert(fresh));
            }
            class = refined;
            if ids.len() == count {
                break;
            }
            count = ids.len();
        }
        // Classes are numbered in order of first appearance, so that of the first state is 0.
        let first = |id: usize| class.iter().position(|&other| other == id).unwrap_or(0);
        let rows = (0..count).map(first).map(|state| self.next[state].iter().map(|&target| class[target]).collect());
        Self { next: rows.collect(), accepting: (0..count).map(first).map(|state| self.accepting[state]).collect() }
    }

    /// Kleene's construction: an expression on each edge, states taken out one by one.
    fn eliminate(&self, starts: &[char]) -> Option<String> {
        let count = self.next.len();
        let (begin, end) = (count, count + 1);
        let alive = self.alive();
        if !alive.contains(&0) {
            return None;
        }
        let mut edges: BTreeMap<(usize, usize), String> = BTreeMap::new();
        edges.insert((begin, 0), String::new());
        for &state in &alive {
            let mut by_target: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (interval, &target) in self.next[state].iter().enumerate() {
                by_target.entry(target).or_default().push(interval);
            }
            for (target, intervals) in by_target.into_iter().filter(|(target, _)| alive.contains(target)) {
                edges.insert((state, target), class_of(&intervals, starts));
            }
            if self.accepting[state] {
                edges.insert((state, end), String::new());
            }
        }
        let mut left = alive;
        while !left.is_empty() {
            // The one whose removal writes least.
            let cost = |state: usize| {
                let ins = edges.iter().filter(|((from, to), _)| *to == state && *from != state);
                let outs = edges.iter().filter(|((from, to), _)| *from == state && *to != state);
                let (ins, outs): (Vec<_>, Vec<_>) = (ins.collect(), outs.collect());
                let length = |edges: &[(&(usize, usize), &String)]| edges.iter().map(|(_, text)| text.len() + 4).sum::<usize>();
                length(&ins) * outs.len() + length(&outs) * ins.len()
            };
            let place = (0..left.len()).min_by_key(|&place| cost(left[place]))?;
            let state = left.swap_remove(place);
            let around = edges.remove(&(state, state)).map_or(String::new(), |text| repeat(&text, "*"));
            let ins: Vec<_> = edges.iter().filter(|((_, to), _)| *to == state).map(|((from, _), t)| (*from, t.clone())).collect();
            let outs: Vec<_> =
                edges.iter().filter(|((from, _), _)| *from == state).map(|((_, to), t)| (*to, t.clone())).collect();
            edges.retain(|(from, to), _| *from != state && *to != state);
            for (from, before) in &ins {
                for (to, after) in &outs {
                    let way = format!("{}{around}{}", grouped(before), grouped(after));
                    let known = edges.remove(&(*from, *to));
                    let text = known.map_or(way.clone(), |known| either(&known, &way));
                    if text.len() > MAX_PATTERN {
                        return None;
                    }
                    edges.insert((*from, *to), text);
                }
            }
        }
        edges.remove(&(begin, end))
    }

    /// States from which an end can be reached.
    fn alive(&self) -> Vec<usize> {
        let mut alive = self.accepting.clone();
        loop {
            let before = alive.clone();
            for (state, row) in self.next.iter().enumerate() {
                alive[state] = alive[state] || row.iter().any(|&target| before[target]);
            }
            if alive == before {
                return (0..alive.len()).filter(|&state| alive[state]).collect();
            }
        }
    }
}

/// Two ways between the same states. The empty one makes the other optional.
fn either(a: &str, b: &str) -> String {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => String::new(),
        (true, false) => repeat(b, "?"),
        (false, true) => repeat(a, "?"),
        (false, false) => format!("{a}|{b}"),
    }
}

fn repeat(text: &str, operator: &str) -> String {
    if text.is_empty() { String::new() } else { format!("(?:{text}){operator}") }
}

fn grouped(text: &str) -> String {
    if text.contains('|') { format!("(?:{text})") } else { text.to_string() }
}

/// A character class of intervals, by what is in or by what is not, whichever is shorter.
fn class_of(intervals: &[usize], starts: &[char]) -> String {
    let write = |chosen: &dyn Fn(usize) -> bool| {
        let mut text = String::new();
        let mut interval = 0;
        while interval < starts.len() {
            if !chosen(interval) {
                interval += 1;
                continue;
            }
            let first = starts[interval];
            while interval < starts.len() && chosen(interval) {
                interval += 1;
            }
            let last = starts.get(interval).and_then(|&next| before(next)).unwrap_or(char::MAX);
            text.push_str(&escaped(first));
            if last != first {
                text.push_str(&format!("-{}", escaped(last)));
            }
        }
        text
    };
    let inside = write(&|interval| intervals.contains(&interval));
    let outside = write(&|interval| !intervals.contains(&interval));
    match (outside.is_empty(), outside.len() < inside.len()) {
        (true, _) => "(?s:.)".into(),
        (false, true) => format!("[^{outside}]"),
        (false, false) => format!("[{inside}]"),
    }
}

fn escaped(c: char) -> String {
    if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\x{{{:X}}}", u32::from(c)) }
}

fn before(c: char) -> Option<char> {
    if c == '\u{E000}' { Some('\u{D7FF}') } else { u32::from(c).checked_sub(1).and_then(char::from_u32) }
}

fn after(c: char) -> Option<char> {
    if c == '\u{D7FF}' { Some('\u{E000}') } else { char::from_u32(u32::from(c) + 1) }
}

fn single(c: char, starts: &mut Vec<char>) {
    starts.push(c);
    starts.extend(after(c));
}

/// Where the sets of characters in an expression begin and end.
fn boundaries(hir: &Hir, starts: &mut Vec<char>) {
    // Dots leave the newline out.
    single('\n', starts);
    match hir.kind() {
        HirKind::Literal(literal) => String::from_utf8_lossy(&literal.0).chars().for_each(|c| single(c, starts)),
        HirKind::Class(Class::Unicode(class)) => {
            for range in class.ranges() {
                starts.push(range.start());
                starts.extend(after(range.end()));
            }
        }
        HirKind::Class(Class::Bytes(class)) => {
            for range in class.ranges() {
                starts.push(char::from(range.start()));
                starts.extend(after(char::from(range.end())));
            }
        }
        HirKind::Repetition(repetition) => boundaries(&repetition.sub, starts),
        HirKind::Capture(capture) => boundaries(&capture.sub, starts),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().for_each(|part| boundaries(part, starts)),
        HirKind::Empty | HirKind::Look(_) => {}
    }
}

fn first_line(text: &str) -> String {
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim_start_matches("error: ").trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(language: Language, inside: &[&str], outside: &[&str]) {
        let pattern = language.to_pattern().unwrap();
        let again = Language::pattern(&pattern).unwrap();
        for (texts, expected) in [(inside, true), (outside, false)] {
            for text in texts {
                assert_eq!(language.contains(text), Some(expected), "{text:?}");
                assert_eq!(again.contains(text), Some(expected), "{text:?} by {pattern}");
            }
        }
        assert!(again.clone().and(language.clone().not()).is_empty() == Some(true), "{pattern}");
        assert!(again.not().and(language).is_empty() == Some(true), "{pattern}");
    }

    fn pattern(text: &str) -> Language {
        Language::pattern(text).unwrap()
    }

    #[test]
    fn a_pattern_is_found_anywhere_and_its_complement_nowhere() {
        check(pattern("a4"), &["a4", "xa4y"], &["", "a", "4a"]);
        check(pattern("a4").not(), &["", "a", "4a", "aé", "a\n"], &["a4", "xa4y"]);
        check(pattern("//").not(), &["", "/", "a/b/c", "ü"], &["//", "a//b"]);
        check(pattern(",,|^,|,$").not(), &["", "a", "a,b"], &[",", "a,", ",a", "a,,b"]);
        check(pattern("^[^5]*$|7").not(), &["5", "a5b"], &["", "7", "57", "a"]);
    }

    #[test]
    fn words_and_lengths_can_be_complemented_and_intersected() {
        check(Language::words(["CAN", "USA"]).not(), &["", "CA", "CANA", "é"], &["CAN", "USA"]);
        check(pattern("^[a-z]+$").and(Language::words(["if"]).not()), &["i", "iff", "x"], &["if", "", "IF"]);
        check(Language::length(1, Some(2)).and(pattern("[ä-ü]")), &["ö", "aö"], &["", "a", "aaö"]);
        check(Language::length(3, None).not(), &["", "ab"], &["abc"]);
    }

    #[test]
    fn disjoint_sets_are_recognized() {
        assert!(pattern("^a").is_disjoint(&pattern("^b")));
        assert!(!pattern("a").is_disjoint(&pattern("b")));
        assert!(Language::words(["x"]).is_disjoint(&pattern("^y")));
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_what_is_too_large_is_none() {
        assert!(Language::pattern("(a").is_err());
        assert!(Language::pattern("(?!a)b").is_err());
        assert!(pattern("(a|b)*a(a|b){12}").not().to_pattern().is_none());
    }
}
