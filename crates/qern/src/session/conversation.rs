//! What was said, and the way back: every change keeps the state before it. No tokens, no model.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Who said it.
    #[serde(rename = "role")]
    pub speaker: Speaker,
    /// What was said, thinking included.
    #[serde(rename = "content")]
    pub text: String,
    /// The user stopped the answer before its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

/// What the model is to be, and what was said so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The system prompt.
    pub system: Option<String>,
    /// The messages in order; users and the model take turns, the user first.
    pub turns: Vec<Arc<Turn>>,
}

/// A conversation with its past states.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    state: State,
    past: Vec<Change>,
}

#[derive(Debug, Clone)]
struct Change {
    before: State,
    what: &'static str,
}

/// States kept for `/undo`; they share their messages.
const MAX_PAST: usize = 1000;

impl Conversation {
    /// A conversation that nothing was said in yet.
    pub fn new(system: Option<String>) -> Self {
        Self { state: State { system, turns: Vec::new() }, past: Vec::new() }
    }

    /// The present state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The user says something. Undone together with the answer.
    pub fn ask(&mut self, text: String) {
        self.change("the last turn", |state| {
            state.turns.push(Arc::new(Turn { speaker: Speaker::User, text, stopped: false }));
        });
    }

    /// The model answers.
    pub fn answer(&mut self, text: String, stopped: bool) {
        self.state.turns.push(Arc::new(Turn { speaker: Speaker::Assistant, text, stopped }));
    }

    /// Takes the last answer away so that the last message is answered again.
    pub fn retry(&mut self) -> Result<(), String> {
        let asked = self.state.turns.iter().rposition(|turn| turn.speaker == Speaker::User);
        let asked = asked.ok_or("there is nothing to answer again yet; say something first")?;
        self.change("the retry", |state| state.turns.truncate(asked + 1));
        Ok(())
    }

    /// Replaces the system prompt.
    pub fn set_system(&mut self, system: Option<String>) {
        self.change("the change of the system prompt", |state| state.system = system);
    }

    /// Forgets what was said.
    pub fn clear(&mut self) {
        self.change("the /clear", |state| state.turns.clear());
    }

    /// Continues from another state.
    pub fn replace(&mut self, state: State) {
        self.change("the /load", |old| *old = state);
    }

    /// Goes back to before the last change and says what that was.
    pub fn undo(&mut self) -> Result<&'static str, String> {
        let change = self.past.pop().ok_or("there is nothing to undo")?;
        self.state = change.before;
        Ok(change.what)
    }

    fn change(&mut self, what: &'static str, edit: impl FnOnce(&mut State)) {
        if self.past.len() == MAX_PAST {
            self.past.remove(0);
        }
        self.past.push(Change { before: self.state.clone(), what });
        edit(&mut self.state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(conversation: &Conversation) -> Vec<&str> {
        conversation.state().turns.iter().map(|turn| turn.text.as_str()).collect()
    }

    fn two_turns() -> Conversation {
        let mut conversation = Conversation::new(None);
        for (question, answer) in [("a?", "A"), ("b?", "B")] {
            conversation.ask(question.into());
            conversation.answer(answer.into(), false);
        }
        conversation
    }

    #[test]
    fn undo_takes_back_whole_turns_down_to_the_start() {
        let mut conversation = two_turns();
        assert_eq!(conversation.undo(), Ok("the last turn"));
        assert_eq!(said(&conversation), ["a?", "A"]);
        assert_eq!(conversation.undo(), Ok("the last turn"));
        assert_eq!(conversation.undo(), Err("there is nothing to undo".into()));
    }

    #[test]
    fn retry_keeps_the_question_and_undo_brings_the_old_answer_back() {
        let mut conversation = two_turns();
        conversation.retry().unwrap();
        assert_eq!(said(&conversation), ["a?", "A", "b?"]);
        conversation.answer("B2".into(), true);
        assert_eq!(conversation.undo(), Ok("the retry"));
        assert_eq!(said(&conversation), ["a?", "A", "b?", "B"]);
        assert!(Conversation::new(None).retry().is_err());
    }

    #[test]
    fn clearing_and_a_new_system_prompt_can_be_undone() {
        let mut conversation = two_turns();
        conversation.set_system(Some("be brief".into()));
        conversation.clear();
        assert!(said(&conversation).is_empty());
        assert_eq!(conversation.state().system.as_deref(), Some("be brief"));
        conversation.undo().unwrap();
        assert_eq!(said(&conversation).len(), 4);
        conversation.undo().unwrap();
        assert_eq!(conversation.state().system, None);
    }
}
