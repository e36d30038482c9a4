//! Messages as values for a template, in the form that the template understands.

use serde_json::{Map, Value, json};

use super::environment::Input;
use super::{Capabilities, error};
use crate::Result;
use crate::chat::Conversation;

/// What the template gets: all objects, every string still unmarked.
#[derive(Clone, Debug)]
pub struct Values {
    pub messages: Vec<Map<String, Value>>,
    pub tools: Vec<Value>,
}

/// The messages as transformers hands them over: without null fields, with reasoning under each of its names.
pub fn as_given(conversation: &Conversation) -> Values {
    let messages = conversation.messages.iter().map(|message| {
        let Ok(Value::Object(mut fields)) = serde_json::to_value(message) else { return Map::new() };
        fields.retain(|_, value| !value.is_null());
        if let Some(reasoning) = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|name| fields.get(*name)).cloned()
        {
            fields.insert("reasoning_content".into(), reasoning.clone());
            fields.entry("thinking").or_insert(reasoning);
        }
        fields
    });
    Values { messages: messages.collect(), tools: conversation.tools.clone() }
}

/// The messages in the form that the template was found to understand.
pub fn adapted(conversation: &Conversation, capabilities: &Capabilities) -> Values {
    let mut values = as_given(conversation);
    for (fields, message) in values.messages.iter_mut().zip(&conversation.messages) {
        let is_text = matches!(fields.get("content"), Some(Value::String(_)));
        if let Some(text) = message.content.as_ref().and_then(|content| content.text()) {
            if is_text && !capabilities.text_content && capabilities.part_content {
                fields.insert("content".into(), json!([{"type": "text", "text": text}]));
            } else if !is_text && !capabilities.part_content {
                fields.insert("content".into(), text.into());
            }
        }
        if let Some(Value::Array(calls)) = fields.get_mut("tool_calls")
            && !capabilities.string_arguments
        {
            for call in calls {
                parse_arguments(call);
            }
        }
    }
    values
}

/// `{"arguments": "{\"a\": 1}"}` to `{"arguments": {"a": 1}}`; what is no JSON object stays a string.
fn parse_arguments(call: &mut Value) {
    let function = if call.get("function").is_some() { &mut call["function"] } else { call };
    if let Some(text) = function.get("arguments").and_then(Value::as_str)
        && let Ok(arguments @ Value::Object(_)) = serde_json::from_str(text)
    {
        function["arguments"] = arguments;
    }
}

/// Whether some message has no content.
pub fn lacks_content(conversation: &Conversation) -> bool {
    conversation.messages.iter().any(|message| message.content.is_none())
}

/// With an empty text for each missing content.
pub fn with_empty_contents(mut values: Values) -> Values {
    for fields in &mut values.messages {
        fields.entry("content").or_insert_with(|| "".into());
    }
    values
}

/// Appends to the text of the last message.
pub fn append_to_last(values: &mut Values, suffix: &str) -> Result<()> {
    let last = values.messages.last_mut().and_then(|fields| fields.get_mut("content"));
    let text = match last {
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        content => content,
    };
    match text {
        Some(Value::String(text)) => text.push_str(suffix),
        _ => return Err(error("the last message must have a text to be continued")),
    }
    Ok(())
}

/// How much there is to render.
pub fn measure(values: &Values, kwargs: &Map<String, Value>) -> Input {
    let mut input = Input::default();
    values.messages.iter().chain([kwargs]).for_each(|fields| measure_fields(fields, &mut input));
    values.tools.iter().for_each(|tool| measure_value(tool, &mut input));
    input
}

fn measure_fields(fields: &Map<String, Value>, input: &mut Input) {
    for (key, value) in fields {
        input.num_bytes += key.len();
        measure_value(value, input);
    }
}

fn measure_value(value: &Value, input: &mut Input) {
    input.num_values += 1;
    match value {
        Value::String(text) => input.num_bytes += text.len(),
        Value::Array(values) => values.iter().for_each(|value| measure_value(value, input)),
        Value::Object(fields) => measure_fields(fields, input),
        Value::Null | Value::Bool(_) | Value::Number(_) => input.num_bytes += 8,
    }
}
