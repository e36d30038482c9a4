//! One row of logits to one token: the chain of bias, penalties, filters, temperature and the draw, for one answer.
//! Knows nothing of batches, pages or text beyond the bytes of tokens.
//!
//! The order is llama.cpp's: logit bias, penalties, DRY; then top-k, typical-p, top-p, min-p, XTC, temperature, draw. So the
//! filters see the probabilities at temperature 1. (transformers divides by the temperature first.) Mirostat 2 takes the place of
//! the filters and comes after the temperature. Temperature 0 takes the best of what is left.

mod dry;
pub(crate) mod logprobs;
mod mirostat;
mod penalties;
pub(crate) mod row;
mod truncation;

use mirostat::Mirostat;
use penalties::Penalties;
use row::{Candidate, RowError};

use crate::constraint::Mask;
use crate::random::{Draws, RandomStream};
use crate::{Error, Sampling, SamplingParams, TokenId, TokenText};

/// Chooses the tokens of one answer.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: RandomStream,
    penalties: Penalties,
    mirostat: Mirostat,
}

/// The sequence so far, as the sampler sees it.
#[derive(Clone, Copy)]
pub struct SamplerContext<'a> {
    /// Prompt and answer.
    pub tokens: &'a [TokenId],
    /// How many of `tokens` are the prompt.
    pub num_prompt: usize,
    /// Tokens that must not be sampled now (ends of the answer before `min_tokens`).
    pub forbidden: &'a [TokenId],
    /// The tokens that a constraint leaves; all if `None`. The filters and the draw see only these.
    pub legal: Option<&'a Mask>,
    /// The bytes of tokens, for DRY's sequence breakers.
    pub text: &'a dyn TokenText,
}

/// Buffers that samplers share, so that a step allocates nothing.
#[derive(Debug, Default)]
pub struct SamplerScratch {
    /// The row with bias and penalties, if there are any. `[vocab]`
    adjusted: Vec<f32>,
    candidates: Vec<Candidate>,
    sums: Vec<f64>,
}

impl Sampler {
    /// The sampler of answer `index` of a request with this seed.
    pub fn new(sampling: Sampling, seed: u64, index: usize) -> Self {
        let mirostat = Mirostat::new(sampling.params());
        Self { sampling, random: RandomStream::new(seed, index), penalties: Penalties::default(), mirostat }
    }

    /// Chooses the token at position `context.tokens.len()` from the model's logits `[vocab]`, which stay as they are.
    pub fn sample(
        &mut self,
        logits: &[f32],
        context: SamplerContext<'_>,
        scratch: &mut SamplerScratch,
    ) -> Result<TokenId, Error> {
        let position = context.tokens.len();
        self.choose(logits, context, scratch).map_err(|error| match error {
            RowError::Bad { token, value } => Error::BadLogit { token, position, value },
            RowError::Empty => Error::NothingToSample { position },
        })
    }

    fn choose(&mut self, logits: &[f32], context: SamplerContext<'_>, scratch: &mut SamplerScratch) -> Result<TokenId, RowError> {
        let SamplerScratch { adjusted, candidates, sums } = scratch;
        let row = self.adjust(logits, context, adjusted);
        let best = row::best(row)?;
        let params = self.sampling.params();
        let mut draws = self.random.at(context.tokens.len());
        if params.mirostat == 2 {
            return Ok(choose_by_mirostat(&mut self.mirostat, params, row, best, draws.uniform(), candidates, sums));
        }
        if is_greedy(params) {
            return Ok(best.id);
        }
        if is_untruncated(params) {
            return Ok(row::draw(row, best.logit, params.temperature, draws.uniform(), sums));
        }
        gather(params, row, best, candidates, sums);
        filter(params, candidates, sums, &mut draws);
        let (temperature, range, exponent) = (params.temperature, params.dynatemp_range, params.dynatemp_exponent);
        let temperature = truncation::dynamic_temperature(candidates, temperature, range, exponent, sums);
        let chosen = draw(candidates, temperature, draws.uniform(), sums);
        Ok(candidates[chosen].id)
    }

    /// The row with everything that changes single logits applied; the model's own row if nothing does.
    fn adjust<'a>(&mut self, logits: &'a [f32], context: SamplerContext<'_>, adjusted: &'a mut Vec<f32>) -> &'a [f32] {
        let params = self.sampling.params();
        let penalise = !Penalties::is_off(params);
        if params.logit_bias.is_empty()
            && !penalise
            && params.dry_multiplier == 0.0
            && context.forbidden.is_empty()
            && context.legal.is_none()
        {
            return logits;
        }
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        apply_bias(params, adjusted);
        if penalise {
            self.penalties.apply(params, context.tokens, context.num_prompt, adjusted);
        }
        dry::apply(params, context.tokens, context.text, adjusted);
        for &token in context.forbidden {
            if let Some(logit) = adjusted.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        if let Some(legal) = context.legal {
            legal.apply(adjusted);
        }
        adjusted
    }
}

/// Adds `logit_bias`; -100 forbids.
pub(crate) fn apply_bias(params: &SamplingParams, logits: &mut [f32]) {
    for (&token, &bias) in &params.logit_bias {
        logits[token as usize] += if bias == -100.0 { f32::NEG_INFINITY } else { bias };
    }
}

