//! CSV and XML, whose answers independent readers must read.

use serde_json::{Value, json};

use super::*;

fn csv(spec: Value) -> Constraint {
    Constraint::Csv(serde_json::from_value(spec).unwrap())
}

fn xml(spec: Value) -> Constraint {
    Constraint::Xml(serde_json::from_value(spec).unwrap())
}

/// Answers by always taking a legal token that a counter picks: any walk must end in something that readers accept.
fn walks(constraint: &Constraint, count: u64) -> Vec<String> {
    let compiled = compile(constraint).unwrap();
    let walk = |seed: u64| {
        let (mut matcher, mut state) = (compiled.matcher(), seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for step in 0..3000 {
            let is_accepting = matcher.is_accepting();
            if is_accepting && (matcher.is_complete() || step > 60) {
                return Some(String::from_utf8(compiled.vocabulary().decode(matcher.tokens())).unwrap());
            }
            let eos = compiled.vocabulary().eos()[0];
            let legal: Vec<_> = matcher.mask().unwrap().tokens().filter(|&token| token != eos).collect();
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Late tokens first after a while, so that texts end: quotes and brackets are among the rarest.
            let closing = |token: &&u32| {
                ["\"", "<", "\n", ","].iter().any(|end| compiled.vocabulary().decode(&[**token]).starts_with(end.as_bytes()))
            };
            let token = legal.iter().find(|token| step % 7 == 6 && closing(token)).copied();
            matcher.commit(token.unwrap_or(legal[(state >> 33) as usize % legal.len()])).unwrap();
        }
        None
    };
    (0..count).filter_map(walk).collect()
}

#[test]
fn tables_have_the_columns_that_were_asked_for() {
    let spec = json!({ "columns": [
        { "name": "id", "type": "integer", "minimum": 1, "maximum": 250 },
        { "name": "kind, or type", "type": "enum", "values": ["a", "b,c", "say \"x\""] },
        { "name": "note", "type": "text", "max_length": 8, "optional": true }
    ], "min_rows": 1, "max_rows": 2 });
    let header = "id,\"kind, or type\",note\n";
    let with = |rows: &str| format!("{header}{rows}");
    let inside = ["1,a,x", "250,\"b,c\",", "7,\"say \"\"x\"\"\",\"a,\"\"b\"\"\"", "1,a,x\n2,a,y", "3,a,\"\""].map(with);
    let outside =
        ["", "0,a,x", "251,a,x", "1,c,x", "1,a", "1,a,x,y", "1,a,123456789", "1,a,x\n2,a,y\n3,a,z", "1,a,x\n"].map(with);
    let borrowed = |texts: &[String]| texts.to_vec();
    let (inside, outside) = (borrowed(&inside), borrowed(&outside));
    check(
        csv(spec),
        &inside.iter().map(String::as_str).collect::<Vec<_>>(),
        &outside.iter().map(String::as_str).collect::<Vec<_>>(),
    );
}

#[test]
fn delimiters_headers_and_quoting_are_as_described() {
    let columns = json!([{ "name": "a", "type": "boolean" }, { "name": "b", "type": "number", "decimals": 2 }]);
    check(
        csv(json!({ "columns": columns, "delimiter": ";", "header": false })),
        &["true;1.25", "false;-3\ntrue;0"],
        &["true,1", "true;1.255", "a;b"],
    );
    check(csv(json!({ "columns": columns, "quoting": "all" })), &["\"a\",\"b\"\n\"true\",\"1\""], &["a,b\ntrue,1"]);
    let text = json!([{ "name": "a", "type": "text" }, { "name": "b", "type": "date", "optional": true }]);
    check(
        csv(json!({ "columns": text, "quoting": "never", "header": false })),
        &["x,2024-01-31", "x y,"],
        &["\"x\",", "x,2024-02-30"],
    );
    let pattern = json!([{ "name": "a", "type": "pattern", "pattern": "[A-Z]{2}.?" }]);
    check(csv(json!({ "columns": pattern, "header": false })), &["AB", "AB!"], &["AB,", "AB\"", "A"]);
}

#[test]
fn any_walk_is_a_table_that_the_csv_crate_reads() {
    let spec = json!({ "columns": [
        { "name": "n", "type": "integer", "minimum": -20, "maximum": 20 },
        { "name": "t", "type": "text", "optional": true },
        { "name": "d", "type": "datetime" }
    ], "max_rows": 4 });
    let answers = walks(&csv(spec), 40);
    assert!(answers.len() > 30, "{} of 40 came to an end", answers.len());
    for answer in answers {
        let mut reader = ::csv::Reader::from_reader(answer.as_bytes());
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), ["n", "t", "d"], "{answer}");
        let rows: Vec<_> = reader.records().collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}: {answer}"));
        assert!((1..=4).contains(&rows.len()), "{answer}");
        for row in rows {
            assert_eq!(row.len(), 3, "{answer}");
            assert!((-20..=20).contains(&row[0].parse::<i32>().unwrap()), "{answer}");
        }
    }
}

