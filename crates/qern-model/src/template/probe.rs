//! Finds out what a template understands by rendering small conversations with it and looking for their words in the result.
//! Templates do not say it themselves.

use serde_json::json;

use super::{ChatTemplate, TemplateOptions};
use crate::chat::Conversation;

/// What a template can show to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Contents that are a text.
    pub text_content: bool,
    /// Contents that are parts, `[{"type": "text", "text": "..."}]`.
    pub part_content: bool,
    /// System prompts.
    pub system: bool,
    /// Descriptions of tools.
    pub tools: bool,
    /// Calls of an assistant.
    pub tool_calls: bool,
    /// Arguments of calls that are JSON strings, as OpenAI sends them, without encoding them twice.
    pub string_arguments: bool,
}

const NEEDLE: &str = "needle";

/// Renders the conversations. What does not render is not understood.
pub fn find(template: &ChatTemplate) -> Capabilities {
    let text_content = shows(template, json!({"messages": [{"role": "user", "content": NEEDLE}]}), NEEDLE);
    let parts = json!([{"type": "text", "text": NEEDLE}]);
    let part_content = shows(template, json!({"messages": [{"role": "user", "content": parts}]}), NEEDLE);
    let content = |text: &str| if text_content || !part_content { json!(text) } else { json!([{"type": "text", "text": text}]) };
    let user = json!({"role": "user", "content": content("hi")});
    let system = json!({"messages": [{"role": "system", "content": content(NEEDLE)}, user]});
    let parameters = json!({"type": "object", "properties": {"p": {"type": "string", "description": "d"}}, "required": ["p"]});
    let tool = json!({"type": "function", "function": {"name": NEEDLE, "description": "d", "parameters": parameters}});
    let calling = |arguments: serde_json::Value| {
        let call = json!({"id": "call00001", "type": "function", "function": {"name": "f", "arguments": arguments}});
        let answer = json!({"role": "tool", "content": content("ok"), "tool_call_id": "call00001", "name": "f"});
        json!({"messages": [user, {"role": "assistant", "content": content(""), "tool_calls": [call]}, answer]})
    };
    Capabilities {
        text_content,
        part_content,
        system: shows(template, system, NEEDLE),
        tools: shows(template, json!({"messages": [user], "tools": [tool]}), NEEDLE),
        tool_calls: shows(template, calling(json!({"p": NEEDLE})), NEEDLE),
        string_arguments: shows(template, calling(json!(format!(r#"{{"p": "{NEEDLE}"}}"#))), &format!(r#""{NEEDLE}""#)),
    }
}

fn shows(template: &ChatTemplate, conversation: serde_json::Value, needle: &str) -> bool {
    let options = TemplateOptions { as_given: true, ..TemplateOptions::answer() };
    let Ok(conversation) = serde_json::from_value::<Conversation>(conversation) else { return false };
    template.render(&conversation, &options).is_ok_and(|prompt| prompt.text.contains(needle))
}
