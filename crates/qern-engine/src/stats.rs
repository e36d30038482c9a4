//! What the engine has done and holds: counts that requests add to, and the snapshot that is published after every step. No
//! histograms, no names of any metrics system.

use std::ops::AddAssign;
use std::sync::{Arc, Mutex, PoisonError};

use crate::FinishReason;

/// The engine as it was when its last step ended. Counts are since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that have pages and are computed (each input to embed is one).
    pub running: usize,
    /// Requests in the queue, those that were set back included.
    pub waiting: usize,
    /// Pages of the pool.
    pub num_pages: usize,
    /// Pages that hold nothing.
    pub free_pages: usize,
    /// Pages that nothing but a prefix cache holds: none, as there is none yet.
    pub cached_pages: usize,
    /// Steps run.
    pub steps: u64,
    /// Tokens computed in all steps: prompts, answers, and again what was set back.
    pub computed_tokens: u64,
    /// Requests that were set back to be computed again, because pages ran out.
    pub preemptions: u64,
    /// What requests came to.
    pub counts: Counts,
}

/// What requests came to since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Prompt tokens of the requests that left the queue.
    pub prompt_tokens: u64,
    /// Those of them that were not computed again: none, as there is no prefix cache yet.
    pub cached_tokens: u64,
    /// Tokens sampled.
    pub generated_tokens: u64,
    /// Tokens that were drafted for an answer: none, as there is no speculation yet.
    pub drafted_tokens: u64,
    /// Those of them that the sampler then chose.
    pub accepted_tokens: u64,
    /// Answers that a model ended, or a stop token; and inputs embedded.
    pub finished_stop: u64,
    /// Answers that a stop string ended.
    pub finished_stop_string: u64,
    /// Answers that reached `max_tokens`.
    pub finished_length: u64,
    /// Answers that filled the context or the memory for it.
    pub finished_context: u64,
    /// Answers that ran out of time.
    pub finished_deadline: u64,
    /// Answers that were cancelled.
    pub cancelled: u64,
    /// Requests that failed.
    pub failed: u64,
}

impl Counts {
    /// One answer has ended.
    pub(crate) fn finish(&mut self, reason: &FinishReason) {
        *match reason {
            FinishReason::Stop => &mut self.finished_stop,
            FinishReason::StopString(_) => &mut self.finished_stop_string,
            FinishReason::Length => &mut self.finished_length,
            FinishReason::Context => &mut self.finished_context,
            FinishReason::Deadline => &mut self.finished_deadline,
            FinishReason::Cancelled => &mut self.cancelled,
        } += 1;
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.generated_tokens += other.generated_tokens;
        self.drafted_tokens += other.drafted_tokens;
        self.accepted_tokens += other.accepted_tokens;
        self.finished_stop += other.finished_stop;
        self.finished_stop_string += other.finished_stop_string;
        self.finished_length += other.finished_length;
        self.finished_context += other.finished_context;
        self.finished_deadline += other.finished_deadline;
        self.cancelled += other.cancelled;
        self.failed += other.failed;
    }
}

/// Where the engine thread leaves its snapshot. The lock is held for a copy, never for a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<Stats>>);

impl Board {
    pub(crate) fn publish(&self, stats: Stats) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    pub(crate) fn read(&self) -> Stats {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
