//! Fits a conversation into the context by leaving out its oldest turns, and says which. Never cuts within a turn, never
//! drops the system prompt, the tools or the last turn, never does anything silently.

use crate::batch::TokenId;
use crate::chat::Conversation;
use crate::template::{ChatTemplate, RenderedPrompt, TemplateOptions};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How long a prompt may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextLimit {
    /// Tokens of the prompt, the answer's not counted.
    pub max_prompt_tokens: usize,
    /// Refuse a conversation that is longer, instead of dropping turns.
    pub strict: bool,
}

/// A conversation that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FittedPrompt {
    /// The tokens of the prompt.
    pub tokens: Vec<TokenId>,
    /// Their text.
    pub prompt: RenderedPrompt,
    /// What was left out.
    pub report: ContextReport,
}

/// What became of a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextReport {
    /// Turns of the conversation.
    pub total_turns: usize,
    /// The oldest of them, which are not in the prompt.
    pub dropped_turns: usize,
    /// Tokens that the prompt is shorter by.
    pub dropped_tokens: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that it may have.
    pub limit: usize,
}

/// Renders a conversation, dropping as few of its oldest turns as needed. Costs one rendering if the whole fits, else the
/// logarithm of the number of turns.
pub fn fit(
    conversation: &Conversation,
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    limit: ContextLimit,
    options: &TemplateOptions,
) -> Result<FittedPrompt> {
    let render = |conversation: &Conversation| -> Result<(Vec<TokenId>, RenderedPrompt)> {
        let prompt = template.render(conversation, options)?;
        Ok((tokenizer.encode_prompt(&prompt)?, prompt))
    };
    let available = limit.max_prompt_tokens;
    let turns = conversation.turns();
    let whole = render(conversation)?;
    let whole_tokens = whole.0.len();

    // Invariant: dropping `too_few - 1` turns is too few; dropping `enough` is enough, and `fitting` is how it renders.
    let (mut too_few, mut enough, mut fitting) = (1, 0, whole);
    if whole_tokens > available {
        enough = turns.len().saturating_sub(1);
        if enough > 0 {
            fitting = render(&without_oldest(conversation, enough))?;
        }
        if fitting.0.len() > available {
            return Err(Error::ContextTooSmall { needed: fitting.0.len(), available });
        }
    }
    while too_few < enough {
        let middle = too_few + (enough - too_few) / 2;
        let candidate = render(&without_oldest(conversation, middle))?;
        if candidate.0.len() <= available {
            (enough, fitting) = (middle, candidate);
        } else {
            too_few = middle + 1;
        }
    }

    let (tokens, prompt) = fitting;
    let report = ContextReport {
        total_turns: turns.len(),
        dropped_turns: enough,
        dropped_tokens: whole_tokens.saturating_sub(tokens.len()),
        prompt_tokens: tokens.len(),
        limit: available,
    };
    if limit.strict && report.dropped_turns > 0 {
        return Err(Error::StrictContext {
            prompt_tokens: whole_tokens,
            limit: available,
            dropped_turns: report.dropped_turns,
            total_turns: report.total_turns,
            dropped_tokens: report.dropped_tokens,
        });
    }
    Ok(FittedPrompt { tokens, prompt, report })
}

/// The conversation without its first `num_turns` turns.
fn without_oldest(conversation: &Conversation, num_turns: usize) -> Conversation {
    let turns = conversation.turns();
    let (start, end) = match turns.get(..num_turns) {
        Some([first, .., last]) => (first.start, last.end),
        Some([only]) => (only.start, only.end),
        _ => return conversation.clone(),
    };
    let mut messages = conversation.messages[..start].to_vec();
    messages.extend_from_slice(&conversation.messages[end..]);
    Conversation { messages, tools: conversation.tools.clone() }
}
