//! Settings to an engine request. A flag wins over the model's own recommendation, which wins over Qern's default; `describe`
//! says which it was. The recommendation is the engine's (`qern_engine::recommended`); ranges are checked by the command line
//! and the engine, not here.

use qern_engine::{BeamParams, EarlyStopping, GenerateRequest, SamplingOverrides, SamplingParams, TokenId, recommended};
use qern_model::generation::GenerationDefaults;

use crate::cli::SamplingArgs;

/// The request for `prompt` with these settings.
pub fn request(prompt: Vec<TokenId>, args: &SamplingArgs, defaults: &GenerationDefaults) -> GenerateRequest {
    GenerateRequest {
        prompt,
        sampling: sampling(args, defaults),
        max_tokens: args.max_tokens.map(|tokens| tokens as usize),
        min_tokens: args.min_tokens.unwrap_or(0) as usize,
        stop: args.stop.iter().map(|text| unescape(text)).collect(),
        ignore_eos: args.ignore_eos,
        n: args.n.unwrap_or(1) as usize,
        logprobs: args.logprobs.map(usize::from),
        beam: args.beams.map(|width| BeamParams {
            width: width as usize,
            length_penalty: args.length_penalty.unwrap_or(1.0),
            early_stopping: EarlyStopping::Heuristic,
        }),
        seed: args.seed,
        ..GenerateRequest::default()
    }
}

/// How tokens are chosen.
pub fn sampling(args: &SamplingArgs, defaults: &GenerationDefaults) -> SamplingParams {
    // Beam search does not sample: what was recommended for sampling is not for it.
    let base = if args.beams.is_some() { SamplingParams::default() } else { recommended(defaults) };
    overrides(args).over(base)
}

fn overrides(args: &SamplingArgs) -> SamplingOverrides {
    let window = |asked: Option<u32>| asked.map(|tokens| (tokens > 0).then_some(tokens as usize));
    SamplingOverrides {
        temperature: args.temperature,
        top_k: args.top_k.map(|k| k as usize),
        top_p: args.top_p,
        min_p: args.min_p,
        typical_p: args.typical_p,
        repetition_penalty: args.repetition_penalty,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        penalty_last_n: window(args.penalty_window),
        dry_multiplier: args.dry_multiplier,
        dry_base: args.dry_base,
        dry_allowed_length: args.dry_allowed_length.map(|tokens| tokens as usize),
        dry_last_n: window(args.dry_window),
        dry_sequence_breakers: match args.dry_breaker.as_slice() {
            [] => None,
            breakers => Some(breakers.iter().map(|text| unescape(text)).collect()),
        },
        xtc_probability: args.xtc_probability,
        xtc_threshold: args.xtc_threshold,
        mirostat: args.mirostat.then_some(2),
        mirostat_tau: args.mirostat_tau,
        mirostat_eta: args.mirostat_eta,
        logit_bias: (!args.logit_bias.is_empty()).then(|| args.logit_bias.iter().copied().collect()),
        ..SamplingOverrides::default()
    }
}

/// One setting as it is in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The flag's name without dashes.
    pub key: &'static str,
    /// The value.
    pub value: String,
    /// Who said so.
    pub source: Source,
}

/// Where a setting's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The user, by a flag or `/set`.
    You,
    /// The model's recommendation.
    Model,
    /// Qern.
    Default,
}

impl Source {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Source::You => "set by you",
            Source::Model => "the model's",
            Source::Default => "default",
        }
    }
}

