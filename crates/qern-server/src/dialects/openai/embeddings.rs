//! `POST /v1/embeddings`: texts to vectors, as numbers or as base64 of little-endian floats.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qern_engine::{EmbedRequest, Pooling, TokenId};
use qern_model::tokenizer::{Specials, Tokenizer};
use serde::Serialize;
use serde_json::{Value, json};

use super::settings::{IN_ORDER, PRIORITY, timeout};
use crate::error::ApiError;
use crate::generate::on_a_core;
use crate::limits::JsonBody;
use crate::params::Kind::{Bool, Integer, NoEffect, Number, OneOf, Refused, Shaped, Text};
use crate::params::{Param, Params, is_token_id, param, refused, whole};
use crate::state::{AppState, Model};

/// The fields.
pub(crate) const EMBEDDINGS: &[Param] = &[
    param("model", Text, "The model or adapter, by its name in /v1/models; the first one when left out."),
    param("input", Shaped(input_schema), "A text or a list of texts; for models without a chat template also their tokens."),
    param("encoding_format", OneOf(&["float", "base64"]), "Numbers, or base64 of little-endian 32-bit floats. Default `float`."),
    param("dimensions", Integer(1, 1 << 20), "Must be the model's own width: a shorter vector would be another model's."),
    param("pooling", OneOf(&["mean", "last"]), "The mean of the hidden states, or that of the last token. Default `mean`."),
    param("normalize", Bool, "Whether vectors are scaled to length 1. Default true."),
    param("priority", PRIORITY, IN_ORDER),
    param("timeout", Number(0.001, 86400.0), "Seconds after which the request fails, queue included."),
    param("user", NoEffect, "nothing is kept about users."),
    param("truncate_prompt_tokens", Refused(&[]), "inputs are never cut in silence; shorten them"),
];

/// Inputs of one request, as OpenAI has it.
const MAX_INPUTS: usize = 2048;

struct Read {
    request: EmbedRequest,
    name: String,
    base64: bool,
    model: std::sync::Arc<Model>,
}

/// The handler.
pub(crate) async fn embeddings(State(state): State<AppState>, JsonBody(body): JsonBody) -> Result<Json<Answer>, ApiError> {
    let shared = state.clone();
    let Read { request, name, base64, model } = on_a_core(&state, move || read(&shared, &body)).await?;
    let embeddings = model.engine.embed(request)?.wait_async().await?;
    let entry = |(index, vector): (usize, Vec<f32>)| {
        let embedding = if base64 { Vector::Base64(STANDARD.encode(little_endian(&vector))) } else { Vector::Numbers(vector) };
        Entry { object: "embedding", index, embedding }
    };
    let usage = json!({
        "prompt_tokens": embeddings.prompt_tokens,
        "total_tokens": embeddings.prompt_tokens,
        "prompt_tokens_details": {"cached_tokens": embeddings.cached_tokens},
    });
    let data = embeddings.vectors.into_iter().enumerate().map(entry).collect();
    Ok(Json(Answer { object: "list", data, model: name, usage }))
}

/// The answer. Not a `Value`, which would make every number a wide one.
#[derive(Serialize)]
pub(crate) struct Answer {
    object: &'static str,
    data: Vec<Entry>,
    model: String,
    usage: Value,
}

#[derive(Serialize)]
struct Entry {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

fn read(state: &AppState, body: &[u8]) -> Result<Read, ApiError> {
    let mut params = Params::parse(body, &[EMBEDDINGS])?;
    let target = state.target(params.str("model"))?;
    let model = target.model;
    let Some(width) = model.engine.limits().hidden_size else {
        return Err(ApiError::invalid(format!("`{}` gives no embeddings; ask another model", model.name)).of_param("model"));
    };
    if let Some(asked) = params.count("dimensions").filter(|asked| *asked != width) {
        return Err(refused("dimensions", &format!("be the model's own width, {width}, or left out"), &asked.into()));
    }
    let inputs = inputs(params.take("input").ok_or_else(|| Params::missing("input"))?, &model)?;
    let request = EmbedRequest {
        inputs,
        pooling: if params.str("pooling") == Some("last") { Pooling::Last } else { Pooling::Mean },
        normalize: params.bool("normalize").unwrap_or(true),
        adapter: target.adapter,
        priority: 0,
        timeout: timeout(&params),
    };
    let name = params.str("model").unwrap_or(&model.name).to_owned();
    Ok(Read { request, name, base64: params.str("encoding_format") == Some("base64"), model })
}

fn inputs(value: Value, model: &Model) -> Result<Vec<Vec<TokenId>>, ApiError> {
    let rule = "be a text or a list of texts";
    let list = match value {
        Value::String(_) => vec![value],
        Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_number) => vec![Value::Array(list)],
        Value::Array(list) => list,
        other => return Err(refused("input", rule, &other)),
    };
    if list.is_empty() || list.len() > MAX_INPUTS {
        let message = format!("`input` must hold 1 to {MAX_INPUTS} inputs; given {}", list.len());
        return Err(ApiError::invalid(message).of_param("input"));
    }
    let one = |value: Value| match value {
        Value::String(text) if text.is_empty() => {
            Err(ApiError::invalid("`input` must hold no empty text; leave it out").of_param("input"))
        }
        Value::String(text) => encode(&model.tokenizer, &text),
        Value::Array(_) if model.template.is_some() => {
            let message = "`input` must be texts: token ids of another vocabulary would be embedded as nonsense. LangChain's \
                           OpenAIEmbeddings sends them unless it is made with check_embedding_ctx_length=False";
            Err(ApiError::invalid(message).of_param("input").coded("token_ids_not_allowed"))
        }
        Value::Array(ids) if ids.iter().all(is_token_id) => {
            Ok(ids.iter().filter_map(whole).filter_map(|id| TokenId::try_from(id).ok()).collect())
        }
        other => Err(refused("input", rule, &other)),
    };
    list.into_iter().map(one).collect()
}

/// A text with the tokens that the model wants around one.
fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<TokenId>, ApiError> {
    let mut tokens: Vec<TokenId> = tokenizer.bos_id().filter(|_| tokenizer.add_bos()).into_iter().collect();
    tokens.extend(tokenizer.encode(text, Specials::AsText)?);
    tokens.extend(tokenizer.eos_id().filter(|_| tokenizer.add_eos()));
    Ok(tokens)
}

fn little_endian(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn input_schema() -> Value {
    let text = json!({"type": "string", "minLength": 1});
    json!({"anyOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": MAX_INPUTS}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_of_little_endian_floats() {
        assert_eq!(STANDARD.encode(little_endian(&[1.0, -2.0])), "AACAPwAAAMA=");
    }
}
