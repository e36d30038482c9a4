//! What a user asks for, laid over what a model's authors recommend, which is laid over Qern's own defaults. The one place that
//! knows this order; ranges are checked by `SamplingParams::validate`.

use std::collections::BTreeMap;

use qern_model::generation::GenerationDefaults;

use crate::{SamplingParams, TokenId};

/// What Qern takes for a model that recommends nothing: lively, but without the unlikely tail that small models trip over.
const QERN_TEMPERATURE: f32 = 0.7;
const QERN_TOP_P: f32 = 0.95;
const QERN_MIN_P: f32 = 0.05;

/// The sampling that suits a model: its own recommendation, or Qern's where it has none.
pub fn recommended(defaults: &GenerationDefaults) -> SamplingParams {
    let neutral = SamplingParams::default();
    let repetition_penalty = defaults.repetition_penalty.unwrap_or(neutral.repetition_penalty);
    if (defaults.temperature, defaults.top_p, defaults.top_k, defaults.min_p) == (None, None, None, None) {
        return SamplingParams {
            temperature: QERN_TEMPERATURE,
            top_p: QERN_TOP_P,
            min_p: QERN_MIN_P,
            repetition_penalty,
            ..neutral
        };
    }
    SamplingParams {
        temperature: defaults.temperature.unwrap_or(neutral.temperature),
        top_p: defaults.top_p.unwrap_or(neutral.top_p),
        top_k: defaults.top_k.map_or(neutral.top_k, |k| k as usize),
        min_p: defaults.min_p.unwrap_or(neutral.min_p),
        repetition_penalty,
        ..neutral
    }
}

/// The settings that a user gave; `None` was not asked for. The fields are those of [`SamplingParams`].
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each field is documented in `SamplingParams`")]
pub struct SamplingOverrides {
    pub temperature: Option<f32>,
    pub dynatemp_range: Option<f32>,
    pub dynatemp_exponent: Option<f32>,
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub typical_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub penalty_last_n: Option<Option<usize>>,
    pub dry_multiplier: Option<f32>,
    pub dry_base: Option<f32>,
    pub dry_allowed_length: Option<usize>,
    pub dry_last_n: Option<Option<usize>>,
    pub dry_sequence_breakers: Option<Vec<String>>,
    pub xtc_probability: Option<f32>,
    pub xtc_threshold: Option<f32>,
    pub mirostat: Option<u8>,
    pub mirostat_tau: Option<f32>,
    pub mirostat_eta: Option<f32>,
    pub logit_bias: Option<BTreeMap<TokenId, f32>>,
}

impl SamplingOverrides {
    /// These settings over `base`. Mirostat, when asked for, replaces what `base` says of the settings that it stands for.
    pub fn over(self, base: SamplingParams) -> SamplingParams {
        let base = if self.mirostat.is_some_and(|version| version != 0) { base.without_truncation() } else { base };
        SamplingParams {
            temperature: self.temperature.unwrap_or(base.temperature),
            dynatemp_range: self.dynatemp_range.unwrap_or(base.dynatemp_range),
            dynatemp_exponent: self.dynatemp_exponent.unwrap_or(base.dynatemp_exponent),
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            typical_p: self.typical_p.unwrap_or(base.typical_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            penalty_last_n: self.penalty_last_n.unwrap_or(base.penalty_last_n),
            dry_multiplier: self.dry_multiplier.unwrap_or(base.dry_multiplier),
            dry_base: self.dry_base.unwrap_or(base.dry_base),
            dry_allowed_length: self.dry_allowed_length.unwrap_or(base.dry_allowed_length),
            dry_last_n: self.dry_last_n.unwrap_or(base.dry_last_n),
            dry_sequence_breakers: self.dry_sequence_breakers.unwrap_or(base.dry_sequence_breakers),
            xtc_probability: self.xtc_probability.unwrap_or(base.xtc_probability),
            xtc_threshold: self.xtc_threshold.unwrap_or(base.xtc_threshold),
            mirostat: self.mirostat.unwrap_or(base.mirostat),
            mirostat_tau: self.mirostat_tau.unwrap_or(base.mirostat_tau),
            mirostat_eta: self.mirostat_eta.unwrap_or(base.mirostat_eta),
            logit_bias: self.logit_bias.unwrap_or(base.logit_bias),
        }
    }
}
