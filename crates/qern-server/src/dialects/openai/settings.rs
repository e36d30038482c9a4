//! The fields that chat and text completions share: sampling, lengths, stops, and everything that is known but not supported.

use std::time::Duration;

use qern_engine::{BeamParams, EarlyStopping, SamplingOverrides};

use crate::error::ApiError;
use crate::generate::Settings;
use crate::params::Kind::{Bool, Integer, NoEffect, Number, NumberMap, Refused, Shaped, Text, Texts, TokenIds};
use crate::params::{Kind, Param, Params, param};
use serde_json::{Value, json};

/// More tokens than any context has.
pub(crate) const MANY: i128 = i32::MAX as i128;
/// The field `priority`: the engine has one queue.
pub(crate) const PRIORITY: Kind = Refused(&["0"]);
/// Why.
pub(crate) const IN_ORDER: &str = "requests run in the order they come; leave it out";
const LATER: &str = "structured output is not there yet; leave it out";

/// The fields.
pub(crate) const SETTINGS: &[Param] = &[
    param("model", Text, "The model or adapter, by its name in /v1/models; the first one when left out."),
    param("stream", Bool, "Send the answer as server-sent events while it is made."),
    param("stream_options", Shaped(stream_options_schema), "`include_usage`: end the stream with an event that has `usage`."),
    // Sampling.
    param(
        "temperature",
        Number(0.0, 100.0),
        "0 takes the likeliest token, 1 samples as the model predicts. Default: the model's.",
    ),
    param("top_p", Number(0.0, 1.0), "Only the likeliest tokens that together have this probability."),
    param("top_k", Integer(-1, MANY), "Only so many of the likeliest tokens; 0 and -1 are off."),
    param("min_p", Number(0.0, 1.0), "Only tokens at least so many times as likely as the likeliest."),
    param("typical_p", Number(0.0, 1.0), "Only the most typical tokens that together have this probability."),
    param("presence_penalty", Number(-2.0, 2.0), "Subtracted from the logits of tokens already in the answer."),
    param("frequency_penalty", Number(-2.0, 2.0), "Subtracted from a token's logit for every time it is in the answer."),
    param("repetition_penalty", Number(0.001, 100.0), "Divides the logits of tokens already used; 1 is off."),
    param("repeat_penalty", Number(0.001, 100.0), "llama.cpp's name of `repetition_penalty`."),
    param("repeat_last_n", Integer(-1, MANY), "How many of the last tokens the three penalties look at; -1 is all."),
    param("dynatemp_range", Number(0.0, 100.0), "How far the temperature moves with the entropy; 0 is off."),
    param("dynatemp_exponent", Number(0.001, 100.0), "Exponent of the entropy for the moving temperature."),
    param("dry_multiplier", Number(0.0, 100.0), "DRY: strength of the penalty on continuing a repetition; 0 is off."),
    param("dry_base", Number(1.0, 100.0), "DRY: how fast the penalty grows with the repetition's length."),
    param("dry_allowed_length", Integer(1, MANY), "DRY: repetitions shorter than this are free."),
    param("dry_penalty_last_n", Integer(-1, MANY), "DRY: how many of the last tokens are searched; -1 is all."),
    param("dry_sequence_breakers", Texts(64), "DRY: texts that end a repetition."),
    param("xtc_probability", Number(0.0, 1.0), "XTC: how often the likeliest tokens are left out; 0 is off."),
    param(
        "xtc_threshold",
        Number(0.0, 1.0),
        "XTC: tokens at least this likely may be left out, all but the least likely of them.",
    ),
    param("mirostat", Integer(0, 2), "0 is off; 2 is Mirostat 2, in place of the settings that cut off unlikely tokens."),
    param("mirostat_tau", Number(0.001, 100.0), "Mirostat's target surprise in bits."),
    param("mirostat_eta", Number(0.001, 1.0), "Mirostat's learning rate."),
    param("logit_bias", NumberMap(-100.0, 100.0), "Added to the logits of tokens, by id; -100 forbids."),
    param(
        "seed",
        Integer(i64::MIN as i128, u64::MAX as i128),
        "The same seed gives the same text, at any load. Drawn when left out.",
    ),
    param("n", Integer(1, 128), "How many answers."),
    param("use_beam_search", Bool, "Search for the `n` most probable answers instead of sampling."),
    param("length_penalty", Number(-10.0, 10.0), "Beam search: scores are divided by length to this power."),
    param("early_stopping", Bool, "Beam search: end as soon as there are enough answers."),
    // Length.
    param("stop", Texts(64), "Texts that end the answer."),
    param("include_stop_str_in_output", Bool, "Whether the text that ended the answer is part of it."),
    param("stop_token_ids", TokenIds(64), "Tokens that end the answer."),
    param("ignore_eos", Bool, "Go on past the model's end-of-answer token."),
    param("min_tokens", Integer(0, MANY), "At least so many tokens before the answer may end."),
    param("skip_special_tokens", Bool, "Whether special tokens are left out of the text. Default true."),
    param("timeout", Number(0.001, 86400.0), "Seconds after which the answer ends with what it has, queue included."),
    // Known, and without effect on us.
    param("user", NoEffect, "nothing is kept about users."),
    param("metadata", NoEffect, "nothing is stored, so there is nothing to label."),
    param("safety_identifier", NoEffect, "nothing is kept about users."),
    param("prompt_cache_key", NoEffect, "no prompt is kept for another request yet."),
    param("prompt_cache_retention", NoEffect, "no prompt is kept for another request yet."),
    param("cache_prompt", NoEffect, "no prompt is kept for another request yet; an answer would be the same to the bit."),
    param("request_id", NoEffect, "requests are identified by the header `x-request-id`."),
    // Known, and not supported; values that ask for nothing are taken.
    param("priority", PRIORITY, IN_ORDER),
    param("response_format", Refused(&[r#"{"type":"text"}"#]), LATER),
    param("json_schema", Refused(&[]), LATER),
    param("grammar", Refused(&[r#""""#]), LATER),
    param("guided_json", Refused(&[]), LATER),
    param("guided_regex", Refused(&[]), LATER),
    param("guided_choice", Refused(&[]), LATER),
    param("guided_grammar", Refused(&[]), LATER),
    param("guided_decoding_backend", Refused(&[]), LATER),
    param("structured_outputs", Refused(&[]), LATER),
    param("best_of", Refused(&["1"]), "ask for `n` answers and choose, or use `use_beam_search`"),
    param("service_tier", Refused(&[r#""auto""#, r#""default""#]), "there is one tier; leave it out"),
    param("logits_processors", Refused(&["[]"]), "no code of clients is run; leave it out"),
    param("allowed_token_ids", Refused(&["[]"]), "use `logit_bias`"),
    param("bad_words", Refused(&["[]"]), "use `logit_bias`"),
    param(
        "truncate_prompt_tokens",
        Refused(&[]),
        "prompts are never cut in silence; see `strict_context` and `context` in answers",
    ),
    param("spaces_between_special_tokens", Refused(&["true"]), "the text is that of the tokens; leave it out"),
    param("add_special_tokens", Refused(&[]), "the template and the tokenizer say which there are; leave it out"),
    param("samplers", Refused(&["[]"]), "the order of the samplers is fixed; leave it out"),
    param("tfs_z", Refused(&["1"]), "use `min_p` or `top_p`"),
    param("n_probs", Refused(&["0"]), "use `logprobs`"),
    param("id_slot", Refused(&["-1"]), "there are no slots; leave it out"),
    param("n_keep", Refused(&["0", "-1"]), "prompts are never cut in silence; leave it out"),
];

/// What the fields ask for.
pub(crate) fn settings(params: &Params) -> Result<Settings, ApiError> {
    if params.both("repetition_penalty", "repeat_penalty") {
        return Err(twice("repetition_penalty", "repeat_penalty"));
    }
    let n = params.count("n").unwrap_or(1);
    let beam = match params.bool("use_beam_search") {
        Some(true) => Some(BeamParams {
            width: n.max(2),
            length_penalty: params.f32("length_penalty").unwrap_or(1.0),
            early_stopping: match params.bool("early_stopping") {
                Some(true) => EarlyStopping::Immediate,
                _ => EarlyStopping::Heuristic,
            },
        }),
        _ => {
            for name in ["length_penalty", "early_stopping"] {
                if params.get(name).is_some() {
                    let message = format!("`{name}` needs `use_beam_search`: true; set it, or leave `{name}` out");
                    return Err(ApiError::invalid(message).of_param(name));
                }
            }
            None
        }
    };
    Ok(Settings {
        sampling: sampling(params)?,
        min_tokens: params.count("min_tokens").unwrap_or(0),
        stop: params.texts("stop").unwrap_or_default(),
        include_stop: params.bool("include_stop_str_in_output").unwrap_or(false),
        stop_token_ids: params.token_ids("stop_token_ids").unwrap_or_default(),
        ignore_eos: params.bool("ignore_eos").unwrap_or(false),
        show_special: params.bool("skip_special_tokens") == Some(false),
        n,
        beam,
        // A negative seed is as good as any: its bits are taken.
        seed: params.integer("seed").map(|seed| seed as u64),
        timeout: timeout(params),
        ..Settings::default()
    })
}

/// The time that a request may take.
pub(crate) fn timeout(params: &Params) -> Option<Duration> {
    params.f32("timeout").and_then(|seconds| Duration::try_from_secs_f32(seconds).ok())
}

fn sampling(params: &Params) -> Result<SamplingOverrides, ApiError> {
    // -1 and, for the penalties, more than there are: everything.
    let window = |name: &str| params.integer(name).map(|count| usize::try_from(count).ok());
    Ok(SamplingOverrides {
        temperature: params.f32("temperature"),
        dynatemp_range: params.f32("dynatemp_range"),
        dynatemp_exponent: params.f32("dynatemp_exponent"),
        top_k: params.integer("top_k").map(|k| usize::try_from(k).unwrap_or(0)),
        top_p: params.f32("top_p"),
        min_p: params.f32("min_p"),
        typical_p: params.f32("typical_p"),
        repetition_penalty: params.f32("repetition_penalty").or_else(|| params.f32("repeat_penalty")),
        presence_penalty: params.f32("presence_penalty"),
        frequency_penalty: params.f32("frequency_penalty"),
        penalty_last_n: window("repeat_last_n"),
        dry_multiplier: params.f32("dry_multiplier"),
        dry_base: params.f32("dry_base"),
        dry_allowed_length: params.count("dry_allowed_length"),
        dry_last_n: window("dry_penalty_last_n"),
        dry_sequence_breakers: params.texts("dry_sequence_breakers"),
        xtc_probability: params.f32("xtc_probability"),
        xtc_threshold: params.f32("xtc_threshold"),
        mirostat: params.integer("mirostat").and_then(|version| u8::try_from(version).ok()),
        mirostat_tau: params.f32("mirostat_tau"),
        mirostat_eta: params.f32("mirostat_eta"),
        logit_bias: params.biases("logit_bias")?,
    })
}

/// The error for two names of one thing.
pub(crate) fn twice(one: &str, other: &str) -> ApiError {
    ApiError::invalid(format!("`{one}` and `{other}` mean the same; give one of them")).of_param(other)
}

/// Whether the answer is streamed, and whether its usage is to follow.
pub(crate) fn streaming(params: &Params) -> Result<Option<StreamOptions>, ApiError> {
    let streamed = params.bool("stream").unwrap_or(false);
    let Some(options) = params.get("stream_options") else {
        return Ok(streamed.then_some(StreamOptions { include_usage: false }));
    };
    if !streamed {
        return Err(
            ApiError::invalid("`stream_options` needs `stream`: true; set it, or leave them out").of_param("stream_options")
        );
    }
    let Value::Object(options) = options else {
        return Err(crate::params::refused("stream_options", "be an object", options));
    };
    let known = ["include_usage", "include_obfuscation"];
    for (name, value) in options {
        if !known.contains(&name.as_str()) {
            return Err(crate::params::unknown(name, known.into_iter())
                .of_param(&format!("stream_options.{}", crate::params::short(name))));
        }
        if !value.is_boolean() && !value.is_null() {
            return Err(crate::params::refused(&format!("stream_options.{name}"), "be true or false", value));
        }
    }
    let include_usage = options.get("include_usage").and_then(Value::as_bool).unwrap_or(false);
    Ok(Some(StreamOptions { include_usage }))
}

/// How the answer is streamed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamOptions {
    /// End with an event that has `usage`.
    pub include_usage: bool,
}

fn stream_options_schema() -> Value {
    json!({
        "type": ["object", "null"],
        "properties": {
            "include_usage": {"type": ["boolean", "null"]},
            "include_obfuscation": {"type": ["boolean", "null"], "description": "Accepted without effect: events are not padded."},
        },
        "additionalProperties": false,
    })
}
