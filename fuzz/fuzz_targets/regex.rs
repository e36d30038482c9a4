//! A regular expression that somebody else wrote, as an answer and as a pattern of a schema, plain and negated: refused or kept, and
//! never a panic or a hang.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use qern_engine::constraint::{Constraint, ConstraintCompiler, ConstraintLimits, JsonLayout, Vocabulary};

fn compiler() -> &'static ConstraintCompiler {
    static COMPILER: OnceLock<ConstraintCompiler> = OnceLock::new();
    COMPILER.get_or_init(|| ConstraintCompiler::new(Vocabulary::of_bytes().unwrap(), ConstraintLimits::default()))
}

fuzz_target!(|pattern: &str| {
    let schema = |schema| Constraint::JsonSchema(schema);
    let constraints = [
        Constraint::Regex(pattern.into()),
        schema(serde_json::json!({ "type": "string", "pattern": pattern })),
        schema(serde_json::json!({ "type": "string", "not": { "pattern": pattern } })),
        schema(serde_json::json!({ "patternProperties": { pattern: { "type": "null" }, "^a": {} }, "propertyNames": { "maxLength": 3 } })),
    ];
    for constraint in constraints {
        if let Ok(compiled) = compiler().compile(&constraint, JsonLayout::Compact) {
            let mut matcher = compiled.matcher();
            _ = matcher.mask();
            _ = matcher.forced_tokens();
        }
    }
});
