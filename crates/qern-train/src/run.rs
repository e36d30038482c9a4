//! The training loop: steps, evaluations, checkpoints, early stopping, and going on after a stop. One loop for every model and
//! objective. Knows no layers, no files of examples and no terminal.

mod batch;
mod log;
mod objective;
pub mod persist;

use std::time::Instant;

use crate::checkpoint::{Best, Identity, RunFolder, State};
use crate::config::TrainSettings;
use crate::data::{Item, Order, OrderSettings, StepSize, batches};
use crate::optim::{AdamW, AdamWSettings, Schedule, clip};
use crate::trainable::{Dropout, Gradients, Trainable};
use crate::{Error, Result};
use log::Log;
pub use objective::{Objective, Score};

/// What a run is made of.
pub struct RunParts<'a> {
    /// The model, before its first step or after any: what a checkpoint says goes over it.
    pub model: &'a mut dyn Trainable,
    /// Examples to train on; not empty.
    pub train: &'a [Item],
    /// Examples to evaluate on; may be empty.
    pub held_out: &'a [Item],
    /// What is made smaller.
    pub objective: Objective,
    /// How.
    pub settings: &'a TrainSettings,
    /// Of the run.
    pub seed: u64,
    /// Whether inputs of A are dropped.
    pub has_dropout: bool,
    /// What must be as it was for a run to go on.
    pub identity: Identity,
    /// Where it is kept.
    pub folder: &'a RunFolder,
    /// `adapter_config.json`.
    pub adapter_config: Vec<u8>,
    /// Parameters as their file has them, where that differs from the model's order.
    pub export: &'a dyn Export,
}

/// How parameters become those of a file: a base of some files has rows in another order than PEFT's.
pub trait Export {
    /// The values of a parameter as PEFT has them.
    fn values(&self, parameter: &crate::trainable::Parameter, values: &[f32]) -> Vec<f32>;
}

/// Parameters that a file has as the model has them.
pub struct AsIs;

impl Export for AsIs {
    fn values(&self, _: &crate::trainable::Parameter, values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }
}

/// What happened, as it happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// The run begins, or goes on after `step` steps of `total`; `notes` tell what was wrong with checkpoints.
    Started {
        /// Steps taken before.
        step: u64,
        /// Steps of the run.
        total: u64,
        /// Damaged checkpoints.
        notes: Vec<String>,
    },
    /// A step was taken.
    Stepped(Progress),
    /// What is held out was evaluated, after `step` steps.
    Evaluated {
        /// Steps taken.
        step: u64,
        /// The score.
        score: Score,
        /// Whether it is the best so far.
        is_best: bool,
    },
    /// A checkpoint was written.
    Saved {
        /// Steps taken.
        step: u64,
    },
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps taken.
    pub step: u64,
    /// Steps of the run.
    pub total: u64,
    /// Times that all examples were seen.
    pub epoch: f64,
    /// The mean loss, in nats per trained token (per preference for DPO).
    pub loss: f64,
    /// The norm of the gradients before clipping.
    pub norm: f64,
    /// The learning rate.
    pub rate: f64,
    /// Tokens run through the model.
    pub num_tokens: usize,
    /// Time that the step took.
    pub seconds: f64,
    /// Memory of model, gradients and optimizer.
    pub memory_bytes: usize,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    GoOn,
    /// No: write a checkpoint and stop.
    Stop,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Why.
    pub end: End,
    /// Its last state.
    pub state: State,
    /// The step whose adapter was written; `None` when the run was stopped.
    pub adapter_step: Option<u64>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps were taken.
    Done,
    /// The held-out loss did not fall any more.
    Early,
    /// It was told to stop.
    Stopped,
}

struct Run<'a> {
    parts: RunParts<'a>,
    lens: Vec<usize>,
    order: Order,
    schedule: Schedule,
    evaluate_every: u64,
    checkpoint_every: u64,
    optimizer: AdamW,
    gradients: Gradients,
    state: State,
    log: Log,
}

