//! The parts that OpenAI's answers are made of: usage, log-probabilities, reasons, and the context report that Qern adds.

use qern_engine::{FinishReason, TokenLogprob};
use qern_model::context_window::ContextReport;
use serde_json::{Map, Value, json};

use crate::generate::Finished;

/// Tokens that a request took, over all its answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    prompt: usize,
    cached: usize,
    generated: usize,
    reasoning: usize,
}

impl Tally {
    /// Adds an answer. The prompt is shared by the answers of a request, and counted once.
    pub fn add(&mut self, finished: &Finished) {
        self.prompt = self.prompt.max(finished.usage.prompt_tokens);
        self.cached = self.cached.max(finished.usage.cached_tokens);
        self.generated += finished.usage.generated_tokens;
        self.reasoning += finished.reasoning_tokens;
    }

    /// Adds another request.
    pub fn join(&mut self, other: Self) {
        self.prompt += other.prompt;
        self.cached += other.cached;
        self.generated += other.generated;
        self.reasoning += other.reasoning;
    }

    /// The `usage` object.
    pub fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        })
    }
}

/// OpenAI's word for why an answer ended. Ends that it has no word for are `length`: the answer is not whole.
pub(crate) fn finish_reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop | FinishReason::StopString(_) => "stop",
        FinishReason::Length | FinishReason::Context | FinishReason::Deadline | FinishReason::Cancelled => "length",
    }
}

/// Our word for it, which tells them all apart.
pub(crate) fn finish_detail(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "end_token",
        FinishReason::StopString(_) => "stop_string",
        FinishReason::Length => "max_tokens",
        FinishReason::Context => "context_full",
        FinishReason::Deadline => "deadline",
        FinishReason::Cancelled => "cancelled",
    }
}

/// The stop string that ended an answer, as vLLM gives it.
pub(crate) fn stop_reason(reason: &FinishReason) -> Value {
    match reason {
        FinishReason::StopString(text) => text.as_str().into(),
        _ => Value::Null,
    }
}

/// What became of the conversation.
pub(crate) fn context(report: &ContextReport, context_len: usize) -> Value {
    json!({
        "length": context_len,
        "prompt_tokens": report.prompt_tokens,
        "prompt_limit": report.limit,
        "turns": report.total_turns,
        "turns_dropped": report.dropped_turns,
        "tokens_dropped": report.dropped_tokens,
    })
}

/// The same for a head.
pub(crate) fn context_header(report: &ContextReport) -> String {
    let ContextReport { total_turns, dropped_turns, dropped_tokens, prompt_tokens, .. } = report;
    format!("turns={total_turns}, turns_dropped={dropped_turns}, tokens_dropped={dropped_tokens}, prompt_tokens={prompt_tokens}")
}

/// A log-probability that JSON can hold, in as few digits as tell it from its neighbours; OpenAI's number for what cannot happen.
pub(crate) fn finite(logprob: f32) -> f64 {
    let logprob = logprob.max(-9999.0);
    // Widening as it is would write sixteen digits of which eight say nothing.
    logprob.to_string().parse().unwrap_or_else(|_| logprob.into())
}

/// Chat's `logprobs.content` entry of a token.
pub(crate) fn chat_logprob(token: &TokenLogprob) -> Value {
    let one = |bytes: &[u8], logprob: f32| {
        let mut object = Map::new();
        object.insert("token".into(), String::from_utf8_lossy(bytes).into());
        object.insert("logprob".into(), finite(logprob).into());
        object.insert("bytes".into(), bytes.into());
        object
    };
    let mut object = one(&token.bytes, token.logprob);
    object.insert("top_logprobs".into(), token.top.iter().map(|top| Value::Object(one(&top.bytes, top.logprob))).collect());
    object.into()
}

/// Chat's `logprobs` of some tokens.
pub(crate) fn chat_logprobs<'a>(tokens: impl Iterator<Item = &'a TokenLogprob>) -> Value {
    json!({"content": tokens.map(chat_logprob).collect::<Vec<_>>(), "refusal": null})
}
