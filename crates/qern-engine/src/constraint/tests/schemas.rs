//! What schemas mean after rewriting, keyword by keyword, and what is refused how.

use serde_json::{Value, json};

use super::*;

fn schema(schema: Value, valid: &[Value], invalid: &[Value]) {
    let texts = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<_>>();
    let (valid, invalid) = (texts(valid), texts(invalid));
    let borrowed = |texts: &'static [String]| texts.iter().map(String::as_str).collect::<Vec<_>>();
    check(Constraint::JsonSchema(schema), &borrowed(valid.leak()), &borrowed(invalid.leak()));
}

fn refused(schema: Value, message: &str) {
    assert_eq!(refusal(Constraint::JsonSchema(schema)), format!("the JSON schema is refused {message}"));
}

#[test]
fn layouts_fix_the_whitespace_or_leave_it_free() {
    let constraint = Constraint::JsonSchema(json!({ "type": "array", "items": { "type": "integer" } }));
    let spaced = compiler().compile(&constraint, JsonLayout::Spaced).unwrap();
    let free = compiler().compile(&constraint, JsonLayout::Free).unwrap();
    let compact = compile(&constraint).unwrap();
    for (text, layouts) in [("[1, 2]", [true, true, false]), ("[1,2]", [false, true, true]), ("[ 1,\n2]", [false, true, false])] {
        assert_eq!([&spaced, &free, &compact].map(|compiled| accepts(compiled, text)), layouts, "{text:?}");
    }
}

#[test]
fn one_of_means_exactly_one() {
    let required = |name: &str| json!({ "required": [name] });
    let base = json!({ "a": { "type": "integer" }, "b": { "type": "integer" } });
    schema(
        json!({ "type": "object", "properties": base, "oneOf": [required("a"), required("b")] }),
        &[json!({ "a": 1 }), json!({ "b": 1 })],
        &[json!({}), json!({ "a": 1, "b": 1 })],
    );
    schema(
        json!({ "oneOf": [{ "type": "integer", "minimum": 5 }, { "type": "integer", "maximum": 7 }] }),
        &[json!(4), json!(8)],
        &[json!(5), json!(7), json!("x")],
    );
    schema(
        json!({ "oneOf": [{ "type": "string", "pattern": "^a" }, { "type": "string", "pattern": "b$" }, { "type": "null" }] }),
        &[json!("a"), json!("b"), json!(null)],
        &[json!("ab"), json!("c")],
    );
    refused(
        json!({ "oneOf": [{ "type": "array", "items": { "type": "integer" } }, { "type": "array", "items": { "minimum": 3 } }] }),
        "at /: `oneOf` has branches 0 and 1 that could both hold, and one cannot be excluded (`items` cannot be negated: somewhere in \
         the array an item would have to break it); use `anyOf`, or tell the branches apart by a required property with a different \
         `const` in each",
    );
}

#[test]
fn not_takes_types_values_names_and_patterns_away() {
    schema(json!({ "not": { "type": ["string", "array", "object"] } }), &[json!(1), json!(null)], &[json!("a"), json!([])]);
    schema(
        json!({ "type": "string", "not": { "enum": ["a", "ab"] } }),
        &[json!(""), json!("abc"), json!("b")],
        &[json!("a"), json!("ab")],
    );
    schema(
        json!({ "type": "integer", "minimum": 1, "maximum": 9, "not": { "enum": [3, 4, 9] } }),
        &[json!(1), json!(2), json!(5), json!(8)],
        &[json!(3), json!(4), json!(9), json!(10)],
    );
    let both = json!({ "a": {}, "b": {} });
    schema(
        json!({ "type": "object", "properties": both, "additionalProperties": false, "not": { "required": ["a", "b"] } }),
        &[json!({}), json!({ "a": 1 }), json!({ "b": 1 })],
        &[json!({ "a": 1, "b": 1 })],
    );
    schema(json!({ "type": "string", "not": { "pattern": "//" } }), &[json!("/a/"), json!("")], &[json!("a//")]);
    schema(json!({ "not": { "not": { "type": "null" } } }), &[json!(null)], &[json!(1)]);
    schema(
        json!({ "not": { "enum": [{ "a": 1 }] }, "type": "object" }),
        &[json!({}), json!({ "a": 2 }), json!({ "a": 1, "b": 1 }), json!({ "b": 1 })],
        &[json!({ "a": 1 })],
    );
    schema(
        json!({ "const": [1, 2.0], "not": { "const": [1] } }),
        &[json!([1, 2]), json!([1, 2.0])],
        &[json!([1]), json!([1, 3])],
    );
    refused(
        json!({ "properties": { "n": { "type": "number", "not": { "multipleOf": 3 } } } }),
        "at /properties/n/not: `multipleOf` cannot be negated: numbers that are no multiple have no grammar; write out what is allowed \
         instead",
    );
}

