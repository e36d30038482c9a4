//! Mirostat 2 (Basu et al. 2021): keeps the surprise of the text near a target. Owns its one number; draws nothing.

use super::row::Candidate;
use super::truncation::probabilities;
use crate::SamplingParams;

/// The running bound on surprise, in bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mirostat {
    mu: f64,
}

impl Mirostat {
    pub(crate) fn new(params: &SamplingParams) -> Self {
        Self { mu: 2.0 * f64::from(params.mirostat_tau) }
    }

    /// The smallest probability that is kept: that of surprise `mu`.
    pub(crate) fn min_probability(self) -> f64 {
        (-self.mu).exp2()
    }

    /// After the draw: moves the bound by the error of the surprise of `chosen` among the `kept` candidates.
    pub(crate) fn observe(&mut self, params: &SamplingParams, kept: &[Candidate], chosen: usize, scratch: &mut Vec<f64>) {
        probabilities(kept, scratch);
        let surprise = -scratch[chosen].log2();
        self.mu -= f64::from(params.mirostat_eta) * (surprise - f64::from(params.mirostat_tau));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_follows_hand_worked_numbers() {
        let params = SamplingParams { mirostat_tau: 3.0, mirostat_eta: 0.1, ..SamplingParams::default() };
        let mut mirostat = Mirostat::new(&params);
        assert_eq!(mirostat.min_probability(), 1.0 / 64.0);
        let kept = [0.5f32, 0.25, 0.25].map(|p| Candidate { id: 0, logit: p.ln() });
        mirostat.observe(&params, &kept, 0, &mut Vec::new());
        // Surprise 1 bit, error -2, so mu = 6 + 0.2.
        assert!((mirostat.mu - 6.2).abs() < 1e-6);
        mirostat.observe(&params, &kept, 1, &mut Vec::new());
        assert!((mirostat.mu - 6.3).abs() < 1e-6);
    }
}
