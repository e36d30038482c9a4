//! The sampling flags, once for every command that generates. Not the sampler: unset flags take the model's own
//! recommendation, else the engine's default, and the engine validates what the set ones mean together.

use clap::Args;
use std::fmt::Display;
use std::str::FromStr;

/// How the next token is chosen. `None` and empty mean: not asked for.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sampling (defaults: the model's own recommendation)")]
pub struct SamplingArgs {
    /// Randomness: 0 always takes the likeliest token, 1 samples as the model predicts
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = number::<f32, 0, 100>)]
    pub temperature: Option<f32>,
    /// Only the K likeliest tokens; 0 for all
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Only the likeliest tokens that together have probability P
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number::<f32, 0, 1>)]
    pub top_p: Option<f32>,
    /// Only tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number::<f32, 0, 1>)]
    pub min_p: Option<f32>,
    /// Only the most typical tokens that together have probability P
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number::<f32, 0, 1>)]
    pub typical_p: Option<f32>,
    /// Seed of the random choices: the same seed gives the same text [default: drawn anew]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Divide the logits of tokens already used; 1 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number::<f32, 0, 100>)]
    pub repetition_penalty: Option<f32>,
    /// Subtract this from the logits of tokens already used; negative values encourage them
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number::<f32, -2, 2>)]
    pub presence_penalty: Option<f32>,
    /// Subtract this from a token's logit for every time it was used
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number::<f32, -2, 2>)]
    pub frequency_penalty: Option<f32>,
    /// How many of the last tokens the three penalties look at; 0 for all
    #[arg(long, value_name = "TOKENS")]
    pub penalty_window: Option<u32>,

    /// DRY: strength of the penalty on repeating whole passages; 0 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number::<f32, 0, 100>)]
    pub dry_multiplier: Option<f32>,
    /// DRY: how fast the penalty grows with the length of the repeated passage
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number::<f32, 1, 100>)]
    pub dry_base: Option<f32>,
    /// DRY: repeats up to this long are free
    #[arg(long, value_name = "TOKENS")]
    pub dry_allowed_length: Option<u32>,
    /// DRY: how many of the last tokens are searched; 0 for all
    #[arg(long, value_name = "TOKENS")]
    pub dry_window: Option<u32>,
    /// DRY: a text that ends a passage (may be given again)
    #[arg(long, value_name = "TEXT")]
    pub dry_breaker: Vec<String>,

    /// XTC: how often the likeliest tokens are left out; 0 is off
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number::<f32, 0, 1>)]
    pub xtc_probability: Option<f32>,
    /// XTC: tokens at least this likely may be left out, all but the least likely of them
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number::<f32, 0, 1>)]
    pub xtc_threshold: Option<f32>,

    /// Mirostat 2: keep the surprise of each token near a target, in place of top-k, top-p, min-p and typical-p
    #[arg(long, conflicts_with_all = ["top_k", "top_p", "min_p", "typical_p"])]
    pub mirostat: bool,
    /// Mirostat 2: the target surprise in bits
    #[arg(long, value_name = "BITS", requires = "mirostat", allow_negative_numbers = true, value_parser = number::<f32, 0, 100>)]
    pub mirostat_tau: Option<f32>,
    /// Mirostat 2: how fast it adapts
    #[arg(long, value_name = "X", requires = "mirostat", allow_negative_numbers = true, value_parser = number::<f32, 0, 1>)]
    pub mirostat_eta: Option<f32>,

    /// Add BIAS to the logit of token ID (may be given again); -100 forbids, 100 forces
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias)]
    pub logit_bias: Vec<(u32, f32)>,

    /// End before this text (may be given again)
    #[arg(long, value_name = "TEXT", help_heading = "Length")]
    pub stop: Vec<String>,
    /// At most this many tokens in an answer [default: what the context leaves]
    #[arg(short = 'x', long, value_name = "TOKENS", help_heading = "Length", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// At least this many tokens before the answer may end
    #[arg(long, value_name = "TOKENS", help_heading = "Length")]
    pub min_tokens: Option<u32>,
    /// Go on past the model's end-of-answer token
    #[arg(long, help_heading = "Length")]
    pub ignore_eos: bool,

    /// How many answers to give
    #[arg(short, long = "n", value_name = "N", help_heading = "Answers", value_parser = clap::value_parser!(u32).range(1..=128))]
    pub n: Option<u32>,
    /// Give each token's log-probability and those of the TOP likeliest at its place (0 to 20)
    #[arg(long, value_name = "TOP", help_heading = "Answers", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=20))]
    pub logprobs: Option<u8>,
    /// Beam search: follow the WIDTH likeliest continuations, in place of sampling
    #[arg(long, value_name = "WIDTH", help_heading = "Answers", conflicts_with = "mirostat")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub beams: Option<u32>,
    /// Beam search: scores are divided by length to this power; above 1 prefers longer answers
    #[arg(long, value_name = "X", help_heading = "Answers", requires = "beams")]
    #[arg(allow_negative_numbers = true, value_parser = number::<f32, -10, 10>)]
    pub length_penalty: Option<f32>,
}

impl SamplingArgs {
    /// The first flag given that makes sense for one answer out of context but not in a conversation, if any: `chat`
    /// refuses it, so that nothing is ignored in silence.
    pub fn meaningless_in_chat(&self) -> Option<&'static str> {
        [
            ("--n", self.n.is_some_and(|n| n > 1)),
            ("--logprobs", self.logprobs.is_some()),
            ("--beams", self.beams.is_some()),
            ("--ignore-eos", self.ignore_eos),
        ]
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
    }
}

/// A finite number from `LOW` to `HIGH`.
fn number<T: FromStr + Display + Into<f64> + Copy, const LOW: i32, const HIGH: i32>(text: &str) -> Result<T, String> {
    let rule = || format!("must be a number from {LOW} to {HIGH}");
    let value: T = text.parse().map_err(|_| rule())?;
    let wide: f64 = value.into();
    if wide >= f64::from(LOW) && wide <= f64::from(HIGH) { Ok(value) } else { Err(rule()) }
}

/// `ID=BIAS`.
fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("must be a token id and a bias, as in 1234=-100")?;
    let id = id.trim().parse().map_err(|_| format!("token id `{id}` must be a whole number"))?;
    let bias = number::<f32, -100, 100>(bias.trim()).map_err(|rule| format!("bias `{bias}` {rule}"))?;
    Ok((id, bias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_to_their_range() {
        assert_eq!(number::<f32, 0, 1>("0.5"), Ok(0.5));
        assert_eq!(number::<f32, 0, 1>("1"), Ok(1.0));
        for wrong in ["1.01", "-0.1", "nan", "inf", "", "x"] {
            assert!(number::<f32, 0, 1>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bias_is_an_id_and_a_number() {
        assert_eq!(logit_bias("15=-100"), Ok((15, -100.0)));
        for wrong in ["15", "=1", "15=", "-1=2", "15=200", "15=nan"] {
            assert!(logit_bias(wrong).is_err(), "{wrong}");
        }
    }
}