fn orders() -> Value {
    json!({ "root": "order", "elements": {
        "order": {
            "attributes": [{ "name": "id", "type": "integer", "minimum": 1 }, { "name": "note", "type": "text", "optional": true }],
            "children": [{ "element": "item", "min": 1, "max": 3 }, { "choice": [{ "element": "cash" }, { "element": "card" }] }]
        },
        "item": { "value": { "type": "text", "min_length": 1, "max_length": 12 } },
        "cash": {},
        "card": { "attributes": [{ "name": "kind", "type": "enum", "values": ["a<b", "c"] }] }
    } })
}

#[test]
fn documents_have_the_elements_that_were_asked_for() {
    check(
        xml(orders()),
        &[
            "<order id=\"1\"><item>x</item><cash/></order>",
            "<order id=\"12\" note=\"a &amp; b\"><item>x</item><item>y &lt; z</item><card kind=\"a&lt;b\"/></order>",
        ],
        &[
            "<order><item>x</item><cash/></order>",
            "<order id=\"0\"><item>x</item><cash/></order>",
            "<order id=\"1\"><cash/></order>",
            "<order id=\"1\"><item>x</item></order>",
            "<order id=\"1\"><item>x<y</item><cash/></order>",
            "<order id=\"1\"><item>a & b</item><cash/></order>",
        ],
    );
    let tree = json!({ "root": "a", "elements": { "a": { "children": [{ "element": "a", "min": 0, "max": "unbounded" }, { "element": "b" }] }, "b": {} } });
    check(xml(tree), &["<a><b/></a>", "<a><a><b/></a><a><b/></a><b/></a>"], &["<a></a>", "<b/>"]);
}

#[test]
fn any_walk_is_a_document_that_roxmltree_reads() {
    let answers = walks(&xml(orders()), 40);
    assert!(answers.len() > 30, "{} of 40 came to an end", answers.len());
    for answer in answers {
        let document = roxmltree::Document::parse(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let root = document.root_element();
        assert_eq!(root.tag_name().name(), "order");
        assert!(root.attribute("id").unwrap().parse::<i64>().unwrap() >= 1, "{answer}");
        let names: Vec<_> = root.children().map(|child| child.tag_name().name()).collect();
        let (last, items) = names.split_last().unwrap();
        assert!(
            ["cash", "card"].contains(last) && (1..=3).contains(&items.len()) && items.iter().all(|name| *name == "item"),
            "{answer}"
        );
    }
}

#[test]
fn wrong_descriptions_are_refused() {
    let fix = "; correct the description";
    for (spec, reason) in [
        (json!({ "columns": [] }), "`columns` must be 1 to 200; given 0"),
        (
            json!({ "columns": [{ "name": "a", "type": "boolean" }], "delimiter": "a" }),
            "`delimiter` must be punctuation other than quotes, dashes and dots; given 'a'",
        ),
        (
            json!({ "columns": [{ "name": "a", "type": "enum", "values": [] }] }),
            "column \"a\": `values` must name at least one text",
        ),
        (
            json!({ "columns": [{ "name": "a,b", "type": "boolean" }], "quoting": "never" }),
            "the name \"a,b\" cannot be written without quotes; set `quoting` to \"minimal\"",
        ),
    ] {
        assert_eq!(refusal(csv(spec)), format!("the CSV description is refused: {reason}{fix}"));
    }
    let element = |element: Value| json!({ "root": "a", "elements": { "a": element } });
    for (spec, reason) in [
        (json!({ "root": "b", "elements": {} }), "`root` must be one of `elements`; given \"b\""),
        (
            element(json!({ "children": [{ "element": "a" }] })),
            "element \"a\" needs itself to be complete, so it never is; set `min` to 0 on the way",
        ),
        (
            element(json!({ "children": [{ "element": "x" }] })),
            "element \"a\" has the child \"x\", which is not one of `elements`",
        ),
        (
            element(json!({ "children": [{}] })),
            "a child of \"a\" must be one of `element`, `choice` and `sequence`, and not empty",
        ),
        (json!({ "root": "a b", "elements": { "a b": {} } }), "\"a b\" must be a name of XML"),
    ] {
        assert_eq!(refusal(xml(spec)), format!("the XML description is refused: {reason}{fix}"));
    }
}
