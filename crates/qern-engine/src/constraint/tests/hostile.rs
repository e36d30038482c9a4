//! What was written to hurt: it is refused or harmless, and never hangs, panics or grows.

use serde_json::{Value, json};

use super::*;

/// Compiles if it may; whatever comes of it, the first mask comes too.
fn survives(constraint: Constraint) {
    if let Ok(compiled) = compile(&constraint) {
        let mut matcher = compiled.matcher();
        _ = matcher.mask();
        _ = matcher.forced_tokens();
    }
}

#[test]
fn ten_thousand_levels_are_refused() {
    // A reader of JSON refuses deeper values before they get here.
    let mut schema = json!({});
    for _ in 0..1_000 {
        schema = Value::Object([("items".to_string(), schema)].into_iter().collect());
    }
    let limit = "must compile within a depth of nesting (100 levels); make it smaller";
    assert_eq!(refusal(Constraint::JsonSchema(schema)), format!("the JSON schema {limit}"));
    let brackets = format!("{}a{}", "(".repeat(10_000), ")".repeat(10_000));
    assert_eq!(refusal(Constraint::Regex(brackets.clone())), format!("the regular expression {limit}"));
    assert_eq!(refusal(Constraint::Lark(format!("start: {brackets}"))), format!("the Lark grammar {limit}"));
    assert_eq!(refusal(Constraint::Gbnf(format!("root ::= {brackets}"))), format!("the GBNF grammar {limit}"));
}

#[test]
fn references_in_circles_are_refused_or_recursion() {
    survives(Constraint::JsonSchema(json!({ "$ref": "#" })));
    survives(Constraint::JsonSchema(json!({ "allOf": [{ "$ref": "#" }], "type": "object" })));
    survives(Constraint::JsonSchema(json!({ "not": { "$ref": "#" } })));
    survives(Constraint::JsonSchema(json!({ "oneOf": [{ "$ref": "#" }, { "type": "null" }] })));
    survives(Constraint::JsonSchema(json!({ "propertyNames": { "$ref": "#" } })));
    survives(Constraint::JsonSchema(json!({ "uniqueItems": true, "items": { "$ref": "#" } })));
    survives(Constraint::JsonSchema(
        json!({ "contains": { "$ref": "#" }, "maxItems": 16, "if": { "$ref": "#" }, "then": false }),
    ));
    let chain: serde_json::Map<String, Value> =
        (0..5000).map(|id| (format!("a{id}"), json!({ "$ref": format!("#/$defs/a{}", id + 1) }))).collect();
    survives(Constraint::JsonSchema(json!({ "$ref": "#/$defs/a0", "$defs": chain })));
}

#[test]
fn an_enum_of_a_megabyte_is_refused_or_kept() {
    let values: Vec<String> = (0..20_000).map(|id| format!("{id:0>50}")).collect();
    survives(Constraint::JsonSchema(json!({ "enum": values })));
    survives(Constraint::JsonSchema(json!({ "not": { "enum": values } })));
    survives(Constraint::Choice(values));
    let huge = "x".repeat(3 << 20);
    let limit = "must compile within a size (2097152 bytes); make it smaller";
    assert_eq!(refusal(Constraint::Regex(huge.clone())), format!("the regular expression {limit}"));
    assert_eq!(refusal(Constraint::JsonSchema(json!({ "const": huge }))), format!("the JSON schema {limit}"));
}

