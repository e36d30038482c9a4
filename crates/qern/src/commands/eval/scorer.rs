//! Forward passes over windows: the log-probabilities that the model gives every token at the scored positions, a few rows
//! at a time. What becomes of the rows is the caller's business.

use std::collections::TryReserveError;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qern_engine::{BatchSequence, LogitsFor, PAGE_LEN, PageId, TokenId};
use qern_kernels::kv::{KvFormat, KvPages};
use qern_kernels::pool::Pool;
use qern_model::transformer::{Scratch, Transformer};

use super::windows::Windows;
use crate::exit::{Interrupted, UsageError};
use crate::interrupt::{self, Listener};

/// Rows of logits in memory at once: 39 MB of Qwen3's vocabulary, and as many again of log-probabilities.
const MAX_ROWS: usize = 64;
/// Tokens processed together where no logits are wanted; Ctrl-C waits for no more than these.
const PREFILL_CHUNK: usize = 256;

/// Predictions at consecutive positions.
pub(super) struct Rows<'a> {
    pub(super) log_probs: &'a [f32], // [num_rows, vocab_size]
    /// The token that follows each position.
    pub(super) targets: &'a [TokenId],
    pub(super) vocab_size: usize,
    pub(super) pool: &'a Pool,
}

impl Rows<'_> {
    /// The log-probabilities of one row.
    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.log_probs[row * self.vocab_size..][..self.vocab_size]
    }

    /// The negative log-likelihood of each row's target, in nats.
    pub(super) fn nlls(&self) -> impl Iterator<Item = f64> {
        self.targets.iter().enumerate().map(|(row, &target)| -f64::from(self.row(row)[target as usize]))
    }

    /// `f` of every row, in order, computed by all threads.
    pub(super) fn map<T: Send + Sync>(&self, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let results: Vec<OnceLock<T>> = self.targets.iter().map(|_| OnceLock::new()).collect();
        self.pool.for_chunks(results.len(), 1, &|rows| {
            for row in rows {
                let _ = results[row].set(f(row));
            }
        });
        results.into_iter().map(|result| result.into_inner().expect("every row was computed")).collect()
    }
}

/// Runs a model over windows.
pub(super) struct Scorer<'a> {
    transformer: &'a Transformer,
    kv: KvPages,
    pages: Vec<PageId>,
    scratch: Scratch,
    log_probs: Vec<f32>, // [MAX_ROWS, vocab_size]
    listener: Listener,
}

impl<'a> Scorer<'a> {
    /// Makes room for windows of `context` tokens. From here on Ctrl-C ends [`Scorer::score`], not the program.
    pub(super) fn new(transformer: &'a Transformer, format: KvFormat, context: usize) -> anyhow::Result<Self> {
        let config = transformer.config();
        if context > config.max_positions {
            let max = config.max_positions;
            return Err(UsageError(format!("--context must be at most the model's {max} positions; given {context}")).into());
        }
        let num_pages = context.div_ceil(PAGE_LEN);
        let kv = KvPages::new(transformer.kv_geometry(format), num_pages)?;
        let log_probs = zeros(MAX_ROWS * config.vocab_size).context("there is no memory for a few rows of logits")?;
        let pages = (0..num_pages as u32).map(PageId).collect();
        Ok(Self { transformer, kv, pages, scratch: Scratch::default(), log_probs, listener: interrupt::listen() })
    }

