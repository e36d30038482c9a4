//! The sampling settings of a request: raw fields, and the validated form that the sampler takes. No sampling happens here.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Error, TokenId};

/// Raw sampling settings. Every default is neutral; a model's recommended values are the caller's to fill in.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Divides the logits; 0 is greedy. 0 to 100, default 1.
    pub temperature: f32,
    /// Dynamic temperature: the temperature moves within `temperature` +- this by entropy. 0 to 100, default 0 (off).
    pub dynatemp_range: f32,
    /// Exponent of the normalised entropy for the dynamic temperature. Above 0 up to 100, default 1.
    pub dynatemp_exponent: f32,
    /// Keeps the `k` most probable tokens; 0 is off. Default 0.
    pub top_k: usize,
    /// Keeps the smallest set of tokens whose probability reaches this. 0 to 1, default 1 (off).
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the best. 0 to 1, default 0 (off).
    pub min_p: f32,
    /// Locally typical sampling: keeps this mass of the tokens whose surprise is nearest the entropy. 0 to 1, default 1 (off).
    pub typical_p: f32,
    /// Divides positive logits of tokens seen in prompt or answer, multiplies negative ones. Above 0 up to 100, default 1 (off).
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of a token already in the answer. -2 to 2, default 0.
    pub presence_penalty: f32,
    /// Subtracted per occurrence in the answer. -2 to 2, default 0.
    pub frequency_penalty: f32,
    /// How many of the last tokens (prompt and answer) the three penalties look at; `None` is all. Default `None`.
    pub penalty_last_n: Option<usize>,
    /// DRY: strength of the penalty on continuing a repetition. 0 to 100, default 0 (off).
    pub dry_multiplier: f32,
    /// DRY: the penalty is `multiplier * base ^ (length - allowed_length)`. 1 to 100, default 1.75.
    pub dry_base: f32,
    /// DRY: repetitions shorter than this are free. At least 1, default 2.
    pub dry_allowed_length: usize,
    /// DRY: how many of the last tokens (prompt and answer) are searched; `None` is all. Default `None`.
    pub dry_last_n: Option<usize>,
    /// DRY: strings that end a repetition. At most 64, none empty. Default newline, colon, double quote, asterisk.
    pub dry_sequence_breakers: Vec<String>,
    /// XTC: probability that the step excludes top choices. 0 to 1, default 0 (off).
    pub xtc_probability: f32,
    /// XTC: all tokens at least this probable, except the least of them, are excluded. 0 to 1, above 0.5 is off. Default 0.1.
    pub xtc_threshold: f32,
    /// Mirostat: 0 is off, 2 is version 2, which replaces top-k, top-p, min-p, typical-p, XTC and the dynamic temperature.
    pub mirostat: u8,
    /// Mirostat's target surprise in bits. Above 0 up to 100, default 5.
    pub mirostat_tau: f32,
    /// Mirostat's learning rate. Above 0 up to 1, default 0.1.
    pub mirostat_eta: f32,
    /// Added to the logits of single tokens, -100 to 100; -100 forbids. Default empty.
    pub logit_bias: BTreeMap<TokenId, f32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_last_n: None,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_last_n: None,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            logit_bias: BTreeMap::new(),
        }
    }
}

impl SamplingParams {
    /// Always the most probable token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// The same settings without those that mirostat replaces: for callers that merge it over a model's defaults.
    pub fn without_truncation(self) -> Self {
        let neutral = Self::default();
        Self {
            dynatemp_range: neutral.dynatemp_range,
            top_k: neutral.top_k,
            top_p: neutral.top_p,
            min_p: neutral.min_p,
            typical_p: neutral.typical_p,
            xtc_probability: neutral.xtc_probability,
            ..self
        }
    }

