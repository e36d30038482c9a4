//! What `chat` and `run` share about prompts: the template and whether it can do what was asked for, and what the user must
//! know of the context. The prompt itself is made in `qern_model::prompt`.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use qern_model::chat::{Conversation, Message};
use qern_model::context_window::ContextReport;
use qern_model::prompt::has_thinking_switch;
use qern_model::template::ChatTemplate;

use super::conversation::{Speaker, State};
use crate::loading::LoadedModel;

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
    if let Some(on) = thinking
        && !has_thinking_switch(template)?
    {
        let flag = if on { "--think" } else { "--no-think" };
        bail!("{flag} must be left out: the model's chat template has no switch for thinking");
    }
    Ok(())
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
