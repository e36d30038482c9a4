//! Items to a batch, and the refusal of losses that are not finite.

use crate::data::Item;
use crate::trainable::{Losses, TrainBatch};
use crate::{Error, Result};

/// The sequences of these items; every learnt token weighs one.
pub fn of<'a>(items: impl Iterator<Item = &'a Item>) -> TrainBatch {
    let mut batch = TrainBatch::default();
    for item in items {
        for sequence in &item.sequences {
            let weights: Vec<f32> = sequence.is_trained.iter().map(|&is| if is { 1.0 } else { 0.0 }).collect();
            batch.push(&sequence.tokens, &weights, item.row);
        }
    }
    batch
}

/// Refuses a loss that is not finite, naming the rows that have one.
pub fn check_losses(step: u64, batch: &TrainBatch, losses: &Losses) -> Result<()> {
    let broken = losses.per_sequence.iter().zip(&batch.rows).filter(|(loss, _)| !loss.is_finite());
    let rows: Vec<u64> = broken.clone().map(|(_, &row)| row).collect();
    match broken.map(|(&loss, _)| loss).next() {
        None => Ok(()),
        Some(value) => Err(Error::NonFinite { step, what: "the loss".into(), value, rows: listed(&rows) }),
    }
}

/// Rows as in `4, 17 and 302`; the first twenty.
pub fn listed(rows: &[u64]) -> String {
    const MAX: usize = 20;
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    rows.dedup();
    let told: Vec<String> = rows.iter().take(MAX).map(u64::to_string).collect();
    match told.as_slice() {
        told if rows.len() > MAX => format!("{} and {} more", told.join(", "), rows.len() - MAX),
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        told => told.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_listed_in_order_and_once() {
        assert_eq!(listed(&[7]), "7");
        assert_eq!(listed(&[302, 4, 17, 4]), "4, 17 and 302");
        assert!(listed(&(1..=25).collect::<Vec<_>>()).ends_with("20 and 5 more"));
    }
}