/// Every setting that is in effect, in the order of the flags.
pub fn describe(args: &SamplingArgs, defaults: &GenerationDefaults) -> Vec<Effective> {
    let used = sampling(args, defaults);
    let model_counts = args.beams.is_none();
    let truncation = model_counts && !args.mirostat;
    let mut rows = Vec::new();
    let mut row = |key, value: String, asked: bool, recommended: bool| {
        let source = if asked {
            Source::You
        } else if recommended {
            Source::Model
        } else {
            Source::Default
        };
        rows.push(Effective { key, value, source });
    };
    let tokens = |count: Option<usize>, none: &str| count.map_or(none.to_string(), |count| count.to_string());
    let texts = |texts: &[String]| if texts.is_empty() { "none".into() } else { format!("{texts:?}") };
    row("temperature", used.temperature.to_string(), args.temperature.is_some(), model_counts && defaults.temperature.is_some());
    row("top-k", off(used.top_k, 0), args.top_k.is_some(), truncation && defaults.top_k.is_some());
    row("top-p", off(used.top_p, 1.0), args.top_p.is_some(), truncation && defaults.top_p.is_some());
    row("min-p", off(used.min_p, 0.0), args.min_p.is_some(), truncation && defaults.min_p.is_some());
    row("typical-p", off(used.typical_p, 1.0), args.typical_p.is_some(), false);
    row("seed", args.seed.map_or("drawn for every answer".into(), |seed| seed.to_string()), args.seed.is_some(), false);
    let recommended = model_counts && defaults.repetition_penalty.is_some();
    row("repetition-penalty", off(used.repetition_penalty, 1.0), args.repetition_penalty.is_some(), recommended);
    row("presence-penalty", off(used.presence_penalty, 0.0), args.presence_penalty.is_some(), false);
    row("frequency-penalty", off(used.frequency_penalty, 0.0), args.frequency_penalty.is_some(), false);
    row("penalty-window", tokens(used.penalty_last_n, "all"), args.penalty_window.is_some(), false);
    row("dry-multiplier", off(used.dry_multiplier, 0.0), args.dry_multiplier.is_some(), false);
    row("dry-base", used.dry_base.to_string(), args.dry_base.is_some(), false);
    row("dry-allowed-length", used.dry_allowed_length.to_string(), args.dry_allowed_length.is_some(), false);
    row("dry-window", tokens(used.dry_last_n, "all"), args.dry_window.is_some(), false);
    row("dry-breaker", texts(&used.dry_sequence_breakers), !args.dry_breaker.is_empty(), false);
    row("xtc-probability", off(used.xtc_probability, 0.0), args.xtc_probability.is_some(), false);
    row("xtc-threshold", used.xtc_threshold.to_string(), args.xtc_threshold.is_some(), false);
    row("mirostat", if args.mirostat { "on".into() } else { "off".into() }, args.mirostat, false);
    row("mirostat-tau", used.mirostat_tau.to_string(), args.mirostat_tau.is_some(), false);
    row("mirostat-eta", used.mirostat_eta.to_string(), args.mirostat_eta.is_some(), false);
    let biases: Vec<String> = used.logit_bias.iter().map(|(id, bias)| format!("{id}={bias}")).collect();
    row("logit-bias", if biases.is_empty() { "none".into() } else { biases.join(" ") }, !biases.is_empty(), false);
    row("stop", texts(&args.stop), !args.stop.is_empty(), false);
    let max_tokens = args.max_tokens.map_or("what the context leaves".into(), |tokens| tokens.to_string());
    row("max-tokens", max_tokens, args.max_tokens.is_some(), false);
    row("min-tokens", off(args.min_tokens.unwrap_or(0), 0), args.min_tokens.is_some(), false);
    rows
}

/// The settings that are not neutral, in one line: for `-v`.
pub fn summary(args: &SamplingArgs, defaults: &GenerationDefaults) -> String {
    const ALWAYS: [&str; 3] = ["temperature", "top-k", "top-p"];
    let shown = describe(args, defaults)
        .into_iter()
        .filter(|row| row.source != Source::Default || ALWAYS.contains(&row.key) || row.key == "min-p" && row.value != "off");
    shown.map(|row| format!("{} {} ({})", row.key, row.value, row.source.name())).collect::<Vec<_>>().join(", ")
}

fn off<T: PartialEq + ToString>(value: T, neutral: T) -> String {
    if value == neutral { "off".into() } else { value.to_string() }
}

