//! What a row means: a conversation, an instruction, a completion, a text or a preference, told by its columns. No tokens yet.

use std::collections::BTreeMap;
use std::fmt;

use qern_model::chat::{Conversation, Message};
use serde_json::Value;

use super::rows::Columns;

/// A kind of example. All rows of a file are of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `messages` (or ShareGPT's `conversations`), with or without `tools`.
    Chat,
    /// `instruction`, `output`, and maybe `input` and `system`.
    Instruction,
    /// `prompt` and `completion`.
    Completion,
    /// `text`.
    Text,
    /// `prompt`, `chosen` and `rejected`.
    Preference,
}

/// An example as a model sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// A conversation, of which the assistant's messages are learnt from `first_learnt` on.
    Chat {
        /// All of it.
        conversation: Conversation,
        /// Messages before this one are context only.
        first_learnt: usize,
    },
    /// Plain text; the completion is learnt.
    Completion {
        /// What is given.
        prompt: String,
        /// What is to follow.
        completion: String,
    },
    /// Plain text; all of it is learnt.
    Text(String),
    /// Two ways to go on, the better one first.
    Preference(Box<[Example; 2]>),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat (`messages`)",
            Self::Instruction => "instruction (`instruction`, `output`)",
            Self::Completion => "completion (`prompt`, `completion`)",
            Self::Text => "text (`text`)",
            Self::Preference => "preference (`prompt`, `chosen`, `rejected`)",
        })
    }
}

/// How rows are read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Columns under other names: the name it should have, and the one it has.
    pub columns: BTreeMap<String, String>,
    /// Prompts and completions are plain text, not messages.
    pub raw: bool,
    /// A system prompt for every conversation that has none.
    pub system: Option<String>,
}

impl Kind {
    /// The kind of a row with these columns.
    pub fn of(columns: &Columns) -> Result<Self, String> {
        let has = |name: &str| columns.get(name).is_some_and(|value| !value.is_null());
        if has("chosen") && has("rejected") {
            Ok(Self::Preference)
        } else if has("messages") || has("conversations") {
            Ok(Self::Chat)
        } else if columns.contains_key("instruction") && columns.contains_key("output") {
            Ok(Self::Instruction)
        } else if columns.contains_key("prompt") && columns.contains_key("completion") {
            Ok(Self::Completion)
        } else if columns.contains_key("text") {
            Ok(Self::Text)
        } else {
            let names: Vec<_> = columns.keys().take(8).map(|name| format!("`{name}`")).collect();
            Err(format!(
                "it must have `messages`, `instruction` and `output`, `prompt` and `completion`, `text`, or `prompt`, `chosen` and \
                 `rejected`; it has {}; name columns by `columns`",
                if names.is_empty() { "nothing".into() } else { names.join(", ") }
            ))
        }
    }
}

/// The kind of a row, and what it says.
pub fn read(mut columns: Columns, reading: &Reading) -> Result<(Kind, Example), String> {
    for (name, given) in &reading.columns {
        let value = columns.remove(given).ok_or_else(|| format!("it must have the column `{given}`, which is to be `{name}`"))?;
        columns.insert(name.clone(), value);
    }
    let kind = Kind::of(&columns)?;
    let example = match kind {
        Kind::Chat => chat(&columns)?,
        Kind::Instruction if reading.raw => return Err("`raw` must be off for instructions; they need the chat template".into()),
        Kind::Instruction => instruction(&columns)?,
        Kind::Completion => continuation(&columns, "completion", reading.raw)?,
        Kind::Text => Example::Text(text(&columns, "text")?),
        Kind::Preference => {
            let pair = ["chosen", "rejected"].map(|name| continuation(&columns, name, reading.raw));
            let [chosen, rejected] = pair;
            let (chosen, rejected) = (chosen?, rejected?);
            if chosen == rejected {
                return Err("`chosen` and `rejected` must differ; they are the same".into());
            }
            Example::Preference(Box::new([chosen, rejected]))
        }
    };
    Ok((kind, with_system(example, reading.system.as_deref())))
}

fn with_system(example: Example, system: Option<&str>) -> Example {
    match (example, system) {
        (Example::Chat { mut conversation, first_learnt }, Some(system))
            if !conversation.messages.first().is_some_and(Message::is_instruction) =>
        {
            conversation.messages.insert(0, Message::system(system));
            Example::Chat { conversation, first_learnt: first_learnt + 1 }
        }
        (Example::Preference(pair), system) => Example::Preference(Box::new(pair.map(|example| with_system(example, system)))),
        (example, _) => example,
    }
}

