//! The machine-readable form of a run: one object on one line, always with the same keys.
//!
//! `text` and `finish_reason` are those of the first answer; `answers` has all of them. `finish_reason` is one of `stop`,
//! `stop_string`, `length`, `context`, `cancelled`. Seconds and natural logarithms throughout.

use qern_engine::constraint::FieldConfidence;
use qern_engine::{FinishReason, TokenLogprob};
use qern_model::context_window::ContextReport;
use serde_json::{Map, Value, json};

use crate::session::generate::{Answer, Outcome, reason_name};
use crate::session::report::rate;

/// What the outcome does not know.
pub struct Run<'a> {
    pub model: &'a str,
    pub load_seconds: f64,
    pub report: Option<ContextReport>,
    pub context_len: usize,
    /// Whether to say how probable each value was.
    pub confidence: bool,
}

impl Run<'_> {
    /// The object.
    pub fn object(&self, outcome: &Outcome) -> Value {
        let none = Answer::default();
        let first = outcome.answers.first().unwrap_or(&none);
        let generated: usize = outcome.answers.iter().map(|answer| answer.usage.generated_tokens).sum();
        let prompt_tokens = first.usage.prompt_tokens;
        let decode_seconds = outcome.answers.iter().map(|answer| answer.usage.decode_seconds).fold(0.0, f64::max);
        json!({
            "model": self.model,
            "text": first.text,
            "finish_reason": reason_name(first.reason.as_ref()),
            "answers": outcome.answers.iter().map(|one| answer(one, self.confidence)).collect::<Vec<_>>(),
            "seed": outcome.seed,
            "usage": {
                "prompt_tokens": prompt_tokens,
                "generated_tokens": generated,
                "total_tokens": prompt_tokens + generated,
            },
            "timings": {
                "load_seconds": self.load_seconds,
                "queued_seconds": outcome.queued_seconds,
                "time_to_first_token": first.usage.time_to_first_token,
                "prefill_seconds": first.usage.prefill_seconds,
                "prefill_tokens_per_second": rate(prompt_tokens, first.usage.prefill_seconds),
                "decode_seconds": decode_seconds,
                "decode_tokens_per_second": rate(generated.saturating_sub(outcome.answers.len()), decode_seconds),
            },
            "context": {
                "length": self.context_len,
                "prompt_limit": self.report.map(|report| report.limit),
                "total_turns": self.report.map(|report| report.total_turns),
                "dropped_turns": self.report.map_or(0, |report| report.dropped_turns),
                "dropped_tokens": self.report.map_or(0, |report| report.dropped_tokens),
            },
        })
    }
}

fn answer(answer: &Answer, confidence: bool) -> Value {
    let mut object = Map::new();
    object.insert("text".into(), answer.text.as_str().into());
    object.insert("finish_reason".into(), reason_name(answer.reason.as_ref()).into());
    if let Some(FinishReason::StopString(stop)) = &answer.reason {
        object.insert("stop_string".into(), stop.as_str().into());
    }
    object.insert("generated_tokens".into(), answer.usage.generated_tokens.into());
    object.insert("tokens".into(), answer.tokens.clone().into());
    if let Some(score) = answer.score {
        object.insert("score".into(), score.into());
    }
    if confidence {
        let field = |field: FieldConfidence| json!({ "path": field.path, "value": field.text, "probability": field.probability });
        object.insert("confidence".into(), answer.confidence().into_iter().map(field).collect());
    }
    if answer.usage.forced_tokens > 0 {
        object.insert("forced_tokens".into(), answer.usage.forced_tokens.into());
    }
    if !answer.logprobs.is_empty() {
        object.insert("logprobs".into(), answer.logprobs.iter().map(logprob).collect());
    }
    object.into()
}

fn logprob(token: &TokenLogprob) -> Value {
    let one = |id: u32, bytes: &[u8], logprob: f32| json!({ "id": id, "token": String::from_utf8_lossy(bytes), "bytes": bytes, "logprob": logprob });
    let mut object = one(token.id, &token.bytes, token.logprob);
    if let Some(constrained) = token.constrained {
        object["constrained"] = constrained.into();
    }
    object["top"] = token.top.iter().map(|top| one(top.id, &top.bytes, top.logprob)).collect();
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use qern_engine::{TopLogprob, Usage};

    #[test]
    fn the_object_has_everything_a_script_asks_for() {
        let usage =
            Usage { prompt_tokens: 10, generated_tokens: 3, prefill_seconds: 0.5, decode_seconds: 1.0, ..Usage::default() };
        let top = TopLogprob { id: 7, bytes: vec![0xc3], logprob: -0.25 };
        let token = TokenLogprob { id: 7, bytes: vec![0xc3], logprob: -0.25, constrained: None, top: vec![top] };
        let first = Answer {
            text: "Hi".into(),
            tokens: vec![7, 8],
            logprobs: vec![token],
            reason: Some(FinishReason::StopString("###".into())),
            usage,
            ..Answer::default()
        };
        let second = Answer { score: Some(-1.5), usage, ..Answer::default() };
        let outcome = Outcome { answers: vec![first, second], seed: 42, ..Outcome::default() };
        let report = ContextReport { total_turns: 1, limit: 100, ..ContextReport::default() };
        let object =
            Run { model: "m", load_seconds: 0.1, report: Some(report), context_len: 128, confidence: false }.object(&outcome);
        assert_eq!(object["text"], "Hi");
        assert_eq!(object["finish_reason"], "stop_string");
        assert_eq!(object["answers"][0]["stop_string"], "###");
        assert_eq!(object["answers"][1]["finish_reason"], "cancelled");
        assert_eq!(object["usage"], json!({"prompt_tokens": 10, "generated_tokens": 6, "total_tokens": 16}));
        assert_eq!(object["timings"]["prefill_tokens_per_second"], 20.0);
        assert_eq!(object["timings"]["decode_tokens_per_second"], 4.0);
        assert_eq!(object["answers"][0]["logprobs"][0]["top"][0]["bytes"], json!([0xc3]));
        assert_eq!(object["seed"], 42);
        assert_eq!(object["context"]["prompt_limit"], 100);
    }

    #[test]
    fn a_run_that_was_stopped_before_its_first_token_has_the_same_keys() {
        let object =
            Run { model: "m", load_seconds: 0.0, report: None, context_len: 1, confidence: false }.object(&Outcome::default());
        assert_eq!(object["text"], "");
        assert_eq!(object["finish_reason"], "cancelled");
        assert_eq!(object["answers"], json!([]));
        assert_eq!(object["context"]["prompt_limit"], Value::Null);
    }
}
