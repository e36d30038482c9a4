//! From a valid request to its answers: listens to the engine, hands text on as it comes, stops when asked to. Shared by
//! `qern chat` and `qern run`. Not how a prompt is made, and not how text looks.

use std::io;
use std::time::Duration;

use qern_engine::constraint::{FieldConfidence, field_confidence};
use qern_engine::{EngineHandle, Error, Event, FinishReason, RequestStream, TokenId, TokenLogprob, Usage, ValidRequest};

/// How often a wish to stop is looked for while the engine is silent.
const POLL: Duration = Duration::from_millis(30);

/// Someone who follows the answers as they come.
pub trait Follower {
    /// Part of the prompt has been computed.
    fn prefilling(&mut self, _computed: usize, _total: usize) {}

    /// More text of answer `index`. An error ends the generation.
    fn text(&mut self, index: usize, text: &str) -> io::Result<()>;

    /// Answer `index` is complete.
    fn finished(&mut self, _index: usize) -> io::Result<()> {
        Ok(())
    }

    /// Whether the user wants it to stop; asked often, answers yes once per wish.
    fn wants_stop(&mut self) -> bool;
}

/// Everything a request gave.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The answers by index; one unless `n` said otherwise.
    pub answers: Vec<Answer>,
    /// The seed in use.
    pub seed: u64,
    /// Seconds in the queue.
    pub queued_seconds: f64,
    /// The user stopped it.
    pub stopped: bool,
}

/// One answer.
#[derive(Debug, Default)]
pub struct Answer {
    /// The whole text.
    pub text: String,
    /// Its tokens, without those that end it.
    pub tokens: Vec<TokenId>,
    /// Per token, if asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// With beam search.
    pub score: Option<f32>,
    /// Why it ended; `None` if it was abandoned.
    pub reason: Option<FinishReason>,
    /// What it took.
    pub usage: Usage,
}

impl Answer {
    /// How probable each value of a JSON answer was; needs log-probabilities under a constraint.
    pub fn confidence(&self) -> Vec<FieldConfidence> {
        field_confidence(self.logprobs.iter().map(|token| (token.bytes.as_slice(), token.constrained.unwrap_or(token.logprob))))
    }

    /// The user stopped it before its end.
    pub fn was_stopped(&self) -> bool {
        matches!(self.reason, None | Some(FinishReason::Cancelled))
    }
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] Error),
    /// The follower could not take the text.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

/// Runs a request to its end.
pub fn generate(engine: &EngineHandle, request: ValidRequest, follower: &mut impl Follower) -> Result<Outcome, Failure> {
    let mut stream = engine.submit(request)?;
    let mut outcome = Outcome::default();
    while let Some(event) = next_event(&mut stream, &mut outcome, follower) {
        match event {
            Event::Started { seed, queued_seconds, .. } => (outcome.seed, outcome.queued_seconds) = (seed, queued_seconds),
            Event::Prefilling { computed, total } => follower.prefilling(computed, total),
            Event::PromptLogprobs { .. } => {}
            Event::Token { index, id, text, logprob } => {
                let answer = outcome.answer(index);
                answer.tokens.push(id);
                answer.logprobs.extend(logprob);
                answer.text.push_str(&text);
                show(follower, index, &text)?;
            }
            Event::Finished { index, text, beam, reason, usage, .. } => {
                let answer = outcome.answer(index);
                answer.text.push_str(&text);
                (answer.reason, answer.usage) = (Some(reason), usage);
                if let Some(beam) = beam {
                    (answer.tokens, answer.score) = (beam.tokens, Some(beam.score));
                }
                show(follower, index, &text)?;
                follower.finished(index)?;
            }
            Event::Failed(error) => return Err(error.into()),
        }
    }
    Ok(outcome)
}

/// The next event, cancelling the request when the user wants to stop, and giving it up when they insist.
fn next_event(stream: &mut RequestStream, outcome: &mut Outcome, follower: &mut impl Follower) -> Option<Event> {
    loop {
        if follower.wants_stop() {
            if outcome.stopped {
                return None;
            }
            outcome.stopped = true;
            stream.cancel();
        }
        if let Ok(event) = stream.next_timeout(POLL) {
            return event;
        }
    }
}

fn show(follower: &mut impl Follower, index: usize, text: &str) -> io::Result<()> {
    if text.is_empty() { Ok(()) } else { follower.text(index, text) }
}

impl Outcome {
    fn answer(&mut self, index: usize) -> &mut Answer {
        if self.answers.len() <= index {
            self.answers.resize_with(index + 1, Answer::default);
        }
        &mut self.answers[index]
    }
}

/// The word for a finish reason in machine-readable output.
pub fn reason_name(reason: Option<&FinishReason>) -> &'static str {
    match reason {
        Some(FinishReason::Stop) => "stop",
        Some(FinishReason::StopString(_)) => "stop_string",
        Some(FinishReason::Length) => "length",
        Some(FinishReason::Context) => "context",
        Some(FinishReason::Deadline) => "deadline",
        Some(FinishReason::Cancelled) | None => "cancelled",
    }
}