/// Runs training to its end, or goes on with what the folder holds.
pub fn run(parts: RunParts<'_>, observe: &mut dyn FnMut(&Happening) -> Result<Verdict>) -> Result<Outcome> {
    let (mut run, notes) = Run::start(parts)?;
    let total = run.schedule.total_steps;
    let mut verdict = observe(&Happening::Started { step: run.state.step, total, notes })?;
    if run.state.step == 0 && run.state.first_held_out.is_none() && !run.parts.held_out.is_empty() {
        verdict = stop_if(verdict, run.evaluate(observe)?);
    }
    while verdict == Verdict::GoOn && run.state.step < total && !run.state.has_stopped {
        let progress = run.step()?;
        verdict = observe(&Happening::Stepped(progress))?;
        let is_last = run.state.step == total;
        let is_evaluated = !run.parts.held_out.is_empty() && (is_last || run.state.step.is_multiple_of(run.evaluate_every));
        if is_evaluated {
            verdict = stop_if(verdict, run.evaluate(observe)?);
        }
        let is_best = run.state.best.is_some_and(|best| best.step == run.state.step);
        let must_save = is_last || run.state.has_stopped || verdict == Verdict::Stop || is_best;
        if must_save || run.state.step.is_multiple_of(run.checkpoint_every) {
            run.save()?;
            verdict = stop_if(verdict, observe(&Happening::Saved { step: run.state.step })?);
        }
    }
    let end = match () {
        () if run.state.has_stopped => End::Early,
        () if run.state.step == total => End::Done,
        () => End::Stopped,
    };
    let adapter_step = if end == End::Stopped { None } else { Some(run.finish()?) };
    Ok(Outcome { end, state: run.state, adapter_step })
}

fn stop_if(first: Verdict, second: Verdict) -> Verdict {
    if first == Verdict::Stop { first } else { second }
}

impl<'a> Run<'a> {
    fn start(parts: RunParts<'a>) -> Result<(Self, Vec<String>)> {
        let settings = parts.settings;
        let lens: Vec<usize> = parts.train.iter().map(Item::num_tokens).collect();
        if lens.is_empty() {
            return Err(Error::Data("there must be examples to train on; all are held out".into()));
        }
        let step = settings.batch_tokens.map_or(StepSize::Examples(settings.batch_size), StepSize::Tokens);
        let order_settings = OrderSettings { seed: parts.seed, step, group_by_length: settings.group_by_length };
        let order = Order::new(lens.clone(), order_settings);
        let total_steps = settings.steps.unwrap_or_else(|| order.num_steps(settings.epochs));
        let warmup = settings.warmup;
        let warmup_steps = if warmup < 1.0 { (warmup * total_steps as f64).round() as u64 } else { warmup as u64 };
        let schedule = Schedule { peak: settings.learning_rate, warmup_steps, total_steps, decay: settings.decay };
        let evaluate_every = settings.evaluate_every.unwrap_or((total_steps / 10).max(1));
        let checkpoint_every = settings.checkpoint_every.unwrap_or(evaluate_every);
        let optimizer = AdamW::new(adamw(settings), parts.model);
        let gradients = Gradients::zeros(parts.model.parameters());
        let state = State::new(parts.identity.clone());
        let log = Log::at(parts.folder);
        let mut run = Self { parts, lens, order, schedule, evaluate_every, checkpoint_every, optimizer, gradients, state, log };
        let notes = run.resume()?;
        run.log.begin(run.state.log_bytes)?;
        Ok((run, notes))
    }