    /// Checks every rule above; `vocab_size` bounds the tokens of `logit_bias`.
    pub fn validate(self, vocab_size: usize) -> Result<Sampling, Error> {
        within("temperature", self.temperature, 0.0, 100.0)?;
        within("dynatemp_range", self.dynatemp_range, 0.0, 100.0)?;
        above("dynatemp_exponent", self.dynatemp_exponent, 0.0, 100.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("typical_p", self.typical_p, 0.0, 1.0)?;
        above("repetition_penalty", self.repetition_penalty, 0.0, 100.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("dry_multiplier", self.dry_multiplier, 0.0, 100.0)?;
        within("dry_base", self.dry_base, 1.0, 100.0)?;
        if self.dry_allowed_length == 0 {
            return Err(Error::invalid("dry_allowed_length", "be at least 1", 0));
        }
        if self.dry_sequence_breakers.len() > 64 {
            let given = format!("{} strings", self.dry_sequence_breakers.len());
            return Err(Error::invalid("dry_sequence_breakers", "hold at most 64 strings", given));
        }
        if self.dry_sequence_breakers.iter().any(String::is_empty) {
            return Err(Error::invalid("dry_sequence_breakers", "hold no empty string", "\"\""));
        }
        within("xtc_probability", self.xtc_probability, 0.0, 1.0)?;
        within("xtc_threshold", self.xtc_threshold, 0.0, 1.0)?;
        above("mirostat_tau", self.mirostat_tau, 0.0, 100.0)?;
        above("mirostat_eta", self.mirostat_eta, 0.0, 1.0)?;
        match self.mirostat {
            0 => {}
            2 => self.check_mirostat_alone()?,
            other => return Err(Error::invalid("mirostat", "be 0 (off) or 2", other)),
        }
        for (&token, &bias) in &self.logit_bias {
            if token as usize >= vocab_size {
                return Err(Error::invalid("logit_bias", format!("name tokens below {vocab_size}"), token));
            }
            within("logit_bias", bias, -100.0, 100.0)?;
        }
        Ok(Sampling { params: self })
    }

    fn check_mirostat_alone(&self) -> Result<(), Error> {
        let rule = "be off with `mirostat`, which replaces it";
        if self.temperature == 0.0 {
            return Err(Error::invalid("temperature", "be above 0 with `mirostat`", 0));
        }
        if self.dynatemp_range != 0.0 {
            return Err(Error::invalid("dynatemp_range", rule, self.dynatemp_range));
        }
        if self.top_k != 0 {
            return Err(Error::invalid("top_k", rule, self.top_k));
        }
        if self.xtc_probability != 0.0 {
            return Err(Error::invalid("xtc_probability", rule, self.xtc_probability));
        }
        for (field, value, off) in [("top_p", self.top_p, 1.0), ("min_p", self.min_p, 0.0), ("typical_p", self.typical_p, 1.0)] {
            if value != off {
                return Err(Error::invalid(field, rule, value));
            }
        }
        Ok(())
    }
}

/// Validated sampling settings: the only form the sampler takes. The default is neutral.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    params: SamplingParams,
}

impl Sampling {
    /// The settings, each within its range.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }
}

fn within(field: &'static str, value: f32, low: f32, high: f32) -> Result<(), Error> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(Error::invalid(field, format!("be {low} to {high}"), value)) }
}

fn above(field: &'static str, value: f32, low: f32, high: f32) -> Result<(), Error> {
    if value > low && value <= high {
        Ok(())
    } else {
        Err(Error::invalid(field, format!("be above {low} and at most {high}"), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(edit: impl FnOnce(&mut SamplingParams)) -> String {
        let mut params = SamplingParams::default();
        edit(&mut params);
        params.validate(100).expect_err("should be refused").to_string()
    }

    #[test]
    fn refusals_name_field_rule_and_value() {
        assert_eq!(refused(|p| p.temperature = -1.0), "`temperature` must be 0 to 100; given -1");
        assert_eq!(refused(|p| p.temperature = f32::NAN), "`temperature` must be 0 to 100; given NaN");
        assert_eq!(refused(|p| p.top_p = 1.5), "`top_p` must be 0 to 1; given 1.5");
        assert_eq!(refused(|p| p.repetition_penalty = 0.0), "`repetition_penalty` must be above 0 and at most 100; given 0");
        assert_eq!(refused(|p| p.presence_penalty = 3.0), "`presence_penalty` must be -2 to 2; given 3");
        assert_eq!(refused(|p| p.dry_base = 0.5), "`dry_base` must be 1 to 100; given 0.5");
        assert_eq!(refused(|p| p.dry_allowed_length = 0), "`dry_allowed_length` must be at least 1; given 0");
        assert_eq!(
            refused(|p| p.dry_sequence_breakers.push(String::new())),
            "`dry_sequence_breakers` must hold no empty string; given \"\""
        );
        assert_eq!(refused(|p| p.mirostat = 1), "`mirostat` must be 0 (off) or 2; given 1");
        assert_eq!(
            refused(|p| (p.mirostat, p.top_k) = (2, 20)),
            "`top_k` must be off with `mirostat`, which replaces it; given 20"
        );
        assert_eq!(refused(|p| _ = p.logit_bias.insert(100, 1.0)), "`logit_bias` must name tokens below 100; given 100");
        assert_eq!(refused(|p| _ = p.logit_bias.insert(7, -101.0)), "`logit_bias` must be -100 to 100; given -101");
    }

    #[test]
    fn settings_parse_from_json_and_unknown_fields_are_refused() {
        let params: SamplingParams = serde_json::from_str(r#"{"temperature": 0.7, "logit_bias": {"42": -100}}"#).unwrap();
        assert_eq!(params.temperature, 0.7);
        assert_eq!(params.logit_bias[&42], -100.0);
        assert!(serde_json::from_str::<SamplingParams>(r#"{"temprature": 0.7}"#).is_err());
    }

    #[test]
    fn mirostat_merges_over_a_models_defaults() {
        let model = SamplingParams { temperature: 0.7, top_k: 20, top_p: 0.8, ..SamplingParams::default() };
        assert!(SamplingParams { mirostat: 2, ..model.without_truncation() }.validate(100).is_ok());
    }
}
