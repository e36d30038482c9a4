//! The rules that values of settings must keep to, each named in its message.

use super::{HeldOut, Settings};
use crate::data::TrainOn;

/// Columns that examples have.
const COLUMNS: [&str; 12] = [
    "messages",
    "conversations",
    "tools",
    "instruction",
    "input",
    "output",
    "system",
    "prompt",
    "completion",
    "text",
    "chosen",
    "rejected",
];

/// Refuses what no run can do.
pub fn check(settings: &Settings) -> Result<(), String> {
    let Settings { data, lora, train, report, .. } = settings;
    whole("lora.rank", lora.rank as u64, 1, 4096)?;
    if let Some(alpha) = lora.alpha {
        part("lora.alpha", alpha, alpha > 0.0 && alpha <= 1e6, "above 0 and at most 1000000")?;
    }
    part("lora.dropout", lora.dropout, (0.0..1.0).contains(&lora.dropout), "at least 0 and below 1")?;
    if lora.targets.is_empty() && lora.modules_to_save.is_empty() {
        return Err("`lora.targets` must name at least one module, such as `all-linear`".into());
    }
    for (pattern, &rank) in &lora.rank_pattern {
        whole(&format!("lora.rank_pattern.\"{pattern}\""), rank as u64, 1, 4096)?;
    }
    for (pattern, &alpha) in &lora.alpha_pattern {
        part(&format!("lora.alpha_pattern.\"{pattern}\""), alpha, alpha > 0.0 && alpha <= 1e6, "above 0 and at most 1000000")?;
    }

    whole("train.epochs", train.epochs, 1, 100_000)?;
    whole("train.steps", train.steps.unwrap_or(1), 1, 100_000_000)?;
    whole("train.batch_size", train.batch_size as u64, 1, 1 << 20)?;
    whole("train.batch_tokens", train.batch_tokens.unwrap_or(1) as u64, 1, 1 << 30)?;
    whole("train.run_tokens", train.run_tokens as u64, 1, 1 << 20)?;
    whole("train.evaluate_every", train.evaluate_every.unwrap_or(1), 1, 100_000_000)?;
    whole("train.checkpoint_every", train.checkpoint_every.unwrap_or(1), 1, 100_000_000)?;
    whole("train.patience", train.patience.unwrap_or(1).into(), 1, 1_000_000)?;
    whole("train.keep_checkpoints", train.keep_checkpoints as u64, 1, 1_000_000)?;
    let rate = train.learning_rate;
    part("train.learning_rate", rate, rate > 0.0 && rate <= 10.0, "above 0 and at most 10")?;
    let warmup = train.warmup;
    part(
        "train.warmup",
        warmup,
        warmup >= 0.0 && (warmup < 1.0 || warmup.fract() == 0.0),
        "a part below 1 or a number of steps",
    )?;
    part("train.weight_decay", train.weight_decay, (0.0..=10.0).contains(&train.weight_decay), "from 0 to 10")?;
    for (name, beta) in [("train.beta1", train.beta1), ("train.beta2", train.beta2)] {
        part(name, beta, (0.0..1.0).contains(&beta), "at least 0 and below 1")?;
    }
    part("train.eps", train.eps, train.eps > 0.0 && train.eps < 1.0, "above 0 and below 1")?;
    part("train.clip", train.clip, train.clip >= 0.0 && train.clip.is_finite(), "at least 0 (0 does not clip)")?;
    part("train.lora_plus", train.lora_plus, (0.001..=1000.0).contains(&train.lora_plus), "from 0.001 to 1000")?;
    part("train.dpo_beta", train.dpo_beta, train.dpo_beta > 0.0 && train.dpo_beta <= 100.0, "above 0 and at most 100")?;

    if let HeldOut::Part(held_out) = data.held_out {
        part("data.held_out", held_out, (0.0..1.0).contains(&held_out), "a part below 1 or a whole number")?;
    }
    whole("data.max_tokens", data.max_tokens.unwrap_or(2) as u64, 2, 1 << 22)?;
    if let Some(name) = data.columns.keys().find(|name| !COLUMNS.contains(&name.as_str())) {
        return Err(format!("`data.columns` must name columns that examples have ({}); given `{name}`", COLUMNS.join(", ")));
    }
    if data.raw && data.system.is_some() {
        return Err("`data.system` must be left out with `data.raw`: plain text has no system prompt".into());
    }
    if data.raw && matches!(data.train_on, TrainOn::EveryTurn) {
        return Err("`data.train_on` must not be `every-turn` with `data.raw`: plain text has no turns".into());
    }
    whole("report.samples", report.samples as u64, 0, 100)?;
    whole("report.max_tokens", report.max_tokens as u64, 1, 1 << 20)?;
    whole("report.shots", report.shots as u64, 0, 10_000)?;
    Ok(())
}

fn whole(name: &str, value: u64, min: u64, max: u64) -> Result<(), String> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(format!("`{name}` must be from {min} to {max}; given {value}")) }
}

fn part(name: &str, value: f64, holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("`{name}` must be {rule}; given {value}")) }
}
