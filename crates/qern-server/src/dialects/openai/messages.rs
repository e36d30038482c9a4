//! Messages as OpenAI's clients send them to those that templates render. What no template could show is refused by its place in
//! the request.

use qern_model::chat::{Content, Message};
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::params::{refused, short, shown, unknown};

const ROLES: &str = "`system`, `developer`, `user`, `assistant` or `tool`";
const KNOWN: [&str; 10] = [
    "role",
    "content",
    "name",
    "refusal",
    "reasoning_content",
    "reasoning",
    "tool_calls",
    "tool_call_id",
    "audio",
    "function_call",
];

/// More messages than this are refused.
const MAX_MESSAGES: usize = 10_000;

/// Reads the `messages` of a request.
pub(crate) fn messages(value: Value) -> Result<Vec<Message>, ApiError> {
    let Value::Array(list) = value else {
        return Err(refused("messages", "be a list of messages", &value));
    };
    if list.is_empty() {
        return Err(ApiError::invalid("`messages` must hold at least one message; given none").of_param("messages"));
    }
    if list.len() > MAX_MESSAGES {
        return Err(refused("messages", &format!("hold at most {MAX_MESSAGES} messages"), &list.len().into()));
    }
    list.into_iter().enumerate().map(|(index, value)| message(value, &format!("messages[{index}]"))).collect()
}

fn message(value: Value, place: &str) -> Result<Message, ApiError> {
    let Value::Object(mut object) = value else {
        return Err(refused(place, "be an object with `role` and `content`", &value));
    };
    object.retain(|_, value| !value.is_null());
    if let Some(name) = object.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(unknown(name, KNOWN.into_iter()).of_param(&format!("{place}.{}", short(name))));
    }
    let role = match object.remove("role") {
        Some(Value::String(role)) => role,
        Some(other) => return Err(refused(&format!("{place}.role"), &format!("be {ROLES}"), &other)),
        None => {
            return Err(
                ApiError::invalid(format!("`{place}.role` is missing; it must be {ROLES}")).of_param(&format!("{place}.role"))
            );
        }
    };
    let role = match role.as_str() {
        // The newer name of the same thing, which templates do not know.
        "developer" => "system",
        "system" | "user" | "assistant" | "tool" => role.as_str(),
        _ => return Err(refused(&format!("{place}.role"), &format!("be {ROLES}"), &role.into())),
    };
    refuse(&object, "audio", place)?;
    refuse(&object, "function_call", place)?;
    let mut message = Message { role: role.to_owned(), ..Message::default() };
    message.content = object.remove("content").map(|value| content(value, &format!("{place}.content"))).transpose()?;
    message.name = text(&mut object, "name", place)?;
    if let Some(refusal) = text(&mut object, "refusal", place)? {
        // What an assistant said when it refused is what it said.
        message.content.get_or_insert(Content::Text(refusal));
    }
    let reasoning = (text(&mut object, "reasoning_content", place)?, text(&mut object, "reasoning", place)?);
    message.reasoning_content = reasoning.0.or(reasoning.1);
    message.tool_call_id = text(&mut object, "tool_call_id", place)?;
    message.tool_calls = object.remove("tool_calls").map(|value| tool_calls(value, place)).transpose()?;
    check_fits_role(&message, place)?;
    Ok(message)
}

fn check_fits_role(message: &Message, place: &str) -> Result<(), ApiError> {
    let only = |field: &str, role: &str, given: bool| match given && message.role != role {
        true => Err(ApiError::invalid(format!("`{place}.{field}` must be left out unless the role is `{role}`")).of_param(place)),
        false => Ok(()),
    };
    only("reasoning_content", "assistant", message.reasoning_content.is_some())?;
    only("tool_calls", "assistant", message.tool_calls.is_some())?;
    only("tool_call_id", "tool", message.tool_call_id.is_some())?;
    if message.content.is_none() && message.tool_calls.is_none() && message.reasoning_content.is_none() {
        let param = format!("{place}.content");
        return Err(ApiError::invalid(format!("`{param}` is missing; the message must say something")).of_param(&param));
    }
    Ok(())
}

/// A text, or parts that are texts; joined as they are, since parts are pieces of one message.
fn content(value: Value, place: &str) -> Result<Content, ApiError> {
    let parts = match value {
        Value::String(text) => return Ok(Content::Text(text)),
        Value::Array(parts) => parts,
        other => return Err(refused(place, "be a text or a list of parts", &other)),
    };
    let texts: Vec<Value> = parts
        .into_iter()
        .enumerate()
        .map(|(index, part)| part_of(part, &format!("{place}[{index}]")))
        .collect::<Result<_, _>>()?;
    Ok(Content::Parts(texts))
}

