//! A conversation to the tokens of a prompt that leaves room for its answer. Shared by everything that answers conversations;
//! what is dropped when it does not fit is decided in `context_window`.

use crate::Result;
use crate::chat::{Conversation, Message};
use crate::context_window::{ContextLimit, FittedPrompt, fit};
use crate::template::{ChatTemplate, TemplateOptions};
use crate::tokenizer::Tokenizer;

/// Room kept for an answer of unknown length, unless the context is small.
const ANSWER_ROOM: usize = 1024;

/// How much of the context a prompt may take.
#[derive(Debug, Clone, Copy)]
pub struct PromptRules {
    /// Tokens of prompt and answer together.
    pub context_len: usize,
    /// Tokens that the answer may have, if the user said so.
    pub max_tokens: Option<usize>,
    /// Refuse what does not fit instead of dropping the oldest turns.
    pub strict: bool,
}

/// The prompt for the next answer.
pub fn prompt(
    conversation: &Conversation,
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    rules: PromptRules,
    options: &TemplateOptions,
) -> Result<FittedPrompt> {
    let limit = |room: usize| ContextLimit { max_prompt_tokens: rules.context_len.saturating_sub(room), strict: rules.strict };
    let room = rules.answer_room();
    match fit(conversation, template, tokenizer, limit(room), options) {
        // A last message that leaves less room than wished is still answered, as far as the context goes.
        Err(crate::Error::ContextTooSmall { .. }) if room > 1 => fit(conversation, template, tokenizer, limit(1), options),
        fitted => fitted,
    }
}

impl PromptRules {
    /// Tokens kept free for the answer.
    pub fn answer_room(&self) -> usize {
        let wished = self.max_tokens.unwrap_or(ANSWER_ROOM.min(self.context_len / 4));
        wished.clamp(1, (self.context_len / 2).max(1))
    }
}

/// How to render for an answer; `thinking` is the template's switch, `None` leaves it alone.
pub fn answer_options(thinking: Option<bool>) -> TemplateOptions {
    let mut options = TemplateOptions::answer();
    if let Some(thinking) = thinking {
        options.kwargs.insert("enable_thinking".into(), thinking.into());
    }
    options
}

/// Whether the template has a switch for thinking: whether `enable_thinking` makes a difference.
pub fn has_thinking_switch(template: &ChatTemplate) -> Result<bool> {
    let conversation = Conversation::new(vec![Message::user("hi")]);
    let render = |thinking| template.render(&conversation, &answer_options(Some(thinking))).map(|prompt| prompt.text);
    Ok(render(true)? != render(false)?)
}

/// Whether the prompt already opened the model's thinking, which the answer then only closes.
pub fn opens_thinking(fitted: &FittedPrompt) -> bool {
    fitted.prompt.text.trim_end().ends_with(crate::thinking::OPEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_the_answer_is_kept() {
        let room = |context_len, max_tokens| PromptRules { context_len, max_tokens, strict: false }.answer_room();
        assert_eq!(room(262_144, None), 1024);
        assert_eq!(room(2048, None), 512);
        assert_eq!(room(2048, Some(100)), 100);
        assert_eq!(room(2048, Some(9000)), 1024);
        assert_eq!(room(1, None), 1);
    }
}