    /// Runs all windows and gives `each` the scored rows in order; returns how long it took.
    pub(super) fn score(
        &mut self,
        windows: &Windows,
        quiet: bool,
        each: &mut dyn FnMut(&Rows<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let bar = progress_bar(windows, quiet);
        for (done, window) in windows.iter().enumerate() {
            self.window(&window, windows.first_scored(), &bar, each)
                .with_context(|| format!("window {} of {} failed", done + 1, windows.len()))?;
        }
        bar.finish_and_clear();
        Ok(started.elapsed())
    }

    fn window(
        &mut self,
        window: &[TokenId],
        first_scored: usize,
        bar: &ProgressBar,
        each: &mut dyn FnMut(&Rows<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let vocab_size = self.transformer.config().vocab_size;
        let mut position = 0;
        // The last token predicts what is beyond the window.
        while position + 1 < window.len() {
            if self.listener.raised() {
                bar.finish_and_clear();
                return Err(Interrupted("interrupted; nothing was saved".into()).into());
            }
            let scored = position >= first_scored;
            let (limit, max_len) = if scored { (window.len() - 1, MAX_ROWS) } else { (first_scored, PREFILL_CHUNK) };
            let end = limit.min(position + max_len);
            let tokens = &window[position..end];
            let logits = if scored { LogitsFor::All } else { LogitsFor::None };
            let batch = [BatchSequence { tokens, position, pages: &self.pages, logits, adapter: None }];
            let logits = self.transformer.forward(&batch, &mut self.kv, &mut self.scratch)?;
            if scored {
                let log_probs = &mut self.log_probs[..logits.len()];
                log_softmax_rows(self.transformer.pool(), logits, vocab_size, log_probs)
                    .with_context(|| format!("of the chunk at position {position}"))?;
                let targets = &window[position + 1..end + 1];
                each(&Rows { log_probs, targets, vocab_size, pool: self.transformer.pool() })?;
            }
            bar.inc(tokens.len() as u64);
            position = end;
        }
        Ok(())
    }
}

/// `len` zeros, or an error where there is no room for them.
fn zeros(len: usize) -> Result<Vec<f32>, TryReserveError> {
    let mut values = Vec::new();
    values.try_reserve_exact(len)?;
    values.resize(len, 0.0);
    Ok(values)
}

fn log_softmax_rows(pool: &Pool, logits: &[f32], vocab_size: usize, out: &mut [f32]) -> anyhow::Result<()> {
    let rows: Vec<_> = logits.chunks_exact(vocab_size).zip(out.chunks_exact_mut(vocab_size)).map(Mutex::new).collect();
    pool.for_chunks(rows.len(), 1, &|range| {
        for row in &rows[range] {
            let (logits, out) = &mut *row.lock().unwrap_or_else(PoisonError::into_inner);
            log_softmax(logits, out);
        }
    });
    drop(rows);
    anyhow::ensure!(out.iter().all(|value| value.is_finite()), "the model's logits are not finite: its file may be damaged");
    Ok(())
}

/// `out = logits - log(sum(exp(logits)))`, in double precision, rounded once.
fn log_softmax(logits: &[f32], out: &mut [f32]) {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    let log_sum = max + sum.ln();
    for (out, &logit) in out.iter_mut().zip(logits) {
        *out = (f64::from(logit) - log_sum) as f32;
    }
}

/// Only on a terminal.
fn progress_bar(windows: &Windows, quiet: bool) -> ProgressBar {
    let total = (windows.len() * (windows.context() - 1)) as u64;
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(4) };
    let style = ProgressStyle::with_template("scoring {wide_bar} {human_pos}/{human_len} tokens, {per_sec}, {eta} left");
    ProgressBar::with_draw_target(Some(total), target).with_style(style.expect("the template is valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let pool = Pool::new(2);
        let logits = [0.0, 0.0, 1000.0, 1000.0, 2f32.ln(), 0.0];
        let mut out = [0.0; 6];
        log_softmax_rows(&pool, &logits, 2, &mut out).unwrap();
        let expected = [0.5f64, 0.5, 0.5, 0.5, 2.0 / 3.0, 1.0 / 3.0];
        for (found, expected) in out.iter().zip(expected) {
            assert!((f64::from(*found) - expected.ln()).abs() < 1e-7, "{out:?}");
        }
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = log_softmax_rows(&Pool::new(1), &[0.0, bad, 1.0], 3, &mut [0.0; 3]).unwrap_err();
            assert!(error.to_string().contains("not finite"), "{bad}: {error}");
        }
    }

    #[test]
    fn rows_are_mapped_in_order_on_any_number_of_threads() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            let rows = Rows { log_probs: &[-1.0, -2.0, -3.0, -4.0], targets: &[1, 0], vocab_size: 2, pool: &pool };
            assert_eq!(rows.map(|row| rows.row(row)[0]), [-1.0, -3.0]);
            assert_eq!(rows.nlls().collect::<Vec<_>>(), [2.0, 3.0]);
        }
    }
}