/// `\n`, `\t`, `\r`, `\0` and `\\` as a shell cannot easily type them; any other backslash is itself.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(ch) = chars.next() {
        let escaped = match (ch, chars.as_str().chars().next()) {
            ('\\', Some('n')) => '\n',
            ('\\', Some('t')) => '\t',
            ('\\', Some('r')) => '\r',
            ('\\', Some('0')) => '\0',
            ('\\', Some('\\')) => '\\',
            _ => {
                out.push(ch);
                continue;
            }
        };
        out.push(escaped);
        chars.next();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::settings::Settings;

    fn check(line: &[(&str, &str)], defaults: &GenerationDefaults, expected: SamplingParams) {
        let mut settings = Settings::default();
        // Mirostat's own settings need it first, and it excludes others: set them as one line.
        let given = line.iter().map(|(key, value)| (key.to_string(), vec![value.to_string()])).collect();
        settings.sampling = Settings::from_given(&given, None).unwrap().sampling;
        assert_eq!(sampling(&settings.sampling, defaults), expected, "{line:?}");
    }

    fn qwen() -> GenerationDefaults {
        GenerationDefaults { temperature: Some(0.6), top_p: Some(0.9), top_k: Some(20), ..GenerationDefaults::default() }
    }

    #[test]
    fn a_flag_wins_over_the_model_which_wins_over_qern() {
        let neutral = SamplingParams::default;
        let none = GenerationDefaults::default();
        check(&[], &none, SamplingParams { temperature: 0.7, top_p: 0.95, min_p: 0.05, ..neutral() });
        check(&[], &qwen(), SamplingParams { temperature: 0.6, top_p: 0.9, top_k: 20, ..neutral() });
        check(&[("top-p", "0.5")], &qwen(), SamplingParams { temperature: 0.6, top_p: 0.5, top_k: 20, ..neutral() });
        check(&[("temperature", "0")], &none, SamplingParams { temperature: 0.0, top_p: 0.95, min_p: 0.05, ..neutral() });
    }

    #[test]
    fn mirostat_replaces_the_models_truncation() {
        let expected = SamplingParams { temperature: 0.6, mirostat: 2, mirostat_tau: 4.0, ..SamplingParams::default() };
        check(&[("mirostat", "on"), ("mirostat-tau", "4")], &qwen(), expected);
    }

    #[test]
    fn windows_of_zero_look_at_everything() {
        let expected =
            SamplingParams { temperature: 0.6, top_p: 0.9, top_k: 20, dry_last_n: Some(9), ..SamplingParams::default() };
        check(&[("penalty-window", "0"), ("dry-window", "9")], &qwen(), expected);
    }

    #[test]
    fn beam_search_takes_nothing_from_the_model() {
        let args = SamplingArgs { beams: Some(4), ..SamplingArgs::default() };
        assert_eq!(sampling(&args, &qwen()), SamplingParams::default());
    }

    #[test]
    fn stops_read_escapes() {
        for (typed, read) in [(r"\n\n", "\n\n"), (r"a\tb", "a\tb"), (r"\\n", r"\n"), (r"\d", r"\d"), ("\\", "\\")] {
            assert_eq!(unescape(typed), read, "{typed:?}");
        }
    }

    #[test]
    fn every_setting_says_where_it_comes_from() {
        let args = SamplingArgs { top_p: Some(0.5), ..SamplingArgs::default() };
        let source = |key: &str| describe(&args, &qwen()).into_iter().find(|row| row.key == key).unwrap().source;
        assert_eq!((source("top-p"), source("top-k"), source("min-p")), (Source::You, Source::Model, Source::Default));
        let described: Vec<_> = describe(&args, &qwen()).into_iter().map(|row| row.key.to_string()).collect();
        let keys: Vec<_> = Settings::keys().into_iter().filter(|key| key != "think").collect();
        assert_eq!(described, keys);
        assert_eq!(summary(&args, &qwen()), "temperature 0.6 (the model's), top-k 20 (the model's), top-p 0.5 (set by you)");
    }
}