#[test]
fn patterns_that_explode_are_refused_or_kept() {
    for pattern in
        ["(a*)*b", "(a|a)*c", "(x+x+)+y", "((a{1,100}){1,100}){1,100}", "(a|b)*a(a|b){200}", "(?:(?:)*)*", "\\p{L}{1000}"]
    {
        survives(Constraint::Regex(pattern.into()));
        survives(Constraint::JsonSchema(json!({ "type": "string", "pattern": pattern })));
        survives(Constraint::JsonSchema(json!({ "type": "string", "not": { "pattern": pattern } })));
        survives(Constraint::JsonSchema(
            json!({ "patternProperties": { pattern: {}, "b": false }, "propertyNames": { "pattern": pattern } }),
        ));
    }
    check(Constraint::JsonSchema(json!({ "type": "string", "maxLength": 2000 })), &["\"abc\""], &["1"]);
    survives(Constraint::JsonSchema(json!({ "type": "string", "minLength": 2_000_000_000 })));
    survives(Constraint::JsonSchema(json!({ "type": "array", "minItems": 4_000_000_000_u64 })));
    survives(Constraint::Gbnf("root ::= ((\"a\"{0,10000}){0,10000}){0,10000}".into()));
    survives(Constraint::Gbnf("root ::= a\na ::= b b b b b b b b\nb ::= c c c c c c c c\nc ::= d d d d d d d d\nd ::= e e e e e e e e\ne ::= [a-z]{0,99}".into()));
}

#[test]
fn grammars_that_accept_nothing_are_refused_or_say_so() {
    survives(Constraint::JsonSchema(json!(false)));
    survives(Constraint::JsonSchema(json!({ "enum": [] })));
    survives(Constraint::Regex("[^\\x00-\\x{10FFFF}]".into()));
    survives(Constraint::Gbnf("root ::= root".into()));
    survives(Constraint::Gbnf("root ::= root \"a\"".into()));
    survives(Constraint::Lark("start: start".into()));
    // Nothing but the empty answer.
    check(Constraint::Regex(String::new()), &[""], &["a"]);
    check(Constraint::Gbnf("root ::= \"\" |".into()), &[""], &["a"]);
    check(Constraint::Choice(vec![String::new(), "a".into()]), &["", "a"], &["b"]);
}

#[test]
fn keywords_of_wrong_types_are_refused() {
    let values = [json!(null), json!(true), json!(-1), json!(1e300), json!("x"), json!([[]]), json!({ "a": 1 }), json!([1])];
    let keywords = [
        "type",
        "enum",
        "const",
        "properties",
        "patternProperties",
        "additionalProperties",
        "required",
        "minProperties",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "uniqueItems",
        "contains",
        "pattern",
        "format",
        "minLength",
        "minimum",
        "exclusiveMinimum",
        "multipleOf",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "dependencies",
        "dependentSchemas",
        "propertyNames",
        "$ref",
        "$defs",
        "$schema",
        "unevaluatedProperties",
        "x-guidance",
    ];
    for keyword in keywords {
        for value in &values {
            survives(Constraint::JsonSchema(json!({ keyword: value, "if": true })));
            survives(Constraint::JsonSchema(
                json!({ "not": { keyword: value }, "oneOf": [{ keyword: value }, { "type": "object" }] }),
            ));
        }
    }
}

#[test]
fn a_thousand_schemas_do_not_grow_the_cache_beyond_its_bound() {
    let limits = ConstraintLimits { cache_bytes: 8 << 20, ..ConstraintLimits::default() };
    let compiler = ConstraintCompiler::new(compiler().vocabulary().clone(), limits);
    for id in 0..1000 {
        let schema =
            json!({ "type": "object", "properties": { format!("p{id}"): { "type": "string", "maxLength": id % 50 + 1 } } });
        let compiled = compiler.compile(&Constraint::JsonSchema(schema), JsonLayout::Free).unwrap();
        compiled.matcher().mask().unwrap();
        let (count, bytes) = compiler.cached();
        assert!(count > 0 && bytes <= 8 << 20, "{count} constraints, {bytes} bytes");
    }
}

#[test]
fn tables_that_answers_grow_are_begun_anew() {
    let limits = ConstraintLimits { warm_bytes: 1, ..ConstraintLimits::default() };
    let compiler = ConstraintCompiler::new(compiler().vocabulary().clone(), limits);
    let compiled = compiler.compile(&Constraint::Regex("[a-z]{1,40}[0-9]".into()), JsonLayout::Free).unwrap();
    let mut sizes = Vec::new();
    for _ in 0..5 {
        assert!(accepts(&compiled, "abcdefghijklmnop1"));
        sizes.push(compiled.num_bytes());
    }
    assert!(sizes.iter().all(|&size| size <= sizes[0]), "{sizes:?}");
}