#[test]
fn conditions_and_dependencies_hold() {
    let properties = json!({ "kind": { "enum": ["a", "b"] }, "x": { "type": "integer" }, "y": { "type": "integer" } });
    schema(
        json!({
            "type": "object", "properties": properties, "required": ["kind"], "additionalProperties": false,
            "if": { "properties": { "kind": { "const": "a" } } }, "then": { "required": ["x"] }, "else": { "required": ["y"] }
        }),
        &[json!({ "kind": "a", "x": 1 }), json!({ "kind": "b", "y": 1 }), json!({ "kind": "b", "x": 1, "y": 1 })],
        &[json!({ "kind": "a" }), json!({ "kind": "a", "y": 1 }), json!({ "kind": "b", "x": 1 })],
    );
    let integers = json!({ "a": { "type": "integer" }, "b": { "type": "integer" } });
    for keyword in ["dependencies", "dependentRequired"] {
        schema(
            json!({ "type": "object", "properties": integers, keyword: { "a": ["b"] } }),
            &[json!({}), json!({ "b": 1 }), json!({ "a": 1, "b": 1 })],
            &[json!({ "a": 1 })],
        );
    }
    schema(
        json!({ "properties": integers, "dependentSchemas": { "a": { "properties": { "b": { "minimum": 5 } } } } }),
        &[json!({ "a": 1 }), json!({ "b": 1 }), json!({ "a": 1, "b": 5 }), json!("no object")],
        &[json!({ "a": 1, "b": 4 })],
    );
}

#[test]
fn names_of_properties_are_kept() {
    schema(
        json!({ "type": "object", "propertyNames": { "pattern": "^[a-z]+$" }, "additionalProperties": { "type": "integer" } }),
        &[json!({}), json!({ "a": 1, "bc": 2 })],
        &[json!({ "A": 1 }), json!({ "a": "x" })],
    );
    schema(
        json!({ "type": "object", "properties": { "ok": {}, "no": {} }, "propertyNames": { "enum": ["ok", "fine"] } }),
        &[json!({ "ok": 1 }), json!({ "fine": 1 })],
        &[json!({ "no": 1 }), json!({ "x": 1 })],
    );
    schema(
        json!({ "type": "object", "patternProperties": { "^a": { "minimum": 3 }, "b$": { "maximum": 5 } }, "additionalProperties": false }),
        &[json!({ "a": 9 }), json!({ "b": 0 }), json!({ "ab": 4 })],
        &[json!({ "ab": 9 }), json!({ "ab": 0 }), json!({ "c": 4 })],
    );
}

#[test]
fn properties_are_counted() {
    let three = json!({ "a": { "type": "null" }, "b": { "type": "null" }, "c": { "type": "null" } });
    schema(
        json!({ "type": "object", "properties": three, "additionalProperties": false, "minProperties": 1, "maxProperties": 2 }),
        &[json!({ "a": null }), json!({ "a": null, "c": null }), json!({ "b": null })],
        &[json!({}), json!({ "a": null, "b": null, "c": null })],
    );
    schema(
        json!({ "type": "object", "properties": three, "additionalProperties": { "type": "integer" }, "minProperties": 2 }),
        &[json!({ "a": null, "b": null }), json!({ "a": null, "x": 1 }), json!({ "x": 1, "y": 1 })],
        &[json!({ "a": null }), json!({ "x": 1 }), json!({})],
    );
}

