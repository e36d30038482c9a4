//! The state of an answer: masks, forced tokens, going back, branching off.

use serde_json::json;

use super::*;

fn named() -> Arc<Compiled> {
    let schema = json!({ "type": "object", "properties": { "name": { "type": "string", "maxLength": 5 } }, "required": ["name"], "additionalProperties": false });
    compiler().compile(&Constraint::JsonSchema(schema), JsonLayout::Spaced).unwrap()
}

fn text(matcher: &Matcher, compiled: &Compiled) -> String {
    String::from_utf8(compiled.vocabulary().decode(matcher.tokens())).unwrap()
}

#[test]
fn forced_text_comes_in_canonical_tokens() {
    let compiled = named();
    let mut matcher = compiled.matcher();
    let forced = matcher.forced_tokens();
    assert_eq!(forced, compiled.vocabulary().encode("{\"name\": \"").unwrap()[..forced.len()]);
    assert!(forced.len() > 1);
    assert_eq!(matcher.mask().unwrap().only(), Some(forced[0]));
    for token in forced {
        matcher.commit(token).unwrap();
    }
    // What could be spelled in another way together with what follows is left to the model.
    assert!(matcher.forced_tokens().is_empty());
    assert!(matcher.mask().unwrap().count() > 1);
}

#[test]
fn tokens_are_taken_back() {
    let compiled = named();
    let mut matcher = compiled.matcher();
    let tokens = compiled.vocabulary().encode("{\"name\": \"abc\"}").unwrap();
    let mut masks = Vec::new();
    for &token in &tokens {
        masks.push(matcher.mask().unwrap().words().to_vec());
        matcher.commit(token).unwrap();
    }
    assert!(matcher.is_complete() && matcher.is_accepting());
    matcher.rollback(tokens.len() - 3).unwrap();
    for (place, &token) in tokens.iter().enumerate().skip(3) {
        assert_eq!(matcher.mask().unwrap().words(), masks[place], "token {place}");
        matcher.commit(token).unwrap();
    }
    assert!(matcher.is_complete());
    assert_eq!(text(&matcher, &compiled), "{\"name\": \"abc\"}");
}

#[test]
fn branches_do_not_touch_each_other() {
    let compiled = named();
    let mut one = compiled.matcher();
    let tokens = compiled.vocabulary().encode("{\"name\": \"a").unwrap();
    tokens.iter().for_each(|&token| one.commit(token).unwrap());
    let mut two = one.clone();
    compiled.vocabulary().encode("bcde").unwrap().iter().for_each(|&token| two.commit(token).unwrap());
    assert!(!two.mask().unwrap().allows(compiled.vocabulary().encode("f").unwrap()[0]), "five letters at most");
    assert!(one.mask().unwrap().allows(compiled.vocabulary().encode("f").unwrap()[0]));
}

#[test]
fn an_illegal_token_is_refused_and_changes_nothing() {
    let compiled = named();
    let mut matcher = compiled.matcher();
    let x = compiled.vocabulary().encode("x").unwrap()[0];
    assert_eq!(matcher.commit(x), Err(ConstraintError::IllegalToken { token: x }));
    let good = compiled.vocabulary().encode("{\"name").unwrap();
    assert_eq!(matcher.legal_prefix(&[good.as_slice(), &[x]].concat()), good.len());
    good.iter().for_each(|&token| matcher.commit(token).unwrap());
}

#[test]
fn masks_are_applied_to_logits_of_any_length() {
    let mut matcher = named().matcher();
    let mask = matcher.mask().unwrap().clone();
    let mut logits = vec![1.0; mask.0.len() + 70];
    mask.apply(&mut logits);
    let legal: Vec<usize> = (0..logits.len()).filter(|&id| logits[id] == 1.0).collect();
    assert_eq!(legal, mask.tokens().map(|token| token as usize).collect::<Vec<_>>());
    assert!(logits.iter().all(|&logit| logit == 1.0 || logit == f32::NEG_INFINITY));
}

#[test]
fn a_constraint_is_compiled_once_and_answers_share_it() {
    let compiler = compiler();
    let constraint = Constraint::Regex("[0-9]+".into());
    let one = compiler.compile(&constraint, JsonLayout::Spaced).unwrap();
    let two = compiler.compile(&constraint, JsonLayout::Spaced).unwrap();
    assert!(Arc::ptr_eq(&one, &two));
    assert_eq!(compiler.cached().0, 1);
    assert_eq!(one, two);
}

#[test]
fn what_was_cut_is_closed() {
    let schema = json!({
        "type": "object", "required": ["id", "box", "list"], "additionalProperties": false,
        "properties": {
            "id": { "type": "string", "pattern": "^pbj:([a-z0-9-]+):([0-9]+-[0-9]+)$" },
            "box": { "type": "string", "pattern": "^\\(.*,.*,.*\\)$" },
            "list": { "type": "array", "items": { "type": "string", "minLength": 3 }, "minItems": 2 }
        }
    });
    let compiled = compile(&Constraint::JsonSchema(schema)).unwrap();
    let whole = "{\"id\":\"pbj:a-b:12-3\",\"box\":\"(1,2,3)\",\"list\":[\"abc\",\"defg\"]}";
    for end in 0..whole.len() {
        let mut matcher = compiled.matcher();
        let begun = compiled.vocabulary().encode(&whole[..end]).unwrap();
        // A prefix may be spelled in other tokens than the masks prefer; it is legal all the same.
        begun.iter().for_each(|&token| matcher.commit(token).unwrap());
        let closing = matcher.closing_tokens(2000).unwrap_or_else(|| panic!("{} is not closed", &whole[..end]));
        closing.iter().for_each(|&token| matcher.commit(token).unwrap());
        assert!(matcher.is_accepting());
        let text = text(&matcher, &compiled);
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    }
}
