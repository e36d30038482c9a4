//! Log-probabilities: log-softmax of the model's own logits, before bias, penalties and temperature. Reports; chooses nothing.

use super::row::{self, Candidate, RowError};
use crate::constraint::Mask;
use crate::{TokenId, TokenLogprob, TokenText, TopLogprob};

/// The log-probability of `chosen`, and the `num_top` most probable tokens (of equals the lower id first).
pub(crate) fn logprob(row: &[f32], chosen: TokenId, num_top: usize, text: &dyn TokenText) -> Result<TokenLogprob, RowError> {
    let log_sum_exp = log_sum_exp(row)?;
    let bytes = |id| text.token_bytes(id).unwrap_or_default().into_owned();
    let of = |logit: f32| (f64::from(logit) - log_sum_exp) as f32;
    let mut top = Vec::new();
    if num_top > 0 {
        row::top_k(row, num_top, &mut top);
    }
    let top = top.into_iter().map(|Candidate { id, logit }| TopLogprob { id, bytes: bytes(id), logprob: of(logit) }).collect();
    Ok(TokenLogprob { id: chosen, bytes: bytes(chosen), logprob: of(row[chosen as usize]), constrained: None, top })
}

/// The log-probability of `chosen` among the legal tokens: log-softmax of the model's own logits over these alone.
pub(crate) fn constrained_logprob(row: &[f32], chosen: TokenId, legal: &Mask) -> f32 {
    let logits = || legal.tokens().filter_map(|token| row.get(token as usize)).map(|&logit| f64::from(logit));
    let max = logits().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits().map(|logit| (logit - max).exp()).sum();
    (f64::from(row[chosen as usize]) - max - total.ln()) as f32
}

/// Logarithm of the sum of the exponentials.
pub(crate) fn log_sum_exp(row: &[f32]) -> Result<f64, RowError> {
    let max = row::best(row)?.logit;
    Ok(f64::from(max) + row::sum_exp(row, max, 1.0).ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sum_exp_equals_the_definition() {
        let row: Vec<f32> = (0..10_007).map(|i| ((i * 7919) % 1000) as f32 / 50.0 - 10.0).collect();
        let exact = row.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
        assert!((log_sum_exp(&row).unwrap() - exact).abs() < 1e-6);
    }
}