    /// Takes one step.
    fn step(&mut self) -> Result<Progress> {
        let started = Instant::now();
        let step = self.state.step;
        let items = self.order.step(step).to_vec();
        self.gradients.clear();
        let (mut score, mut num_tokens) = (Score::default(), 0);
        for (index, batch) in batches(&items, &self.lens, self.parts.settings.run_tokens).into_iter().enumerate() {
            let mut batch = batch::of(batch.iter().map(|&item| &self.parts.train[item]));
            if self.parts.has_dropout {
                batch.dropout = Some(Dropout { seed: self.parts.seed, batch_id: (step << 20) + index as u64 });
            }
            num_tokens += batch.tokens.len();
            let part = self.parts.objective.accumulate(self.parts.model, &mut batch, &mut self.gradients)?;
            batch::check_losses(step + 1, &batch, &part.losses)?;
            score.add(part.score);
        }
        self.gradients.scale((1.0 / score.weight) as f32);
        let max_norm = Some(self.parts.settings.clip).filter(|&clip| clip > 0.0);
        let norm = clip(&mut self.gradients, max_norm);
        if !norm.is_finite() {
            return Err(self.broken_gradient(step + 1, &items));
        }
        let rate = self.schedule.rate(step);
        self.optimizer.step(self.parts.model, &self.gradients, rate)?;
        let seconds = started.elapsed().as_secs_f64();
        self.state.step = step + 1;
        self.state.num_tokens += num_tokens as u64;
        self.state.seconds += seconds;
        let gradients = 4 * self.parts.model.parameters().iter().map(|parameter| parameter.num_values()).sum::<usize>();
        let progress = Progress {
            step: step + 1,
            total: self.schedule.total_steps,
            epoch: self.order.epoch_after(step),
            loss: score.loss(),
            norm,
            rate,
            num_tokens,
            seconds,
            memory_bytes: self.parts.model.memory_bytes() + self.optimizer.memory_bytes() + gradients,
        };
        self.state.log_bytes = self.log.step(&progress)?;
        Ok(progress)
    }

    /// Names the parameter whose gradient is not finite, and the rows of the step.
    fn broken_gradient(&self, step: u64, items: &[usize]) -> Error {
        let broken = self.gradients.iter().enumerate().find_map(|(id, gradient)| {
            let value = gradient.iter().find(|value| !value.is_finite())?;
            Some((format!("the gradient of `{}`", self.parts.model.parameters()[id].name), f64::from(*value)))
        });
        // Finite values whose squares are not.
        let (what, value) = broken.unwrap_or(("the norm of the gradients".into(), f64::INFINITY));
        let rows: Vec<u64> = items.iter().map(|&item| self.parts.train[item].row).collect();
        Error::NonFinite { step, what, value, rows: batch::listed(&rows) }
    }

    /// Evaluates what is held out.
    fn evaluate(&mut self, observe: &mut dyn FnMut(&Happening) -> Result<Verdict>) -> Result<Verdict> {
        let lens: Vec<usize> = self.parts.held_out.iter().map(Item::num_tokens).collect();
        let all: Vec<usize> = (0..lens.len()).collect();
        let mut score = Score::default();
        for batch in batches(&all, &lens, self.parts.settings.run_tokens) {
            let batch = batch::of(batch.iter().map(|&item| &self.parts.held_out[item]));
            let part = self.parts.objective.evaluate(self.parts.model, &batch)?;
            batch::check_losses(self.state.step, &batch, &part.losses)?;
            score.add(part.score);
        }
        let (step, loss) = (self.state.step, score.loss());
        let is_best = self.state.best.is_none_or(|best| loss < best.loss);
        if is_best {
            self.state.best = Some(Best { step, loss });
            self.state.num_without_gain = 0;
        } else {
            self.state.num_without_gain += 1;
        }
        self.state.last_held_out = Some(loss);
        self.state.first_held_out.get_or_insert(loss);
        self.state.has_stopped = self.parts.settings.patience.is_some_and(|patience| self.state.num_without_gain >= patience);
        self.state.log_bytes = self.log.evaluation(step, &score)?;
        observe(&Happening::Evaluated { step, score, is_best })
    }
}

fn adamw(settings: &TrainSettings) -> AdamWSettings {
    AdamWSettings {
        beta1: settings.beta1,
        beta2: settings.beta2,
        eps: settings.eps,
        weight_decay: settings.weight_decay,
        lora_plus: settings.lora_plus,
    }
}
