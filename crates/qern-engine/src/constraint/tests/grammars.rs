//! Regular expressions, choices, Lark and GBNF.

use super::*;

fn gbnf(grammar: &str, inside: &[&str], outside: &[&str]) {
    check(Constraint::Gbnf(grammar.into()), inside, outside);
}

#[test]
fn a_regular_expression_matches_the_whole_answer() {
    for pattern in ["[0-9]{2,3}", "^[0-9]{2,3}$"] {
        check(Constraint::Regex(pattern.into()), &["12", "123"], &["1", "1234", "a12", ""]);
    }
    check(Constraint::Regex("a|bc".into()), &["a", "bc"], &["abc", "b"]);
    check(Constraint::Regex(r"\$[0-9]\$".into()), &["$1$"], &["$1", "1"]);
}

#[test]
fn a_choice_is_one_of_its_texts() {
    check(Constraint::Choice(vec!["yes".into(), "no".into(), "no way".into()]), &["yes", "no", "no way"], &["n", "maybe", ""]);
    check(Constraint::Choice(vec!["a.b".into(), "c|d".into()]), &["a.b", "c|d"], &["axb", "c", "d"]);
    assert_eq!(refusal(Constraint::Choice(Vec::new())), "the choice is refused: it is empty; give at least one text");
}

#[test]
fn lark_grammars_work() {
    let lark = "start: sum\nsum: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]+/";
    check(Constraint::Lark(lark.into()), &["1", "1+23"], &["+1", "1+", "a"]);
}

#[test]
fn gbnf_grammars_mean_what_llama_cpp_means() {
    gbnf("root ::= \"a\" [0-9]+ | \"b\"? \"c\"{2,3}", &["a1", "a12", "bcc", "ccc"], &["a", "bc", "cccc"]);
    gbnf("# balanced\nroot ::= \"(\" root \")\" | word\nword ::= [a-z]*", &["", "abc", "((x))"], &["(", "(()", "A"]);
    gbnf("root ::= item (\",\" item)*\nitem ::= \"[\" root \"]\" | \"\\x41\" | [^\\[\\],A]", &["A", "[A,x],y"], &["[", "A,"]);
    // The longest match of a literal must not hide another way.
    gbnf("root ::= root root | \"true\" | [a-z] \"!\"", &["true", "t!r!", "truet!"], &["tr", "tru!"]);
    gbnf(
        "root ::= value\nvalue ::= string | \"[\" (value (\",\" value)*)? \"]\"\nstring ::= \"\\\"\" ([^\"\\\\] | \"\\\\\" [\"\\\\])* \"\\\"\"",
        &["\"a\"", "[\"x\",[\"\\\"\"]]", "[]"],
        &["\"", "[\"a\""],
    );
}

#[test]
fn wrong_grammars_are_refused_by_line() {
    for (grammar, reason) in [
        ("root ::= \"a", "line 1: a literal or a class is not closed; correct that line"),
        ("root ::= x\n", "line 1: there is no rule `x`; correct that line"),
        ("a ::= \"x\"", "line 1: there must be a rule `root`; correct that line"),
        ("root ::= \"a\"\nb = \"c\"", "line 2: expected `::=` after `b`; correct that line"),
        ("root ::= [z-a]", "line 1: the range 'z' to 'a' is backwards; correct that line"),
        ("root ::= \"a\"{3,2}", "line 1: expected a count like {2}, {2,} or {2,4}; correct that line"),
    ] {
        assert_eq!(refusal(Constraint::Gbnf(grammar.into())), format!("the GBNF grammar is refused: {reason}"));
    }
    let message = refusal(Constraint::Regex("(a".into()));
    assert!(message.starts_with("the regular expression is refused: ") && message.contains("unclosed group"), "{message}");
    let message = refusal(Constraint::Lark("start: nothing".into()));
    assert!(message.starts_with("the Lark grammar is refused: "), "{message}");
}
