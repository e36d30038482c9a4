//! The learning rate over the steps of a run: warm-up, then decay, as in transformers' `get_scheduler`.

use serde::{Deserialize, Serialize};

/// What happens to the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// It falls to zero in a line.
    Linear,
    /// It falls to zero along half a cosine.
    #[default]
    Cosine,
    /// It stays.
    Constant,
}

/// The learning rate over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The rate at the end of the warm-up.
    pub peak: f64,
    /// Steps in which it rises to the peak.
    pub warmup_steps: u64,
    /// Steps of the run.
    pub total_steps: u64,
    /// What follows the warm-up.
    pub decay: Decay,
}

impl Schedule {
    /// The rate of a step, counted from 0. As everywhere else, the first step of a warm-up has rate zero.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / span).min(1.0);
        self.peak
            * match self.decay {
                Decay::Linear => 1.0 - done,
                Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
                Decay::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_and_fall_as_asked() {
        let check = |decay, step, expected: f64| {
            let schedule = Schedule { peak: 2.0, warmup_steps: 4, total_steps: 12, decay };
            assert!((schedule.rate(step) - expected).abs() < 1e-12, "{decay:?} {step}: {}", schedule.rate(step));
        };
        for decay in [Decay::Linear, Decay::Cosine, Decay::Constant] {
            check(decay, 0, 0.0);
            check(decay, 1, 0.5);
            check(decay, 4, 2.0);
        }
        check(Decay::Linear, 8, 1.0);
        check(Decay::Cosine, 8, 1.0);
        check(Decay::Constant, 8, 2.0);
        check(Decay::Linear, 12, 0.0);
        check(Decay::Cosine, 99, 0.0);
        let none = Schedule { peak: 1.0, warmup_steps: 0, total_steps: 1, decay: Decay::Linear };
        assert_eq!(none.rate(0), 1.0);
    }
}
