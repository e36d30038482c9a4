//! Embeddings: what is asked for, how hidden states are pooled, and the answer that waits for all inputs. Inputs are scheduled like
//! prompts without an answer; that is `group.rs` and `scheduler.rs`.

use std::time::Duration;

use flume::{Receiver, Sender};

use crate::engine::{Command, RequestId};
use crate::request::check_priority;
use crate::{AdapterId, Error, Limits, TokenId};

/// Most inputs of one request.
const MAX_INPUTS: usize = 2048;

/// A request for embeddings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmbedRequest {
    /// Token ids, at least one in each; 1 to 2,048 inputs.
    pub inputs: Vec<Vec<TokenId>>,
    /// How the hidden states of an input become one vector.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
    /// The adapter to run with.
    pub adapter: Option<AdapterId>,
    /// 0: requests run in the order they come.
    pub priority: i32,
    /// Time from submission after which the request fails.
    pub timeout: Option<Duration>,
}

/// How the hidden states (after the last norm) of an input become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// That of the last token.
    Last,
}

/// Embeddings of all inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// One per input, in order.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all inputs.
    pub prompt_tokens: usize,
    /// Those of them that were not computed again: none, as there is no prefix cache yet.
    pub cached_tokens: usize,
}

/// One input's result.
pub(crate) type Part = Result<Embedded, Error>;

/// One input, embedded.
#[derive(Debug)]
pub(crate) struct Embedded {
    pub(crate) index: usize,
    pub(crate) vector: Vec<f32>,
    pub(crate) cached_tokens: usize,
}

impl EmbedRequest {
    pub(crate) fn validate(&self, limits: &Limits) -> Result<(), Error> {
        if limits.hidden_size.is_none() {
            return Err(Error::invalid("inputs", "go to a model that gives hidden states", "another one"));
        }
        if !(1..=MAX_INPUTS).contains(&self.inputs.len()) {
            return Err(Error::invalid("inputs", format!("be 1 to {MAX_INPUTS}"), self.inputs.len()));
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Error::invalid("timeout", "be above 0", 0));
        }
        check_priority(self.priority)?;
        self.inputs.iter().try_for_each(|input| limits.check_prompt("inputs", input))
    }
}

/// An embedding in the making.
#[derive(Debug)]
pub(crate) struct Pooled {
    pub(crate) index: usize,
    pub(crate) pooling: Pooling,
    pub(crate) normalize: bool,
    pub(crate) parts: Sender<Part>,
    /// Sum of the rows so far, in the order of positions, so that it does not depend on how the input was chunked.
    sum: Vec<f64>,
    num_rows: usize,
}

impl Pooled {
    pub(crate) fn new(index: usize, request: &EmbedRequest, parts: Sender<Part>) -> Self {
        Self { index, pooling: request.pooling, normalize: request.normalize, parts, sum: Vec::new(), num_rows: 0 }
    }

    /// Takes the next hidden states, `[rows, width]`; says the first row that is not finite.
    pub(crate) fn push(&mut self, rows: &[f32], width: usize) -> Result<(), usize> {
        for row in rows.chunks_exact(width) {
            if row.iter().any(|value| !value.is_finite()) {
                return Err(self.num_rows);
            }
            self.sum.resize(width, 0.0);
            self.sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            self.num_rows += 1;
        }
        Ok(())
    }

    /// The input is to be computed again from its start.
    pub(crate) fn reset(&mut self) {
        self.sum.clear();
        self.num_rows = 0;
    }

    pub(crate) fn vector(&self) -> Vec<f32> {
        let mean = |&sum: &f64| sum / self.num_rows.max(1) as f64;
        let length = self.sum.iter().map(|sum| mean(sum).powi(2)).sum::<f64>().sqrt();
        let scale = if self.normalize && length > 0.0 { length.recip() } else { 1.0 };
        self.sum.iter().map(|sum| (mean(sum) * scale) as f32).collect()
    }
}

/// Embeddings that are being computed. Dropping it cancels them.
pub struct PendingEmbeddings {
    pub(crate) id: RequestId,
    pub(crate) parts: Receiver<Part>,
    pub(crate) commands: Sender<Command>,
    pub(crate) missing: usize,
    pub(crate) embeddings: Embeddings,
}

impl PendingEmbeddings {
    /// Waits for all inputs.
    pub fn wait(mut self) -> Result<Embeddings, Error> {
        while self.missing > 0 {
            let part = self.parts.recv().map_err(|_| Error::Stopped)?;
            self.take(part)?;
        }
        Ok(std::mem::take(&mut self.embeddings))
    }

    /// Waits for all inputs, in any async runtime. Dropping the future cancels the request.
    pub async fn wait_async(mut self) -> Result<Embeddings, Error> {
        while self.missing > 0 {
            let part = self.parts.recv_async().await.map_err(|_| Error::Stopped)?;
            self.take(part)?;
        }
        Ok(std::mem::take(&mut self.embeddings))
    }

    fn take(&mut self, part: Part) -> Result<(), Error> {
        let Embedded { index, vector, cached_tokens } = part?;
        self.embeddings.vectors[index] = vector;
        self.embeddings.cached_tokens += cached_tokens;
        self.missing -= 1;
        Ok(())
    }
}

impl Drop for PendingEmbeddings {
    fn drop(&mut self) {
        if self.missing > 0 {
            // A closed channel means that the engine, and the request with it, has ended already.
            _ = self.commands.send(Command::Cancel(self.id));
        }
    }
}