fn chat(columns: &Columns) -> Result<Example, String> {
    let messages = match columns.get("messages").filter(|value| !value.is_null()) {
        Some(messages) => messages_of(messages, "messages")?,
        None => share_gpt(&columns["conversations"])?,
    };
    let tools = match columns.get("tools").map(unpacked).transpose()? {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(tools)) => tools,
        Some(_) => return Err("`tools` must be an array".into()),
    };
    let learnt = messages.iter().filter(|message| message.role == "assistant");
    if let Some(empty) = learnt.clone().find(|message| is_empty(message)) {
        return Err(format!("an assistant's message must not be empty{}", weight_note(empty)));
    }
    if learnt.count() == 0 {
        return Err("`messages` must have one of the assistant; there is nothing to learn".into());
    }
    Ok(Example::Chat { conversation: Conversation { messages, tools }, first_learnt: 0 })
}

fn weight_note(message: &Message) -> &'static str {
    if message.extra.contains_key("weight") { " (whatever its `weight`)" } else { "" }
}

fn is_empty(message: &Message) -> bool {
    message.text().trim().is_empty() && message.tool_calls.as_ref().is_none_or(Vec::is_empty)
}

/// A value, or what a text in its place says as JSON: CSV and Parquet files often hold lists as texts.
fn unpacked(value: &Value) -> Result<Value, String> {
    match value {
        Value::String(text) if text.trim_start().starts_with('[') => {
            serde_json::from_str(text).map_err(|error| format!("a text that begins like a JSON array is none: {error}"))
        }
        Value::String(text) if text.trim().is_empty() => Ok(Value::Null),
        value => Ok(value.clone()),
    }
}

fn messages_of(value: &Value, name: &str) -> Result<Vec<Message>, String> {
    let messages: Vec<Message> =
        serde_json::from_value(unpacked(value)?).map_err(|error| format!("`{name}` must be an array of messages: {error}"))?;
    if messages.is_empty() {
        return Err(format!("`{name}` must have at least one message; it is empty"));
    }
    Ok(messages)
}

/// ShareGPT's `{"from": "human", "value": "..."}`.
fn share_gpt(value: &Value) -> Result<Vec<Message>, String> {
    let rule = "`conversations` must be an array of objects with `from` and `value`";
    let Value::Array(turns) = unpacked(value)? else { return Err(rule.into()) };
    let message = |turn: &Value| {
        let (Some(from), Some(value)) = (turn["from"].as_str(), turn["value"].as_str()) else { return Err(rule.to_string()) };
        let role = match from {
            "human" => "user",
            "gpt" => "assistant",
            "system" | "user" | "assistant" | "tool" => from,
            other => return Err(format!("`from` must be human, gpt, system or tool; given `{other}`")),
        };
        Ok(Message::new(role, value))
    };
    turns.iter().map(message).collect()
}

fn instruction(columns: &Columns) -> Result<Example, String> {
    let mut user = text(columns, "instruction")?;
    if let Some(input) = optional_text(columns, "input")? {
        user = format!("{user}\n\n{input}");
    }
    let system = optional_text(columns, "system")?.map(Message::system);
    let messages: Vec<Message> =
        system.into_iter().chain([Message::user(user), Message::assistant(text(columns, "output")?)]).collect();
    Ok(Example::Chat { first_learnt: messages.len() - 1, conversation: Conversation::new(messages) })
}

/// `prompt` followed by what stands under `name`: texts, or lists of messages.
fn continuation(columns: &Columns, name: &str, raw: bool) -> Result<Example, String> {
    if raw {
        return Ok(Example::Completion { prompt: text(columns, "prompt")?, completion: text(columns, name)? });
    }
    let list = |name: &str, role: &str| -> Result<Vec<Message>, String> {
        match columns.get(name).map(unpacked).transpose()? {
            Some(value @ Value::Array(_)) => messages_of(&value, name),
            _ => Ok(vec![Message::new(role, text(columns, name)?)]),
        }
    };
    // Preferences without a prompt of their own hold the whole conversation twice.
    let mut messages = if columns.contains_key("prompt") || name == "completion" { list("prompt", "user")? } else { Vec::new() };
    let mut rest = list(name, "assistant")?;
    let mut first_learnt = messages.len();
    if messages.is_empty() {
        first_learnt = rest.iter().rposition(|message| message.role != "assistant").map_or(0, |at| at + 1);
    }
    messages.append(&mut rest);
    if !messages[first_learnt..].iter().any(|message| message.role == "assistant") {
        return Err(format!("`{name}` must have a message of the assistant"));
    }
    if messages.iter().any(|message| message.role == "assistant" && is_empty(message)) {
        return Err("an assistant's message must not be empty".into());
    }
    Ok(Example::Chat { conversation: Conversation::new(messages), first_learnt })
}

/// A text that must be there and say something.
fn text(columns: &Columns, name: &str) -> Result<String, String> {
    optional_text(columns, name)?.ok_or_else(|| format!("`{name}` must not be empty"))
}

