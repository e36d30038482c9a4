//! The report of a run: one HTML file that needs nothing else, with curves, samples, the held-out evaluation, the configuration and
//! where it ran. Only shows; what it shows was measured elsewhere.

mod chart;
mod curves;
mod page;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};
pub use page::render;

/// Everything that a report shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The adapter's name.
    pub name: String,
    /// One sentence: what was trained on what, and how it ended.
    pub summary: String,
    /// Steps and evaluations, as the log has them.
    pub log: LogLines,
    /// The step whose adapter was kept.
    pub kept_step: Option<u64>,
    /// How many held-out answers were exactly as expected.
    pub exact_match: Option<ExactMatch>,
    /// Answers before and after.
    pub samples: Vec<Sample>,
    /// What became of the data: names and values.
    pub data: Vec<(String, String)>,
    /// Where it ran, and how fast: names and values.
    pub environment: Vec<(String, String)>,
    /// The configuration as TOML.
    pub configuration: String,
}

/// Answers compared with the expected ones, to the letter but for surrounding space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExactMatch {
    /// Examples asked.
    pub num_asked: usize,
    /// Right answers of the base, which was shown `shots` examples each time.
    pub before: usize,
    /// Right answers with the adapter, which was shown none.
    pub after: usize,
    /// Examples shown to the base before each question.
    pub shots: usize,
}

/// A held-out example, answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// What was asked: the end of the prompt.
    pub prompt: String,
    /// What the data says.
    pub expected: String,
    /// What the base said.
    pub before: String,
    /// What it says with the adapter.
    pub after: String,
}

/// The lines of a `train.jsonl`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogLines {
    /// Steps.
    pub steps: Vec<StepLine>,
    /// Evaluations of what is held out.
    pub evaluations: Vec<EvaluationLine>,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct StepLine {
    /// Steps taken.
    pub step: u64,
    /// The mean loss.
    pub loss: f64,
    /// The gradients' norm.
    pub norm: f64,
    /// The learning rate.
    pub rate: f64,
    /// Tokens of the step.
    pub tokens: u64,
    /// Time of the step.
    pub seconds: f64,
    /// Memory.
    pub memory_bytes: u64,
}

/// An evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct EvaluationLine {
    /// Steps taken.
    pub step: u64,
    /// The mean loss.
    pub held_out_loss: f64,
    /// For preferences: the part that the model shares.
    pub held_out_preference_accuracy: Option<f64>,
}

impl LogLines {
    /// Reads a log.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::io("read", path, source))?;
        Ok(Self::parse(&text))
    }

    /// The lines that are steps and evaluations.
    pub fn parse(text: &str) -> Self {
        let mut lines = Self::default();
        for line in text.lines() {
            if let Ok(step) = serde_json::from_str(line) {
                lines.steps.push(step);
            } else if let Ok(evaluation) = serde_json::from_str(line) {
                lines.evaluations.push(evaluation);
            }
        }
        lines
    }

    /// Tokens per second over all steps.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds: f64 = self.steps.iter().map(|step| step.seconds).sum();
        let tokens: u64 = self.steps.iter().map(|step| step.tokens).sum();
        (seconds > 0.0).then(|| tokens as f64 / seconds)
    }
}
