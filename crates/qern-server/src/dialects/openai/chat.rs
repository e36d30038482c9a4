//! `POST /v1/chat/completions`: fields to a conversation, and whole answers. Streams are in `chat_stream`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use qern_model::chat::Conversation;
use qern_model::context_window::ContextReport;
use qern_model::template::TemplateOptions;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::chat_stream;
use super::messages::messages;
use super::settings::{MANY, SETTINGS, StreamOptions, settings, streaming, twice};
use super::shapes::{Tally, chat_logprobs, context, context_header, finish_detail, finish_reason, stop_reason};
use crate::error::ApiError;
use crate::generate::{Answer, ChatRequest, Generation, Whole, on_a_core, prepare_chat};
use crate::limits::JsonBody;
use crate::observe::CONTEXT_HEADER;
use crate::params::Kind::{Bool, Integer, NoEffect, OneOf, Refused, Shaped};
use crate::params::{Param, Params, param, refused};
use crate::state::{AppState, Model, now};

const TOOLS: &str = "tools are not there yet; leave it out";

/// The fields beside the shared ones.
pub(crate) const CHAT: &[Param] = &[
    param("messages", Shaped(super::messages::schema), "The conversation."),
    param("max_completion_tokens", Integer(1, MANY), "At most so many tokens in an answer. Default: what the context leaves."),
    param("max_tokens", Integer(1, MANY), "The older name of `max_completion_tokens`."),
    param("n_predict", Integer(-1, MANY), "llama.cpp's name of `max_completion_tokens`; -1 is what the context leaves."),
    param("logprobs", Bool, "Report the log-probability of each token."),
    param("top_logprobs", Integer(0, 20), "With so many of the most probable tokens at its place."),
    param(
        "reasoning_effort",
        OneOf(&["none", "minimal", "low", "medium", "high"]),
        "`none` keeps a model that can think from it; any other lets it.",
    ),
    param("chat_template_kwargs", Shaped(kwargs_schema), "Variables of the model's chat template, such as `enable_thinking`."),
    param("add_generation_prompt", Bool, "End the prompt with the opening of an assistant's message. Default true."),
    param("continue_final_message", Bool, "Go on with the last message instead of beginning a new one."),
    param(
        "strict_context",
        Bool,
        "Refuse a conversation that does not fit, where the oldest turns would be dropped (and reported).",
    ),
    param("parallel_tool_calls", NoEffect, "there are no tools yet."),
    param("store", Refused(&["false"]), "nothing is stored; leave it out"),
    param("tools", Refused(&["[]"]), TOOLS),
    param("tool_choice", Refused(&[r#""none""#, r#""auto""#]), TOOLS),
    param("functions", Refused(&["[]"]), TOOLS),
    param("function_call", Refused(&[r#""none""#, r#""auto""#]), TOOLS),
    param("modalities", Refused(&[r#"["text"]"#]), "answers are text; leave it out"),
    param("audio", Refused(&[]), "answers are text; leave it out"),
    param("prediction", Refused(&[]), "predicted output is not taken; leave it out"),
    param("verbosity", Refused(&[r#""medium""#]), "say in a message how long the answer should be"),
    param("web_search_options", Refused(&[]), "this server searches nothing; leave it out"),
    param("documents", Refused(&["[]"]), "put documents into messages"),
    param("chat_template", Refused(&[]), "the server chooses the template; leave it out"),
    param("mm_processor_kwargs", Refused(&[]), "only text is taken; leave it out"),
    param("prompt_logprobs", Refused(&[]), "use /v1/completions with `echo`"),
    param("echo", Refused(&["false"]), "use /v1/completions"),
];

/// What the answers of a request have in common.
pub(crate) struct Common {
    pub id: String,
    pub created: u64,
    pub model: Arc<Model>,
    /// What the client called it.
    pub name: String,
    pub report: Option<ContextReport>,
    pub logprobs: bool,
}

/// The handler.
pub(crate) async fn chat(State(state): State<AppState>, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let shared = state.clone();
    let (model, name, prepared, streamed, logprobs) = on_a_core(&state, move || {
        let mut params = Params::parse(&body, &[CHAT, SETTINGS])?;
        if shared.config.log_text {
            tracing::info!(body = %String::from_utf8_lossy(&body), "a chat was asked for");
        }
        let target = shared.target(params.str("model"))?;
        let model = target.model;
        let name = params.str("model").unwrap_or(&model.name).to_owned();
        let streamed = streaming(&params)?;
        let mut request = read(&mut params, shared.config.strict_context)?;
        request.settings.adapter = target.adapter;
        let logprobs = request.settings.logprobs.is_some();
        let prepared = prepare_chat(&model, request)?;
        Ok((model, name, prepared, streamed, logprobs))
    })
    .await?;
    let report = prepared.report;
    let id = format!("chatcmpl-{}", Uuid::new_v4().simple());
    let common = Common { id, created: now(), name, report, logprobs, model: model.clone() };
    let generation = Generation::start(&state, &model, prepared)?;
    let mut response = match streamed {
        Some(StreamOptions { include_usage }) => chat_stream::respond(generation, common, include_usage, state.config.ping_after),
        None => {
            let whole = generation.collect().await?;
            if state.config.log_text {
                let texts: Vec<&str> = whole.answers.iter().map(|answer| answer.content.as_str()).collect();
                tracing::info!(?texts, "a chat was answered");
            }
            Json(body_of(&common, &whole)).into_response()
        }
    };
    if let Some(value) = report.and_then(|report| HeaderValue::from_str(&context_header(&report)).ok()) {
        response.headers_mut().insert(HeaderName::from_static(CONTEXT_HEADER), value);
    }
    Ok(response)
}

/// The fields to a request.
fn read(params: &mut Params, strict: bool) -> Result<ChatRequest, ApiError> {
    let mut settings = settings(params)?;
    settings.max_tokens = max_tokens(params)?;
    settings.logprobs = logprobs(params)?;
    let conversation = Conversation::new(messages(params.take("messages").ok_or_else(|| Params::missing("messages"))?)?);
    let continued = params.bool("continue_final_message").unwrap_or(false);
    let template = TemplateOptions {
        add_generation_prompt: params.bool("add_generation_prompt").unwrap_or(!continued),
        continue_final_message: continued,
        kwargs: kwargs(params)?,
        ..TemplateOptions::default()
    };
    Ok(ChatRequest { conversation, settings, template, strict_context: params.bool("strict_context").unwrap_or(strict) })
}

fn max_tokens(params: &Params) -> Result<Option<usize>, ApiError> {
    let names = ["max_completion_tokens", "max_tokens", "n_predict"];
    let given: Vec<(&str, i128)> = names.into_iter().filter_map(|name| Some((name, params.integer(name)?))).collect();
    match given.as_slice() {
        [] => Ok(None),
        // -1 is no limit; 0 would be no answer.
        [(name, 0)] => Err(refused(name, "be at least 1", &0.into())),
        [(_, count)] => Ok(usize::try_from(*count).ok()),
        [(one, a), (_, b), ..] if a == b && *one == "max_completion_tokens" => Ok(usize::try_from(*a).ok()),
        [(one, _), (other, _), ..] => Err(twice(one, other)),
    }
}

fn logprobs(params: &Params) -> Result<Option<usize>, ApiError> {
    match (params.bool("logprobs").unwrap_or(false), params.count("top_logprobs")) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            Err(ApiError::invalid("`top_logprobs` needs `logprobs`: true; set it, or leave it out").of_param("top_logprobs"))
        }
    }
}

/// The variables of the template that a request sets.
pub(crate) fn kwargs(params: &mut Params) -> Result<Map<String, Value>, ApiError> {
    let mut kwargs = match params.take("chat_template_kwargs") {
        Some(Value::Object(object)) => object,
        Some(other) => return Err(refused("chat_template_kwargs", "be an object", &other)),
        None => Map::new(),
    };
    if let Some(other) = kwargs.get("enable_thinking").filter(|value| !value.is_boolean()) {
        return Err(refused("chat_template_kwargs.enable_thinking", "be true or false", other));
    }
    if let Some(effort) = params.str("reasoning_effort") {
        let think = effort != "none";
        match kwargs.get("enable_thinking").and_then(Value::as_bool) {
            Some(switch) if switch != think => {
                return Err(refused("reasoning_effort", "agree with `chat_template_kwargs.enable_thinking`", &effort.into()));
            }
            _ => _ = kwargs.insert("enable_thinking".into(), think.into()),
        }
    }
    Ok(kwargs)
}

/// Their JSON schema.
pub(crate) fn kwargs_schema() -> Value {
    json!({"type": ["object", "null"], "properties": {"enable_thinking": {"type": "boolean"}}})
}

/// The whole answer.
fn body_of(common: &Common, whole: &Whole) -> Value {
    let mut tally = Tally::default();
    whole.answers.iter().filter_map(|answer| answer.finished.as_ref()).for_each(|finished| tally.add(finished));
    let choices: Vec<Value> = whole.answers.iter().enumerate().map(|(index, answer)| choice(common, index, answer)).collect();
    let mut body = json!({
        "id": common.id,
        "object": "chat.completion",
        "created": common.created,
        "model": common.name,
        "choices": choices,
        "usage": tally.usage(),
        "system_fingerprint": FINGERPRINT,
        "service_tier": "default",
        "seed": whole.seed,
    });
    if let Some(report) = &common.report {
        body["context"] = context(report, common.model.context_len);
    }
    body
}

/// What made the answer; together with the seed and the model it determines the text.
pub(crate) const FINGERPRINT: &str = concat!("qern-", env!("CARGO_PKG_VERSION"));

fn choice(common: &Common, index: usize, answer: &Answer) -> Value {
    let mut message = json!({"role": "assistant", "content": answer.content, "refusal": null});
    if !answer.reasoning.is_empty() {
        message["reasoning_content"] = answer.reasoning.as_str().into();
        message["reasoning"] = answer.reasoning.as_str().into();
    }
    let logprobs = if common.logprobs { chat_logprobs(answer.logprobs.iter()) } else { Value::Null };
    let mut choice = json!({"index": index, "message": message, "logprobs": logprobs});
    if let Some(finished) = &answer.finished {
        choice["finish_reason"] = finish_reason(&finished.reason).into();
        choice["stop_reason"] = stop_reason(&finished.reason);
        choice["finish_detail"] = finish_detail(&finished.reason).into();
    }
    choice
}
