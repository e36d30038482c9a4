//! A request for text: the raw form that callers fill, and `ValidRequest`, the only form the engine takes. No scheduling.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::constraint::Compiled;
use crate::{AdapterId, EmbedRequest, Error, PAGE_LEN, Sampling, SamplingParams, TokenId};

/// What a running engine can take; `EngineHandle::limits` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence the model can place.
    pub max_positions: usize,
    /// Pages of the KV pool.
    pub num_pages: usize,
    /// Most sequences that run at once; bounds `n` and the beam width.
    pub max_sequences: usize,
    /// Width of an embedding, if the model gives any.
    pub hidden_size: Option<usize>,
}

impl Limits {
    /// Longest prompt that leaves room for one token, and what sets it.
    pub fn max_prompt(&self) -> (usize, &'static str) {
        let pool = self.num_pages * PAGE_LEN;
        if pool < self.max_positions { (pool, "memory for the context") } else { (self.max_positions - 1, "the model's context") }
    }

    /// Checks token ids that are to be computed.
    pub(crate) fn check_prompt(&self, field: &'static str, prompt: &[TokenId]) -> Result<(), Error> {
        if prompt.is_empty() {
            return Err(Error::invalid(field, "hold at least one token", "none"));
        }
        if let Some(token) = prompt.iter().find(|&&token| token as usize >= self.vocab_size) {
            return Err(Error::invalid(field, format!("hold tokens below {}", self.vocab_size), token));
        }
        let (limit, limited_by) = self.max_prompt();
        if prompt.len() > limit {
            return Err(Error::PromptTooLong { num_tokens: prompt.len(), limit, limited_by });
        }
        Ok(())
    }
}

/// A request as callers fill it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateRequest {
    /// Token ids, at least one.
    pub prompt: Vec<TokenId>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Most tokens to generate per answer; `None` is as many as fit; 0 computes the prompt alone (for `prompt_logprobs`).
    pub max_tokens: Option<usize>,
    /// No end token or stop token is sampled before this many tokens. At most `max_tokens`. Default 0.
    pub min_tokens: usize,
    /// The answer ends before the first of these. At most 64, none empty.
    pub stop: Vec<String>,
    /// Whether the stop string itself is part of the text.
    pub include_stop: bool,
    /// Tokens that end the answer, beside the model's own. At most 64.
    pub stop_token_ids: Vec<TokenId>,
    /// The model's end tokens do not end the answer.
    pub ignore_eos: bool,
    /// Whether special tokens appear in the text.
    pub show_special: bool,
    /// How many answers, 1 to the engine's `max_sequences`; 0 and 1 are one. With beam search at most its width.
    pub n: usize,
    /// Report each token's log-probability, with this many of the most probable tokens. At most 128.
    pub logprobs: Option<usize>,
    /// The same for the prompt's tokens. At most 128.
    pub prompt_logprobs: Option<usize>,
    /// Search for the most probable answer instead of sampling.
    pub beam: Option<BeamParams>,
    /// The random seed; drawn (and reported by `Event::Started`) if `None`.
    pub seed: Option<u64>,
    /// 0, the default: requests run in the order they come, and another number would have no effect.
    pub priority: i32,
    /// Time from submission, queue included, after which answers end with what they have. In JSON a number of seconds.
    #[serde(deserialize_with = "seconds")]
    pub timeout: Option<Duration>,
    /// What the answer must look like, compiled for this model. Not in JSON: `constraint::ConstraintCompiler` makes it.
    #[serde(skip)]
    pub constraint: Option<Arc<Compiled>>,
    /// An answer that `max_tokens` or the context cuts within its structure is closed validly, without the model, where a way is
    /// found (a pattern that wants a certain word amid anything may leave none); it still ends for that reason. Needs a `constraint`.
    pub finish_structure: bool,
    /// The adapter to run with: one that this engine has loaded. Not in JSON, where adapters have names.
    #[serde(skip)]
    pub adapter: Option<AdapterId>,
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let seconds = Option::<f64>::deserialize(deserializer)?;
    let duration = |seconds| Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom);
    seconds.map(duration).transpose()
}

/// Beam search, as transformers defines it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeamParams {
    /// Beams kept at each step: 1 to the engine's `max_sequences`.
    pub width: usize,
    /// Scores are `sum of log-probabilities / length ^ length_penalty`; above 0 favours long answers. -10 to 10, default 1.
    #[serde(default = "one")]
    pub length_penalty: f32,
    /// When to end the search. Default `Heuristic`.
    #[serde(default)]
    pub early_stopping: EarlyStopping,
}