fn optional_text(columns: &Columns, name: &str) -> Result<Option<String>, String> {
    match columns.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.trim().is_empty())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(format!("`{name}` must be a text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_json(row: &str, reading: &Reading) -> Result<(Kind, Example), String> {
        let Value::Object(columns) = serde_json::from_str(row).unwrap() else { unreachable!() };
        read(columns, reading)
    }

    /// What the row says, as `role: text` lines with `>` before those that are learnt.
    fn shown(example: &Example) -> String {
        match example {
            Example::Chat { conversation, first_learnt } => {
                let line = |(i, m): (usize, &Message)| {
                    let mark = if i >= *first_learnt && m.role == "assistant" { ">" } else { "" };
                    format!("{mark}{}: {}", m.role, m.text())
                };
                conversation.messages.iter().enumerate().map(line).collect::<Vec<_>>().join("|")
            }
            Example::Completion { prompt, completion } => format!("{prompt}>{completion}"),
            Example::Text(text) => format!(">{text}"),
            Example::Preference(pair) => format!("{} / {}", shown(&pair[0]), shown(&pair[1])),
        }
    }

    #[test]
    fn rows_are_told_by_their_columns() {
        let check = |row: &str, kind: Kind, expected: &str| {
            let (found, example) = read_json(row, &Reading::default()).unwrap();
            assert_eq!((found, shown(&example).as_str()), (kind, expected), "{row}");
        };
        check(
            r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"id":7}"#,
            Kind::Chat,
            "user: a|>assistant: b",
        );
        check(
            r#"{"messages":"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]"}"#,
            Kind::Chat,
            "user: a|>assistant: b",
        );
        check(
            r#"{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#,
            Kind::Chat,
            "user: a|>assistant: b",
        );
        check(r#"{"instruction":"a","output":"b"}"#, Kind::Instruction, "user: a|>assistant: b");
        check(
            r#"{"instruction":"a","input":"c","output":"b","system":"s"}"#,
            Kind::Instruction,
            "system: s|user: a\n\nc|>assistant: b",
        );
        check(r#"{"prompt":"a","completion":"b"}"#, Kind::Completion, "user: a|>assistant: b");
        check(r#"{"text":"a"}"#, Kind::Text, ">a");
        let pair = "user: a|>assistant: b / user: a|>assistant: c";
        check(r#"{"prompt":"a","chosen":"b","rejected":"c"}"#, Kind::Preference, pair);
        let whole = r#"{"chosen":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],
            "rejected":[{"role":"user","content":"a"},{"role":"assistant","content":"c"}]}"#;
        check(whole, Kind::Preference, pair);
    }

    #[test]
    fn settings_change_how_rows_are_read() {
        let check = |row: &str, reading: Reading, expected: &str| {
            assert_eq!(shown(&read_json(row, &reading).unwrap().1), expected, "{row}");
        };
        let columns = [("prompt".to_string(), "text".to_string()), ("completion".to_string(), "category".to_string())];
        let renamed = Reading { columns: columns.into(), ..Reading::default() };
        check(r#"{"text":"a","category":"b"}"#, renamed, "user: a|>assistant: b");
        let raw = Reading { raw: true, ..Reading::default() };
        check(r#"{"prompt":"a","completion":" b"}"#, raw, "a> b");
        let system = Reading { system: Some("s".into()), ..Reading::default() };
        check(r#"{"prompt":"a","completion":"b"}"#, system.clone(), "system: s|user: a|>assistant: b");
        check(
            r#"{"messages":[{"role":"system","content":"own"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
            system,
            "system: own|user: a|>assistant: b",
        );
    }

    #[test]
    fn rows_that_say_nothing_are_refused_with_the_reason() {
        let check = |row: &str, expected: &str| {
            let message = read_json(row, &Reading::default()).unwrap_err();
            assert!(message.contains(expected), "{row}: {message}");
        };
        check(r#"{}"#, "it has nothing");
        check(r#"{"question":"a","answer":"b"}"#, "it has `question`, `answer`; name columns by `columns`");
        check(r#"{"messages":[]}"#, "`messages` must have at least one message");
        check(r#"{"messages":[{"content":"a"}]}"#, "must be an array of messages: missing field `role`");
        check(r#"{"messages":[{"role":"user","content":"a"}]}"#, "there is nothing to learn");
        check(r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":" "}]}"#, "must not be empty");
        check(r#"{"messages":"[{"}"#, "is none: EOF");
        check(r#"{"instruction":"a","output":""}"#, "`output` must not be empty");
        check(r#"{"instruction":"","output":"b"}"#, "`instruction` must not be empty");
        check(r#"{"prompt":"a","completion":null}"#, "`completion` must not be empty");
        check(r#"{"prompt":"a","completion":{"x":1}}"#, "`completion` must be a text");
        check(r#"{"prompt":"a","chosen":"b","rejected":"b"}"#, "must differ");
        check(r#"{"conversations":[{"from":"bot","value":"a"}]}"#, "given `bot`");
    }
}
