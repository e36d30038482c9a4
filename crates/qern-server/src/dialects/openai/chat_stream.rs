//! A chat's answer as `chat.completion.chunk` events: the role once and first, one id throughout, a finishing chunk without
//! text, `[DONE]` last.

use axum::response::Response;
use axum::response::sse::Event;
use futures_util::stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;

use super::chat::{Common, FINGERPRINT};
use super::shapes::{Tally, chat_logprobs, context, finish_detail, finish_reason, stop_reason};
use crate::error::ApiError;
use crate::generate::{Delta, Finished, Generation};
use crate::sse;

struct Chunks {
    generation: Generation,
    common: Common,
    include_usage: bool,
    tally: Tally,
    /// Answers whose role was said.
    begun: Vec<bool>,
    ready: VecDeque<Event>,
    ended: bool,
}

/// Streams the answers.
pub(super) fn respond(generation: Generation, common: Common, include_usage: bool, ping_after: Duration) -> Response {
    let chunks = Chunks {
        generation,
        common,
        include_usage,
        tally: Tally::default(),
        begun: Vec::new(),
        ready: VecDeque::new(),
        ended: false,
    };
    sse::respond(stream::unfold(chunks, |mut chunks| async move { chunks.next().await.map(|event| (event, chunks)) }), ping_after)
}

impl Chunks {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.generation.next().await {
                Some(Ok(delta)) => self.take(delta),
                Some(Err(error)) => self.fail(&error),
                None => self.end(),
            }
        }
    }

    fn take(&mut self, delta: Delta) {
        match delta {
            // The role is said at once: clients show that the answer has begun.
            Delta::Started { .. } => self.begin(0),
            Delta::Prompt(_) => {}
            Delta::Text { index, reasoning, content, token } => {
                self.begin(index);
                let mut fields = json!({});
                if !reasoning.is_empty() {
                    fields["reasoning_content"] = reasoning.as_str().into();
                    fields["reasoning"] = reasoning.into();
                }
                if !content.is_empty() {
                    fields["content"] = content.into();
                }
                let logprob = token.and_then(|(_, logprob)| logprob).filter(|_| self.common.logprobs);
                let is_empty = fields.as_object().is_some_and(serde_json::Map::is_empty);
                if is_empty && logprob.is_none() {
                    return;
                }
                if is_empty {
                    // A token whose text is not whole yet: its log-probability goes with no text.
                    fields["content"] = "".into();
                }
                let logprobs = logprob.map_or(Value::Null, |logprob| chat_logprobs(std::iter::once(&logprob)));
                let choice = json!({"index": index, "delta": fields, "logprobs": logprobs, "finish_reason": null});
                self.send(vec![choice], None);
            }
            Delta::Finished(finished) => self.finish(&finished),
        }
    }

    fn begin(&mut self, index: usize) {
        if self.begun.len() <= index {
            self.begun.resize(index + 1, false);
        }
        if !std::mem::replace(&mut self.begun[index], true) {
            let delta = json!({"role": "assistant", "content": ""});
            self.send(vec![json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null})], None);
        }
    }

    fn finish(&mut self, finished: &Finished) {
        self.begin(finished.index);
        self.tally.add(finished);
        let choice = json!({
            "index": finished.index,
            "delta": {},
            "logprobs": null,
            "finish_reason": finish_reason(&finished.reason),
            "stop_reason": stop_reason(&finished.reason),
            "finish_detail": finish_detail(&finished.reason),
        });
        let report = self.context().filter(|_| finished.answers_left == 0);
        self.send(vec![choice], report);
    }

    fn end(&mut self) {
        if self.include_usage {
            let mut chunk = self.chunk(Vec::new());
            chunk["usage"] = self.tally.usage();
            if let Some(report) = self.context() {
                chunk["context"] = report;
            }
            self.ready.push_back(sse::data(&chunk));
        }
        self.ready.push_back(sse::done());
        self.ended = true;
    }

    fn fail(&mut self, error: &ApiError) {
        tracing::error!("an answer broke off: {}", error.message);
        self.ready.push_back(sse::data(&error.body()));
        self.ready.push_back(sse::done());
        self.ended = true;
    }

    fn context(&self) -> Option<Value> {
        self.common.report.as_ref().map(|report| context(report, self.common.model.context_len))
    }

    fn send(&mut self, choices: Vec<Value>, report: Option<Value>) {
        let mut chunk = self.chunk(choices);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        if let Some(report) = report {
            chunk["context"] = report;
        }
        self.ready.push_back(sse::data(&chunk));
    }

    fn chunk(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.common.id,
            "object": "chat.completion.chunk",
            "created": self.common.created,
            "model": self.common.name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }
}
