//! Means with their standard errors, and quantiles, of values measured position by position.

use serde::Serialize;

/// A mean and how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Mean {
    pub(super) mean: f64,
    /// Of the mean, taking the values as independent; 0 for a single value.
    pub(super) standard_error: f64,
}

impl Mean {
    /// Of at least one value.
    pub(super) fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let standard_error = if values.len() < 2 { 0.0 } else { (squares / (count * (count - 1.0))).sqrt() };
        Self { mean, standard_error }
    }
}

/// `exp` of a mean negative log-likelihood, with the error that follows from its error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Perplexity {
    pub(super) perplexity: f64,
    pub(super) standard_error: f64,
    /// Negative log-likelihood per token, in nats.
    pub(super) nll: Mean,
}

impl Perplexity {
    /// Of the negative log-likelihoods of at least one token.
    pub(super) fn of(nlls: &[f64]) -> Self {
        let nll = Mean::of(nlls);
        let perplexity = nll.mean.exp();
        Self { perplexity, standard_error: perplexity * nll.standard_error, nll }
    }
}

/// The value that the share `q` of sorted values does not exceed, interpolated between neighbours.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_carry_their_standard_error() {
        assert_eq!(Mean::of(&[3.0]), Mean { mean: 3.0, standard_error: 0.0 });
        let Mean { mean, standard_error } = Mean::of(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(mean, 2.5);
        // Standard deviation sqrt(5/3), over sqrt(4).
        assert!((standard_error - (5.0f64 / 3.0).sqrt() / 2.0).abs() < 1e-15);
    }

    #[test]
    fn a_uniform_guess_among_ten_has_perplexity_ten() {
        let Perplexity { perplexity, standard_error, .. } = Perplexity::of(&[10f64.ln(); 7]);
        assert!((perplexity - 10.0).abs() < 1e-12 && standard_error < 1e-12);
    }

    #[test]
    fn quantiles_interpolate() {
        let sorted = [0.0, 1.0, 2.0, 3.0, 10.0];
        for (q, expected) in [(0.0, 0.0), (0.5, 2.0), (0.9, 7.2), (1.0, 10.0)] {
            assert!((quantile(&sorted, q) - expected).abs() < 1e-12, "{q}");
        }
        assert_eq!(quantile(&[4.0], 0.99), 4.0);
    }
}