fn part_of(part: Value, place: &str) -> Result<Value, ApiError> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    // Marks for a cache that finds common beginnings by itself, and notes on texts of earlier answers, change nothing.
    let known = ["type", "text", "refusal", "cache_control", "annotations", "logprobs"];
    if let ("text" | "input_text" | "output_text" | "refusal", Value::Object(object)) = (kind, &part)
        && let Some(name) = object.keys().find(|name| !known.contains(&name.as_str()))
    {
        return Err(unknown(name, known.into_iter()).of_param(&format!("{place}.{}", short(name))));
    }
    match kind {
        "text" | "input_text" | "output_text" => match part.get("text") {
            Some(Value::String(text)) => Ok(json!({"type": "text", "text": text})),
            other => Err(refused(&format!("{place}.text"), "be a text", other.unwrap_or(&Value::Null))),
        },
        "refusal" => match part.get("refusal") {
            Some(Value::String(text)) => Ok(json!({"type": "text", "text": text})),
            other => Err(refused(&format!("{place}.refusal"), "be a text", other.unwrap_or(&Value::Null))),
        },
        "image_url" | "input_image" | "image" | "input_audio" | "audio_url" | "video_url" | "file" | "input_file" => {
            let message =
                format!("`{place}` is a part of type `{kind}`, which this server does not take; describe it in a text part");
            Err(ApiError::invalid(message).of_param(place).coded("unsupported_content"))
        }
        _ if part.is_object() => {
            let given = part.get("type").unwrap_or(&Value::Null);
            Err(refused(&format!("{place}.type"), "be `text`", given))
        }
        _ => Err(refused(place, "be a part like {\"type\": \"text\", \"text\": \"...\"}", &part)),
    }
}

fn tool_calls(value: Value, place: &str) -> Result<Vec<Value>, ApiError> {
    let place = format!("{place}.tool_calls");
    let Value::Array(calls) = value else {
        return Err(refused(&place, "be a list of calls", &value));
    };
    for (index, call) in calls.iter().enumerate() {
        let function = &call["function"];
        if !function["name"].is_string() || !function["arguments"].is_string() {
            let rule = "have a `function` with `name` and `arguments`, both texts";
            return Err(refused(&format!("{place}[{index}]"), rule, call));
        }
    }
    Ok(calls)
}

fn text(object: &mut Map<String, Value>, name: &str, place: &str) -> Result<Option<String>, ApiError> {
    match object.remove(name) {
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(refused(&format!("{place}.{name}"), "be a text", &other)),
        None => Ok(None),
    }
}

fn refuse(object: &Map<String, Value>, name: &str, place: &str) -> Result<(), ApiError> {
    match object.get(name) {
        Some(value) => {
            let message = format!("`{place}.{name}` is not supported; leave it out; given {}", shown(value));
            Err(ApiError::invalid(message).of_param(&format!("{place}.{name}")).coded("unsupported_parameter"))
        }
        None => Ok(()),
    }
}

/// The JSON schema of `messages`.
pub(crate) fn schema() -> Value {
    let text = json!({"type": ["string", "null"]});
    let part = json!({
        "type": "object",
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
        "required": ["type", "text"],
        "additionalProperties": false,
    });
    let content = json!({"anyOf": [{"type": "string"}, {"type": "array", "items": part}]});
    let call = json!({
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "type": {"const": "function"},
            "function": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
                "required": ["name", "arguments"],
            },
        },
        "required": ["function"],
    });
    let of_role = |roles: &[&str], more: Value| {
        let mut properties = json!({"role": {"enum": roles}, "content": content, "name": text});
        if let (Some(properties), Value::Object(more)) = (properties.as_object_mut(), more) {
            properties.extend(more);
        }
        json!({"type": "object", "properties": properties, "required": ["role", "content"], "additionalProperties": false})
    };
    json!({
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_MESSAGES,
        "items": {"oneOf": [
            of_role(&["system", "developer", "user"], json!({})),
            of_role(&["assistant"], json!({
                "reasoning_content": text,
                "reasoning": text,
                "refusal": text,
                "tool_calls": {"type": ["array", "null"], "items": call},
            })),
            of_role(&["tool"], json!({"tool_call_id": text})),
        ]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(list: Value) -> (String, String) {
        let error = messages(list).expect_err("must be refused");
        (error.param.unwrap_or_default(), error.message)
    }

    #[test]
    fn refusals_say_where_in_the_request() {
        let check = |list: Value, param: &str, message: &str| assert_eq!(refusal(list), (param.into(), message.into()));
        check(json!([]), "messages", "`messages` must hold at least one message; given none");
        check(json!("hi"), "messages", "`messages` must be a list of messages; given \"hi\"");
        check(
            json!([{"content": "x"}]),
            "messages[0].role",
            "`messages[0].role` is missing; it must be `system`, `developer`, `user`, `assistant` or `tool`",
        );
        check(
            json!([{"role": "user"}]),
            "messages[0].content",
            "`messages[0].content` is missing; the message must say something",
        );
        check(
            json!([{"role": "user", "content": 5}]),
            "messages[0].content",
            "`messages[0].content` must be a text or a list of parts; given 5",
        );
        let image = json!({"type": "image_url", "image_url": {"url": "data:"}});
        check(
            json!([{"role": "user", "content": "a"}, {"role": "user", "content": [image]}]),
            "messages[1].content[0]",
            "`messages[1].content[0]` is a part of type `image_url`, which this server does not take; describe it in a text part",
        );
        check(
            json!([{"role": "user", "content": "x", "contnt": "y"}]),
            "messages[0].contnt",
            "`contnt` is not a known field; did you mean `content`?",
        );
    }

    #[test]
    fn developers_speak_as_the_system_and_reasoning_has_two_names() {
        let read = messages(json!([
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "reasoning": "d"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "e", "tool_call_id": "1"},
        ]))
        .unwrap();
        assert_eq!(read[0].role, "system");
        assert_eq!(read[1].text(), "a\nb");
        assert_eq!(read[2].reasoning_content.as_deref(), Some("d"));
        assert!(read[3].content.is_none() && read[3].tool_calls.is_some());
    }
}
