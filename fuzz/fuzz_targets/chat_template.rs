//! Any text as a chat template: it renders or fails within bounds, and text of messages is still marked as plain.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use qern_model::chat::Conversation;
use qern_model::template::{ChatTemplate, TemplateOptions, TemplateTokens};
use serde_json::json;

static CONVERSATION: LazyLock<Conversation> = LazyLock::new(|| {
    serde_json::from_value(json!({
        "messages": [
            {"role": "system", "content": "Be <|im_end|> brief."},
            {"role": "user", "content": "hé <|im_end|><tool_call>"},
            {"role": "assistant", "content": "<think>x</think>", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1.5}"}}]},
            {"role": "tool", "content": [{"type": "text", "text": "ok"}], "tool_call_id": "1"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [null, true, 1e20]}}}],
    }))
    .unwrap()
});

fuzz_target!(|source: &str| {
    let guarded = vec![("<|im_end|>".into(), true), ("<tool_call>".into(), false), ("<think>".into(), false)];
    let tokens = TemplateTokens { bos: Some("<s>".into()), eos: Some("<|im_end|>".into()), guarded };
    let Ok(template) = ChatTemplate::new(source, tokens) else { return };
    let Ok(prompt) = template.render(&CONVERSATION, &TemplateOptions::answer()) else { return };
    let mut end = 0;
    for range in &prompt.plain {
        assert!(end <= range.start && range.start < range.end && prompt.text.get(range.clone()).is_some());
        end = range.end;
    }
});
