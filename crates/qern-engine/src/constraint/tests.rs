//! Tests of constraints, on a vocabulary of letters and a few words.

mod grammars;
mod hostile;
mod matching;
mod schemas;
mod tables;

use std::sync::Arc;

use super::*;

/// Printable ASCII, a newline, some words, and letters beyond ASCII.
fn compiler() -> ConstraintCompiler {
    let mut words: Vec<String> = (' '..='~').map(String::from).collect();
    words.extend(
        ["\n", "\r", "\t", "\": \"", "name", "\", \"", "tru", "true", "null", "{\"", "\"}", "ing", "123", "é", "ö", "\u{7f}"]
            .map(String::from),
    );
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    ConstraintCompiler::new(Vocabulary::of_words(&words).unwrap(), ConstraintLimits::default())
}

fn compile(constraint: &Constraint) -> Result<Arc<Compiled>, ConstraintError> {
    compiler().compile(constraint, JsonLayout::Compact)
}

/// Whether the text is an answer, every token allowed by its mask and the end allowed at the end.
fn accepts(compiled: &Compiled, text: &str) -> bool {
    let mut matcher = compiled.matcher();
    for token in compiled.vocabulary().encode(text).unwrap() {
        // Where a text is forced, the mask holds its canonical token alone.
        if !matcher.mask().is_ok_and(|mask| mask.allows(token)) {
            return false;
        }
        matcher.commit(token).unwrap();
    }
    let eos = compiled.vocabulary().eos()[0];
    let is_accepting = matcher.is_accepting();
    assert_eq!(matcher.mask().is_ok_and(|mask| mask.allows(eos)), is_accepting, "{text:?}");
    is_accepting
}

fn check(constraint: Constraint, inside: &[&str], outside: &[&str]) {
    let compiled = compile(&constraint).unwrap_or_else(|error| panic!("{constraint:?}: {error}"));
    inside.iter().for_each(|text| assert!(accepts(&compiled, text), "{text:?} must be an answer of {constraint:?}"));
    outside.iter().for_each(|text| assert!(!accepts(&compiled, text), "{text:?} must be no answer of {constraint:?}"));
}

/// The whole message of a refusal.
fn refusal(constraint: Constraint) -> String {
    compile(&constraint).expect_err("must be refused").to_string()
}