/// Whether the best token is the answer whatever is drawn: no filter could have dropped it.
fn is_greedy(params: &SamplingParams) -> bool {
    params.temperature == 0.0 && params.dynatemp_range == 0.0 && params.typical_p >= 1.0 && !uses_xtc(params)
}

fn is_untruncated(params: &SamplingParams) -> bool {
    let no_filter = params.top_k == 0 && params.top_p >= 1.0 && params.min_p == 0.0 && params.typical_p >= 1.0;
    no_filter && !uses_xtc(params) && params.dynatemp_range == 0.0 && params.temperature > 0.0
}

fn uses_xtc(params: &SamplingParams) -> bool {
    params.xtc_probability > 0.0 && params.xtc_threshold <= 0.5
}

/// The candidates that the filters start from, best first: no more of the row than the first active filter can keep.
fn gather(params: &SamplingParams, row: &[f32], best: Candidate, candidates: &mut Vec<Candidate>, sums: &mut Vec<f64>) {
    if params.top_k > 0 {
        row::top_k(row, params.top_k, candidates);
    } else if params.typical_p >= 1.0 && params.top_p < 1.0 {
        nucleus(row, best, params.top_p, candidates, sums);
    } else if params.typical_p >= 1.0 && params.min_p > 0.0 {
        row::at_least(row, truncation::min_p_threshold(best.logit, params.min_p), candidates);
    } else {
        // Typical-p, XTC or a dynamic temperature over the whole vocabulary: milliseconds, a top-k in front avoids them.
        row::at_least(row, f32::NEG_INFINITY, candidates);
    }
}

/// Top-p over the whole row without sorting it: the best few hundred, and only if they do not reach `p` as many as it takes.
fn nucleus(row: &[f32], best: Candidate, p: f32, candidates: &mut Vec<Candidate>, sums: &mut Vec<f64>) {
    let total = row::sum_exp(row, best.logit, 1.0);
    row::top_k(row, 256, candidates);
    if !keep_nucleus(candidates, best, total, p, sums) {
        let threshold = row::mass_threshold(row, best.logit, f64::from(p) * total, sums);
        row::at_least(row, threshold, candidates);
        keep_nucleus(candidates, best, total, p, sums);
    }
}

/// Cuts the candidates where they reach `p`; false if they do not.
fn keep_nucleus(candidates: &mut Vec<Candidate>, best: Candidate, total: f64, p: f32, sums: &mut Vec<f64>) -> bool {
    sums.clear();
    sums.extend(candidates.iter().map(|c| (f64::from(c.logit) - f64::from(best.logit)).exp() / total));
    let keep = truncation::reaching(sums, f64::from(p));
    candidates.truncate(keep.unwrap_or(usize::MAX));
    keep.is_some()
}

fn filter(params: &SamplingParams, candidates: &mut Vec<Candidate>, sums: &mut Vec<f64>, draws: &mut Draws) {
    truncation::typical_p(candidates, params.typical_p, sums);
    // `gather` has done it otherwise; among its own candidates it would keep less.
    if params.top_k > 0 || params.typical_p < 1.0 {
        truncation::top_p(candidates, params.top_p, sums);
    }
    truncation::min_p(candidates, params.min_p);
    if uses_xtc(params) && draws.uniform() < f64::from(params.xtc_probability) {
        truncation::xtc(candidates, params.xtc_threshold, sums);
    }
}

/// Draws from the softmax of the candidates at a temperature; the best at temperature 0. `uniform` is in [0, 1).
fn draw(candidates: &[Candidate], temperature: f32, uniform: f64, weights: &mut Vec<f64>) -> usize {
    let best = candidates[0].logit;
    if temperature <= 0.0 {
        return 0;
    }
    let weight = |c: &Candidate| (f64::from(c.logit - best) / f64::from(temperature)).exp();
    weights.clear();
    weights.extend(candidates.iter().map(weight));
    let mut target = uniform * weights.iter().sum::<f64>();
    let chosen = weights.iter().position(|&weight| {
        let hit = target < weight;
        target -= weight;
        hit
    });
    // Rounding can leave a crumb of the target: it belongs to the last token that has any weight.
    chosen.or_else(|| weights.iter().rposition(|&weight| weight > 0.0)).unwrap_or(0)
}

/// Temperature, then the tokens of at most the surprise that mirostat allows, then the draw and mirostat's feedback.
fn choose_by_mirostat(
    mirostat: &mut Mirostat,
    params: &SamplingParams,
    row: &[f32],
    best: Candidate,
    uniform: f64,
    candidates: &mut Vec<Candidate>,
    sums: &mut Vec<f64>,
) -> TokenId {
    let temperature = f64::from(params.temperature);
    // With l the logits over the temperature: p(l) >= 2^-mu is l >= ln(2^-mu) + log-sum-exp(l).
    let log_total = row::sum_exp(row, best.logit, params.temperature).ln();
    let threshold = f64::from(best.logit) + temperature * (mirostat.min_probability().ln() + log_total);
    row::at_least(row, (threshold as f32).min(best.logit), candidates);
    candidates.iter_mut().for_each(|candidate| candidate.logit /= params.temperature);
    let chosen = draw(candidates, 1.0, uniform, sums);
    mirostat.observe(params, candidates, chosen, sums);
    candidates[chosen].id
}

#[cfg(test)]
mod tests;
