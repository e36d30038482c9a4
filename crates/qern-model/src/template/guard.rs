//! Keeps special-token text of messages apart from that of the template. Before rendering, a character that occurs nowhere
//! else is put into every such text; afterwards it shows which of them came through, and is taken out. Templates may trim,
//! split and repeat what they like.

use serde_json::{Map, Value};

use super::adapt::Values;
use super::{RenderedPrompt, error};
use crate::Result;

pub struct Guard<'a> {
    tokens: &'a [(String, bool)],
    nonce: char,
}

/// Which tokens a text must not contain.
#[derive(Clone, Copy, PartialEq)]
enum Against {
    /// Any: the text of users and tools.
    All,
    /// Special ones. What an assistant said holds `<think>` and `<tool_call>` in their own right, and templates look for them.
    Special,
}

impl<'a> Guard<'a> {
    /// Finds a character to mark with. Unicode has reserved U+FDD0 to U+FDEF for such use within a program.
    pub fn new(tokens: &'a [(String, bool)], values: &Values, kwargs: &Map<String, Value>) -> Result<Self> {
        let mut used = 0_u32;
        let mut note = |text: &mut String| {
            used |=
                text.chars().filter(|c| ('\u{FDD0}'..='\u{FDEF}').contains(c)).fold(0, |used, c| used | 1 << (c as u32 - 0xFDD0));
        };
        let (mut values, mut kwargs) = (values.clone(), kwargs.clone());
        for fields in &mut values.messages {
            for_each_text(fields, &mut note);
        }
        values.tools.iter_mut().for_each(|tool| for_each_text_in(tool, &mut note));
        for_each_text(&mut kwargs, &mut note);
        let free = (0..32).find(|bit| used & (1 << bit) == 0).and_then(|bit| char::from_u32(0xFDD0 + bit));
        let nonce = free.ok_or_else(|| error("messages must not use all of the noncharacters U+FDD0 to U+FDEF"))?;
        Ok(Self { tokens, nonce })
    }

    /// Marks every string of messages, tools and variables.
    pub fn mark(&self, values: &mut Values, kwargs: &mut Map<String, Value>) {
        if self.tokens.is_empty() {
            return;
        }
        let all = &mut |text: &mut String| self.mark_text(text, Against::All);
        for fields in &mut values.messages {
            let is_assistant = fields.get("role").is_some_and(|role| role == "assistant");
            let spoken: Vec<_> = ["content", "reasoning_content", "reasoning", "thinking"]
                .into_iter()
                .filter(|_| is_assistant)
                .filter_map(|name| Some((name, fields.get(name)?.clone())))
                .collect();
            for_each_text(fields, all);
            for (name, mut value) in spoken {
                for_each_text_in(&mut value, &mut |text| self.mark_text(text, Against::Special));
                fields.insert(name.into(), value);
            }
        }
        values.tools.iter_mut().for_each(|tool| for_each_text_in(tool, all));
        for_each_text(kwargs, all);
    }

    /// Puts the mark behind the first character of each token's text, overlapping ones too.
    fn mark_text(&self, text: &mut String, against: Against) {
        let mut marked = String::new();
        let mut end = 0;
        for (at, first) in text.char_indices() {
            if self.longest_at(text, at, against).is_some() {
                let next = at + first.len_utf8();
                marked.push_str(&text[end..next]);
                marked.push(self.nonce);
                end = next;
            }
        }
        if end > 0 {
            marked.push_str(&text[end..]);
            *text = marked;
        }
    }

    /// The length of the longest token that begins at a byte.
    fn longest_at(&self, text: &str, at: usize, against: Against) -> Option<usize> {
        let rest = &text.as_bytes()[at..];
        let tokens = self.tokens.iter().filter(|(_, special)| *special || against == Against::All);
        tokens.filter(|(token, _)| rest.starts_with(token.as_bytes())).map(|(token, _)| token.len()).max()
    }

    /// Takes the marks out and says where they were.
    pub fn unmark(&self, marked: &str) -> RenderedPrompt {
        let mut prompt = RenderedPrompt { text: marked.replace(self.nonce, ""), plain: Vec::new() };
        let mut removed = 0;
        for (at, _) in marked.match_indices(self.nonce) {
            let at = at - removed;
            removed += self.nonce.len_utf8();
            let start = prompt.text[..at].char_indices().next_back().map_or(0, |(index, _)| index);
            // A template may have changed the text (`upper`): then just the place of the mark.
            let next = at + prompt.text[at..].chars().next().map_or(0, char::len_utf8);
            let end = self.longest_at(&prompt.text, start, Against::All).map_or(next, |len| start + len);
            match prompt.plain.last_mut() {
                Some(last) if start < last.end => last.end = last.end.max(end),
                _ if start < end => prompt.plain.push(start..end),
                _ => {}
            }
        }
        prompt
    }
}

/// Visits the keys and values of an object.
fn for_each_text(fields: &mut Map<String, Value>, visit: &mut impl FnMut(&mut String)) {
    let renamed = std::mem::take(fields).into_iter().map(|(mut key, mut value)| {
        visit(&mut key);
        for_each_text_in(&mut value, visit);
        (key, value)
    });
    *fields = renamed.collect();
}

fn for_each_text_in(value: &mut Value, visit: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(values) => values.iter_mut().for_each(|value| for_each_text_in(value, visit)),
        Value::Object(fields) => for_each_text(fields, visit),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
