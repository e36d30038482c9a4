//! A conversation to the tokens of a prompt, within the context, saying what was left out. Shared by `chat` and `run`.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use qern_model::chat::{Conversation, Message};
use qern_model::context_window::{ContextLimit, ContextReport, FittedPrompt, fit};
use qern_model::template::{ChatTemplate, TemplateOptions};
use qern_model::tokenizer::Tokenizer;

use super::conversation::{Speaker, State};
use crate::loading::LoadedModel;

/// Room kept for an answer of unknown length, unless the context is small.
const ANSWER_ROOM: usize = 1024;

/// How a prompt is made.
#[derive(Debug, Clone, Copy)]
pub struct PromptRules {
    /// Tokens of prompt and answer together.
    pub context_len: usize,
    /// Tokens that the answer may have, if the user said so.
    pub max_tokens: Option<usize>,
    /// Refuse what does not fit instead of dropping the oldest turns.
    pub strict: bool,
    /// The template's switch for thinking; `None` leaves it alone.
    pub thinking: Option<bool>,
}

/// The prompt for the next answer.
pub fn prompt(
    conversation: &Conversation,
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    rules: PromptRules,
) -> qern_model::Result<FittedPrompt> {
    let options = template_options(rules.thinking);
    let limit = |room: usize| ContextLimit { max_prompt_tokens: rules.context_len.saturating_sub(room), strict: rules.strict };
    let room = rules.answer_room();
    match fit(conversation, template, tokenizer, limit(room), &options) {
        // A last message that leaves less room than wished is still answered, as far as the context goes.
        Err(qern_model::Error::ContextTooSmall { .. }) if room > 1 => fit(conversation, template, tokenizer, limit(1), &options),
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

/// The messages of a chat as the template takes them.
pub fn conversation_of(state: &State) -> Conversation {
    let system = state.system.iter().map(Message::system);
    let turns = state.turns.iter().map(|turn| match turn.speaker {
        Speaker::User => Message::user(&*turn.text),
        Speaker::Assistant => Message::assistant(&*turn.text),
    });
    Conversation::new(system.chain(turns).collect())
}

/// What the user must know about the context, if anything was left out.
pub fn dropped_note(report: &ContextReport, context_len: usize) -> Option<String> {
    let turns = match report.dropped_turns {
        0 => return None,
        1 => "the oldest turn".to_string(),
        turns => format!("the {turns} oldest turns"),
    };
    let verb = if report.dropped_turns == 1 { "does not fit ... and was" } else { "do not fit ... and were" };
    let verb = verb.replace("...", &format!("the context of {context_len} tokens"));
    Some(format!("{turns} ({} tokens) {verb} left out", report.dropped_tokens))
}

/// Whether the prompt already opened the model's thinking, which the answer then only closes.
pub fn opens_thinking(fitted: &FittedPrompt) -> bool {
    fitted.prompt.text.trim_end().ends_with("<think>")
}

/// The template in a file, or else the model's own, which is taken out of it.
pub fn template_for(model: &mut LoadedModel, file: Option<&Path>) -> anyhow::Result<ChatTemplate> {
    let Some(file) = file else {
        let missing =
            "the model has no chat template; name one by `--chat-template FILE`, or complete plain text by `qern run --raw`";
        return model.template.take().context(missing);
    };
    let source = std::fs::read_to_string(file).with_context(|| format!("cannot read the chat template {}", file.display()))?;
    let template = ChatTemplate::new(&source, model.tokenizer.template_tokens());
    template.with_context(|| format!("the chat template {} cannot be used", file.display()))
}

/// Refuses what the template would ignore: a system prompt that it does not show, a switch that it does not have.
pub fn check_template(template: &ChatTemplate, has_system: bool, thinking: Option<bool>) -> anyhow::Result<()> {
    ensure!(
        !has_system || template.capabilities().system,
        "the model's chat template has no place for a system prompt; put what it says into the message"
    );
    if let Some(on) = thinking {
        let conversation = Conversation::new(vec![Message::user("hi")]);
        let render = |thinking| template.render(&conversation, &template_options(Some(thinking))).map(|prompt| prompt.text);
        if render(true)? == render(false)? {
            let flag = if on { "--think" } else { "--no-think" };
            bail!("{flag} must be left out: the model's chat template has no switch for thinking");
        }
    }
    Ok(())
}

fn template_options(thinking: Option<bool>) -> TemplateOptions {
    let mut options = TemplateOptions::answer();
    if let Some(thinking) = thinking {
        options.kwargs.insert("enable_thinking".into(), thinking.into());
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_is_said() {
        let note = |dropped_turns, dropped_tokens| {
            dropped_note(&ContextReport { dropped_turns, dropped_tokens, ..ContextReport::default() }, 2048)
        };
        assert_eq!(note(0, 0), None);
        let one = "the oldest turn (90 tokens) does not fit the context of 2048 tokens and was left out";
        assert_eq!(note(1, 90).as_deref(), Some(one));
        let three = "the 3 oldest turns (412 tokens) do not fit the context of 2048 tokens and were left out";
        assert_eq!(note(3, 412).as_deref(), Some(three));
    }

    #[test]
    fn room_for_the_answer_is_kept() {
        let room = |context_len, max_tokens| PromptRules { context_len, max_tokens, strict: false, thinking: None }.answer_room();
        assert_eq!(room(262_144, None), 1024);
        assert_eq!(room(2048, None), 512);
        assert_eq!(room(2048, Some(100)), 100);
        assert_eq!(room(2048, Some(9000)), 1024);
        assert_eq!(room(1, None), 1);
    }

    #[test]
    fn switches_that_the_template_lacks_are_refused() {
        let template = |source: &str| ChatTemplate::new(source, Default::default()).unwrap();
        let without = template("{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}");
        let with = template("{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking %}<think>{% endif %}");
        assert!(check_template(&without, false, None).is_ok());
        assert!(check_template(&without, true, None).unwrap_err().to_string().contains("no place for a system prompt"));
        assert!(check_template(&without, false, Some(true)).unwrap_err().to_string().contains("--think must be left out"));
        assert!(check_template(&with, true, Some(false)).is_ok());
    }
}
