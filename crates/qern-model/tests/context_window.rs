//! What is dropped from a conversation that does not fit, and what is said about it.

use std::path::PathBuf;

use qern_model::Error;
use qern_model::chat::{Conversation, Message};
use qern_model::context_window::{ContextLimit, ContextReport, FittedPrompt, fit};
use qern_model::template::{ChatTemplate, TemplateOptions};
use qern_model::tokenizer::Tokenizer;
use serde_json::json;

fn tokenizer() -> Tokenizer {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens/tokenization/qwen3-pruned-tokenizer.json");
    Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap()
}

fn conversation(num_turns: usize) -> Conversation {
    let mut messages = vec![Message::system("Be brief.")];
    for turn in 0..num_turns {
        messages.push(Message::user(format!("Question {turn}: what is it?")));
        messages.push(Message::assistant(format!("Answer {turn}.")));
    }
    messages.push(Message::user("The last one?"));
    Conversation::new(messages)
}

fn fit_to(conversation: &Conversation, max_prompt_tokens: usize, strict: bool) -> Result<FittedPrompt, Error> {
    let tokenizer = tokenizer();
    let template = ChatTemplate::of_model(None, &tokenizer).unwrap();
    fit(conversation, &template, &tokenizer, ContextLimit { max_prompt_tokens, strict }, &TemplateOptions::answer())
}

#[test]
fn a_conversation_that_fits_is_left_whole() {
    let fitted = fit_to(&conversation(3), 10_000, true).unwrap();
    let num_tokens = fitted.tokens.len();
    assert_eq!(
        fitted.report,
        ContextReport { total_turns: 4, dropped_turns: 0, dropped_tokens: 0, prompt_tokens: num_tokens, limit: 10_000 }
    );
    assert!(fit_to(&conversation(3), num_tokens, true).is_ok());
    assert!(fit_to(&conversation(3), num_tokens - 1, true).is_err());
}

#[test]
fn as_few_of_the_oldest_turns_go_as_needed() {
    let conversation = conversation(9);
    let whole = fit_to(&conversation, 10_000, false).unwrap().tokens.len();
    for limit in (40..whole).step_by(7) {
        let fitted = fit_to(&conversation, limit, false).unwrap();
        let report = fitted.report;
        assert_eq!(report.total_turns, 10);
        assert_eq!(report.prompt_tokens, fitted.tokens.len());
        assert_eq!(report.dropped_tokens, whole - fitted.tokens.len());
        assert!(report.dropped_turns > 0 && fitted.tokens.len() <= limit);
        assert!(fitted.prompt.text.contains("Be brief.") && fitted.prompt.text.contains("The last one?"));
        for turn in 0..9 {
            assert_eq!(fitted.prompt.text.contains(&format!("Question {turn}")), turn >= report.dropped_turns, "turn {turn}");
        }
        // One turn fewer would have been too long.
        let mut longer = conversation.clone();
        longer.messages.drain(1..1 + 2 * (report.dropped_turns - 1));
        assert!(fit_to(&longer, 10_000, false).unwrap().tokens.len() > limit);
    }
}

#[test]
fn the_system_prompt_and_the_last_turn_are_never_dropped() {
    let least = fit_to(&conversation(0), 10_000, false).unwrap().tokens.len();
    assert_eq!(fit_to(&conversation(5), least, false).unwrap().report.dropped_turns, 5);
    match fit_to(&conversation(5), least - 1, false) {
        Err(Error::ContextTooSmall { needed, available }) => assert_eq!((needed, available), (least, least - 1)),
        other => panic!("{other:?}"),
    }
    let error = fit_to(&conversation(0), 3, false).unwrap_err().to_string();
    assert!(error.contains(&format!("need {least} tokens but 3 are available")), "{error}");
}

#[test]
fn strict_context_refuses_and_says_what_it_would_drop() {
    let error = fit_to(&conversation(5), 60, true).unwrap_err();
    assert!(matches!(error, Error::StrictContext { limit: 60, total_turns: 6, dropped_turns: 1.., .. }), "{error:?}");
    assert!(error.to_string().contains("of 6 turns"), "{error}");
}

#[test]
fn tools_and_the_results_of_the_last_turn_stay() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens/templates/qwen3.json");
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let tokenizer = tokenizer();
    let template = ChatTemplate::of_model(file["template"].as_str(), &tokenizer).unwrap();
    let mut conversation = conversation(4);
    conversation.tools = vec![json!({"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}})];
    conversation.messages.push(
        serde_json::from_value(json!({
            "role": "assistant", "content": null,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{\"q\": 1}"}}],
        }))
        .unwrap(),
    );
    conversation.messages.push(Message { tool_call_id: Some("1".into()), ..Message::new("tool", "found it") });
    let fit_to = |max_prompt_tokens| {
        let limit = ContextLimit { max_prompt_tokens, strict: false };
        fit(&conversation, &template, &tokenizer, limit, &TemplateOptions::answer())
    };
    let whole = fit_to(10_000).unwrap().report;
    let fitted = fit_to(whole.prompt_tokens - 1).unwrap();
    assert_eq!(fitted.report.dropped_turns, 1);
    let Err(Error::ContextTooSmall { needed, .. }) = fit_to(1) else { panic!("1 token is too few") };
    let least = fit_to(needed).unwrap();
    assert_eq!(least.report.dropped_turns, 4);
    for kept in ["Be brief.", "look_up", "The last one?", "{\"q\": 1}", "found it"] {
        assert!(least.prompt.text.contains(kept), "{kept} in {}", least.prompt.text);
    }
}