fn one() -> f32 {
    1.0
}

/// When beam search ends, once it has `width` complete answers. In JSON `true`, `false` or `"never"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// At once.
    Immediate,
    /// When no beam can beat the worst answer at its present length (transformers' `False`).
    #[default]
    Heuristic,
    /// When no beam can beat it at any length (transformers' `"never"`).
    Never,
}

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Bool(bool),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Bool(true) => Ok(Self::Immediate),
            Raw::Bool(false) => Ok(Self::Heuristic),
            Raw::Text(text) if text == "never" => Ok(Self::Never),
            Raw::Text(text) => {
                Err(serde::de::Error::custom(format!("`early_stopping` must be true, false or \"never\"; given {text:?}")))
            }
        }
    }
}

/// A request that has passed every check. Immutable: what it says is what runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidRequest {
    raw: GenerateRequest,
    sampling: Sampling,
}

impl GenerateRequest {
    /// Checks every rule against what the engine can take.
    pub fn validate(mut self, limits: &Limits) -> Result<ValidRequest, Error> {
        self.n = self.n.max(1);
        limits.check_prompt("prompt", &self.prompt)?;
        check_priority(self.priority)?;
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Error::invalid("timeout", "be above 0", 0));
        }
        self.check_lengths(limits)?;
        self.check_stops(limits)?;
        self.check_constraint(limits)?;
        for (field, value) in [("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)] {
            if let Some(top) = value.filter(|&top| top > 128) {
                return Err(Error::invalid(field, "be at most 128", top));
            }
        }
        let sampling = std::mem::take(&mut self.sampling).validate(limits.vocab_size)?;
        if let Some(beam) = &self.beam {
            check_beam(beam, &self, &sampling, limits)?;
        }
        Ok(ValidRequest { raw: self, sampling })
    }

    fn check_lengths(&self, limits: &Limits) -> Result<(), Error> {
        if self.n > limits.max_sequences {
            return Err(Error::invalid("n", format!("be at most {}", limits.max_sequences), self.n));
        }
        if let Some(max_tokens) = self.max_tokens.filter(|&max| self.min_tokens > max) {
            return Err(Error::invalid("min_tokens", format!("be at most `max_tokens` ({max_tokens})"), self.min_tokens));
        }
        Ok(())
    }

    fn check_constraint(&self, limits: &Limits) -> Result<(), Error> {
        let Some(constraint) = &self.constraint else {
            return match self.finish_structure {
                true => Err(Error::invalid("finish_structure", "come with a constraint", true)),
                false => Ok(()),
            };
        };
        if constraint.num_tokens() != limits.vocab_size {
            let rule = format!("be compiled for this model's {} tokens", limits.vocab_size);
            return Err(Error::invalid("constraint", rule, format!("{} tokens", constraint.num_tokens())));
        }
        if self.ignore_eos {
            return Err(Error::invalid("ignore_eos", "be false with a constraint, which says where an answer may end", true));
        }
        if self.finish_structure && self.beam.is_some() {
            return Err(Error::invalid("finish_structure", "be false with beam search", true));
        }
        Ok(())
    }

    fn check_stops(&self, limits: &Limits) -> Result<(), Error> {
        if self.stop.len() > 64 {
            return Err(Error::invalid("stop", "hold at most 64 strings", format!("{} strings", self.stop.len())));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::invalid("stop", "hold no empty string", "\"\""));
        }
        if self.stop_token_ids.len() > 64 {
            let given = format!("{} tokens", self.stop_token_ids.len());
            return Err(Error::invalid("stop_token_ids", "hold at most 64 tokens", given));
        }
        if let Some(token) = self.stop_token_ids.iter().find(|&&token| token as usize >= limits.vocab_size) {
            return Err(Error::invalid("stop_token_ids", format!("hold tokens below {}", limits.vocab_size), token));
        }
        Ok(())
    }
}

/// Refuses an order that the scheduler does not keep.
pub(crate) fn check_priority(priority: i32) -> Result<(), Error> {
    if priority != 0 {
        return Err(Error::invalid("priority", "be 0, as requests run in the order they come", priority));
    }
    Ok(())
}