#[test]
fn items_are_counted_and_told_apart() {
    schema(
        json!({ "type": "array", "items": { "enum": ["a", "b"] }, "uniqueItems": true }),
        &[json!([]), json!(["a"]), json!(["b", "a"])],
        &[json!(["a", "a"]), json!(["a", "b", "a"])],
    );
    schema(
        json!({ "type": "array", "items": { "type": "integer" }, "maxItems": 3, "contains": { "minimum": 5 } }),
        &[json!([5]), json!([1, 2, 7])],
        &[json!([]), json!([1, 2])],
    );
    schema(
        json!({ "$schema": "http://json-schema.org/draft-07/schema#", "items": [{ "type": "null" }], "additionalItems": false }),
        &[json!([]), json!([null]), json!({})],
        &[json!([1]), json!([null, null])],
    );
    refused(
        json!({ "type": "array", "items": { "type": "string" }, "uniqueItems": true }),
        "at /: `uniqueItems` cannot be kept for items of unlimited values; drop it and check it afterwards, set `maxItems` to 1, or \
         give the items an `enum` of a few values",
    );
}

#[test]
fn references_are_followed_in_all_their_forms() {
    let definitions =
        json!({ "a b": { "type": "null" }, "c/d": { "type": "integer" }, "e": { "$anchor": "here", "type": "boolean" } });
    for (reference, value) in [("#/$defs/a%20b", "null"), ("#/$defs/c~1d", "12"), ("#here", "true")] {
        check(Constraint::JsonSchema(json!({ "$ref": reference, "$defs": definitions })), &[value], &["\"x\""]);
    }
    schema(
        json!({ "type": "object", "properties": { "next": { "$ref": "#" } }, "additionalProperties": false }),
        &[json!({}), json!({ "next": { "next": {} } })],
        &[json!({ "next": 1 })],
    );
    // Before 2019-09 nothing beside `$ref` counts.
    schema(
        json!({
            "$schema": "http://json-schema.org/draft-04/schema#",
            "properties": { "a": { "$ref": "#/definitions/t", "maxLength": 1 } }, "definitions": { "t": { "type": "string" } }
        }),
        &[json!({ "a": "long" })],
        &[json!({ "a": 1 })],
    );
    refused(
        json!({ "$ref": "https://example.com/x.json" }),
        "at /: `$ref` points outside the schema, and nothing is fetched; refer to a part of this schema, as in `#/$defs/name`",
    );
    refused(
        json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/a" } } }),
        "at /: `$ref` leads round in a circle; let one of them say what the value is",
    );
}

#[test]
fn formats_that_cannot_be_checked_are_reported() {
    let compiled = compile(&Constraint::JsonSchema(json!({ "type": "string", "format": "color" }))).unwrap();
    assert_eq!(compiled.notes(), ["at the root: the format `color` is taken as a description, not checked"]);
    schema(json!({ "type": "string", "format": "date" }), &[json!("2024-02-29")], &[json!("2024-02-30"), json!("x")]);
}

#[test]
fn contradictions_are_refused_where_they_are() {
    refused(
        json!({ "type": "object", "properties": { "a": { "type": "array", "minItems": 3, "maxItems": 2 } }, "required": ["a"] }),
        "at /properties/a: `minItems` is more than `maxItems`, so nothing is valid; lower it",
    );
    refused(
        json!({ "type": "object", "properties": { "a": { "type": "integer", "minimum": 3, "maximum": 2 } }, "required": ["a"] }),
        "at /properties/a: `minimum` cannot be kept: Unsatisfiable schema: minimum (3) is greater than maximum (2); nothing is valid by \
         it: loosen it",
    );
    refused(
        json!({ "properties": { "a": { "type": "text" } } }),
        "at /properties/a: `type` has no \"text\"; the types are null, boolean, integer, number, string, array and object; leave it out \
         for any",
    );
    refused(
        json!({ "properties": { "a": { "required": true } } }),
        "at /properties/a: `required` must be a list of names; given true; list the names of required properties in the schema of the \
         object, as in `\"required\": [\"a\", \"b\"]`",
    );
}
