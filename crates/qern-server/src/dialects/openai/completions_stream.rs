//! Text completions as `text_completion` events; answers to several prompts come as they are made.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use axum::response::Response;
use axum::response::sse::Event;
use futures_util::stream::{self, SelectAll, Stream, StreamExt};
use serde_json::{Value, json};

use super::chat::FINGERPRINT;
use super::completions::{Common, Logprobs};
use super::shapes::{Tally, finish_detail, finish_reason, stop_reason};
use crate::error::ApiError;
use crate::generate::{Delta, Generation};
use crate::sse;

type Deltas = Pin<Box<dyn Stream<Item = (usize, Result<Delta, ApiError>)> + Send>>;

struct Chunks {
    deltas: SelectAll<Deltas>,
    common: Common,
    include_usage: bool,
    tallies: Vec<Tally>,
    answers: Vec<Answer>,
    ready: VecDeque<Event>,
    ended: bool,
}

/// What is known of an answer on its way.
struct Answer {
    begun: bool,
    logprobs: Logprobs,
}

/// Streams the answers.
pub(super) fn respond(generations: Vec<Generation>, common: Common, include_usage: bool, ping_after: Duration) -> Response {
    let deltas = generations.into_iter().enumerate().map(|(prompt, generation)| -> Deltas {
        Box::pin(stream::unfold(generation, move |mut generation| async move {
            generation.next().await.map(|delta| ((prompt, delta), generation))
        }))
    });
    let answers = (0..common.prompts.len() * common.n).map(|_| Answer { begun: false, logprobs: Logprobs::new(common.as_ids) });
    let chunks = Chunks {
        deltas: stream::select_all(deltas),
        include_usage,
        tallies: vec![Tally::default(); common.prompts.len()],
        answers: answers.collect(),
        common,
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
            match self.deltas.next().await {
                Some((prompt, Ok(delta))) => self.take(prompt, delta),
                Some((_, Err(error))) => {
                    tracing::error!("an answer broke off: {}", error.message);
                    self.ready.extend([sse::data(&error.body()), sse::done()]);
                    self.ended = true;
                }
                None => self.end(),
            }
        }
    }

    fn take(&mut self, prompt: usize, delta: Delta) {
        match delta {
            Delta::Started { .. } => {}
            Delta::Prompt(logprobs) => {
                for index in prompt * self.common.n..(prompt + 1) * self.common.n {
                    self.answers[index].logprobs.push_prompt(&self.common.prompts[prompt], &logprobs);
                }
            }
            Delta::Text { index, content, token, .. } => {
                let index = prompt * self.common.n + index;
                let text = self.begin(prompt, index) + &content;
                let logprob = token.and_then(|(_, logprob)| logprob);
                if let Some(logprob) = &logprob {
                    self.answers[index].logprobs.push(logprob);
                }
                if !text.is_empty() || logprob.is_some() {
                    self.send(index, &text, json!({"finish_reason": null}));
                }
            }
            Delta::Finished(finished) => {
                self.tallies[prompt].add(&finished);
                let index = prompt * self.common.n + finished.index;
                let text = self.begin(prompt, index);
                let reason = &finished.reason;
                let end = json!({
                    "finish_reason": finish_reason(reason),
                    "stop_reason": stop_reason(reason),
                    "finish_detail": finish_detail(reason),
                });
                self.send(index, &text, end);
            }
        }
    }

    /// The prompt, the first time, where it is to be given back.
    fn begin(&mut self, prompt: usize, index: usize) -> String {
        let begun = std::mem::replace(&mut self.answers[index].begun, true);
        if begun || !self.common.echo { String::new() } else { self.common.prompts[prompt].text.clone() }
    }

    fn send(&mut self, index: usize, text: &str, end: Value) {
        let logprobs = if self.common.logprobs { self.answers[index].logprobs.take() } else { Value::Null };
        let mut choice = json!({"index": index, "text": text, "logprobs": logprobs});
        if let (Some(choice), Value::Object(end)) = (choice.as_object_mut(), end) {
            choice.extend(end);
        }
        let mut chunk = self.chunk(vec![choice]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        self.ready.push_back(sse::data(&chunk));
    }

    fn end(&mut self) {
        if self.include_usage {
            let mut all = Tally::default();
            self.tallies.iter().for_each(|tally| all.join(*tally));
            let mut chunk = self.chunk(Vec::new());
            chunk["usage"] = all.usage();
            self.ready.push_back(sse::data(&chunk));
        }
        self.ready.push_back(sse::done());
        self.ended = true;
    }

    fn chunk(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.common.id,
            "object": "text_completion",
            "created": self.common.created,
            "model": self.common.name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }
}