fn check_beam(beam: &BeamParams, request: &GenerateRequest, sampling: &Sampling, limits: &Limits) -> Result<(), Error> {
    if !(1..=limits.max_sequences).contains(&beam.width) {
        return Err(Error::invalid("beam.width", format!("be 1 to {}", limits.max_sequences), beam.width));
    }
    if !(-10.0..=10.0).contains(&beam.length_penalty) {
        return Err(Error::invalid("beam.length_penalty", "be -10 to 10", beam.length_penalty));
    }
    if request.n > beam.width {
        return Err(Error::invalid("n", format!("be at most the beam width ({})", beam.width), request.n));
    }
    if request.logprobs.is_some() {
        return Err(Error::invalid("logprobs", "be left out with beam search, which reports scores", "a number"));
    }
    let params = sampling.params();
    let only_bias = |base: SamplingParams| SamplingParams { logit_bias: params.logit_bias.clone(), ..base } == *params;
    if !only_bias(SamplingParams::default()) && !only_bias(SamplingParams::greedy()) {
        let rule = "hold nothing but `logit_bias` with beam search, which does not sample";
        return Err(Error::invalid("sampling", rule, "other settings"));
    }
    Ok(())
}

impl ValidRequest {
    /// One input of a checked request for embeddings: to be computed, and nothing sampled.
    pub(crate) fn prompt_alone(request: &EmbedRequest, index: usize) -> Self {
        let raw = GenerateRequest {
            prompt: request.inputs[index].clone(),
            max_tokens: Some(0),
            n: 1,
            priority: request.priority,
            timeout: request.timeout,
            adapter: request.adapter,
            ..GenerateRequest::default()
        };
        Self { raw, sampling: Sampling::default() }
    }

    /// The prompt.
    pub fn prompt(&self) -> &[TokenId] {
        &self.raw.prompt
    }

    /// How tokens are chosen.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Every other field, each within its range; `sampling` in it is empty.
    pub(crate) fn raw(&self) -> &GenerateRequest {
        &self.raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { vocab_size: 100, max_positions: 256, num_pages: 2, max_sequences: 4, hidden_size: None };

    fn refused(edit: impl FnOnce(&mut GenerateRequest)) -> String {
        let mut request = GenerateRequest { prompt: vec![1, 2], ..GenerateRequest::default() };
        edit(&mut request);
        request.validate(&LIMITS).expect_err("should be refused").to_string()
    }

    #[test]
    fn refusals_name_field_rule_and_value() {
        assert_eq!(refused(|r| r.prompt.clear()), "`prompt` must hold at least one token; given none");
        assert_eq!(refused(|r| r.prompt.push(100)), "`prompt` must hold tokens below 100; given 100");
        assert_eq!(
            refused(|r| r.prompt = vec![1; 129]),
            "the prompt has 129 tokens, and at most 128 fit (memory for the context); shorten it or raise the limit"
        );
        assert_eq!(refused(|r| r.n = 5), "`n` must be at most 4; given 5");
        assert_eq!(refused(|r| r.priority = 1), "`priority` must be 0, as requests run in the order they come; given 1");
        assert_eq!(
            refused(|r| (r.min_tokens, r.max_tokens) = (9, Some(8))),
            "`min_tokens` must be at most `max_tokens` (8); given 9"
        );
        assert_eq!(refused(|r| r.stop.push(String::new())), "`stop` must hold no empty string; given \"\"");
        assert_eq!(refused(|r| r.logprobs = Some(129)), "`logprobs` must be at most 128; given 129");
        let beam = BeamParams { width: 2, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic };
        assert_eq!(refused(|r| r.beam = Some(BeamParams { width: 5, ..beam })), "`beam.width` must be 1 to 4; given 5");
        assert_eq!(refused(|r| (r.beam, r.n) = (Some(beam), 3)), "`n` must be at most the beam width (2); given 3");
        assert_eq!(
            refused(|r| (r.beam, r.sampling.top_k) = (Some(beam), 3)),
            "`sampling` must hold nothing but `logit_bias` with beam search, which does not sample; given other settings"
        );
    }

    #[test]
    fn early_stopping_parses_as_transformers_writes_it() {
        let parse = |text: &str| serde_json::from_str::<BeamParams>(text).map(|beam| beam.early_stopping);
        assert_eq!(parse(r#"{"width": 2}"#).unwrap(), EarlyStopping::Heuristic);
        assert_eq!(parse(r#"{"width": 2, "early_stopping": true}"#).unwrap(), EarlyStopping::Immediate);
        assert_eq!(parse(r#"{"width": 2, "early_stopping": "never"}"#).unwrap(), EarlyStopping::Never);
        assert!(parse(r#"{"width": 2, "early_stopping": "later"}"#).is_err());
    }
}
