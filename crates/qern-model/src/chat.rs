//! Conversations as the OpenAI chat format writes them, losslessly: what a template may look at is kept, also what Qern has no
//! use for. Knows no templates and no tokens.

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Everything a template renders.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// In order of time.
    pub messages: Vec<Message>,
    /// Tools that the model may call, each as the request gave it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
}

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else a template knows.
    pub role: String,
    /// What it says. `None` for a `null` too, as templates see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Who says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Calls that an assistant makes: `{"id", "type": "function", "function": {"name", "arguments"}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// The call that a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What an assistant thought before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// All other fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts such as `{"type": "text", "text": "..."}`.
    Parts(Vec<Value>),
    /// An object, which some templates take as a tool's result.
    Object(Map<String, Value>),
}

impl Conversation {
    /// A conversation without tools.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, tools: Vec::new() }
    }

    /// The turns, as ranges of messages. A turn is a user's message and everything until the next one. Leading system and
    /// developer messages belong to no turn; anything else before the first user's message is a turn of its own.
    pub fn turns(&self) -> Vec<Range<usize>> {
        let first = self.messages.iter().take_while(|message| message.is_instruction()).count();
        let mut turns: Vec<Range<usize>> = Vec::new();
        for (index, message) in self.messages.iter().enumerate().skip(first) {
            match turns.last_mut() {
                Some(turn) if message.role != "user" => turn.end = index + 1,
                _ => turns.push(index..index + 1),
            }
        }
        turns
    }
}

impl Message {
    /// A message of text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(Content::Text(text.into())), ..Self::default() }
    }

    /// A system prompt.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new("system", text)
    }

    /// What the user says.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new("user", text)
    }

    /// What the model says.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new("assistant", text)
    }

    /// Whether it instructs the model rather than talks to it.
    pub fn is_instruction(&self) -> bool {
        matches!(self.role.as_str(), "system" | "developer")
    }

    /// The text of the content; empty without any.
    pub fn text(&self) -> Cow<'_, str> {
        self.content.as_ref().and_then(Content::text).unwrap_or_default()
    }
}

impl Content {
    /// The text, that of parts joined by line ends; `None` when something in it is no text.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(text.into()),
            Self::Parts(parts) => {
                let texts: Option<Vec<&str>> = parts.iter().map(|part| part.as_str().or_else(|| part["text"].as_str())).collect();
                texts.map(|texts| texts.join("\n").into())
            }
            Self::Object(_) => None,
        }
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one turn is meant, not its numbers")]
    fn a_turn_is_a_users_message_and_all_that_follows() {
        let check = |roles: &str, expected: &[Range<usize>]| {
            let messages = roles.split_whitespace().map(|role| Message::new(role, "x")).collect();
            assert_eq!(Conversation::new(messages).turns(), expected, "{roles}");
        };
        check("", &[]);
        check("system", &[]);
        check("user", &[0..1]);
        check("system user assistant user", &[1..3, 3..4]);
        check("system developer user assistant tool assistant user assistant", &[2..6, 6..8]);
        check("assistant user", &[0..1, 1..2]);
        check("user system user", &[0..2, 2..3]);
    }

    #[test]
    fn openai_messages_survive_a_round_trip() {
        let text = r#"{"role":"assistant","content":"a","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}],"refusal":null}"#;
        let message: Message = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
        assert_eq!(serde_json::from_str::<Message>(r#"{"role":"user","content":null}"#).unwrap().content, None);
        let parts: Message =
            serde_json::from_str(r#"{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#).unwrap();
        assert_eq!(parts.text(), "a\nb");
    }
}
