//! `GET /openapi.json`: what the server takes and gives, made from the same tables that check requests.

use axum::Json;
use serde_json::{Map, Value, json};

use crate::dialects::openai::{chat::CHAT, completions::COMPLETIONS, embeddings::EMBEDDINGS, settings::SETTINGS};
use crate::lora_api::{LOAD, UNLOAD};
use crate::params::schema;
use crate::tokenize::{DETOKENIZE, TOKENIZE};

/// The handler.
pub(crate) async fn document() -> Json<Value> {
    Json(openapi())
}

/// The document.
fn openapi() -> Value {
    let chat = schema(&[CHAT, SETTINGS], &["messages"]);
    let completions = schema(&[COMPLETIONS, SETTINGS], &["prompt"]);
    let stream = json!({"text/event-stream": {"schema": {"type": "string"}}});
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Qern", "version": env!("CARGO_PKG_VERSION"), "description": "Language models on this machine, by the API of OpenAI."},
        "paths": {
            "/v1/chat/completions": {"post": posting("Answer a conversation.", chat, chat_answer(), Some(&stream))},
            "/v1/completions": {"post": posting("Go on after a text.", completions, text_answer(), Some(&stream))},
            "/v1/embeddings": {"post": posting("Texts to vectors.", schema(&[EMBEDDINGS], &["input"]), vectors(), None)},
            "/tokenize": {"post": posting("A text or a conversation to tokens.", schema(&[TOKENIZE], &[]), tokens(), None)},
            "/detokenize": {"post": posting("Tokens to a text.", schema(&[DETOKENIZE], &["tokens"]), text(), None)},
            "/tokenizer_info": {"get": tokenizer_info()},
            "/v1/load_lora_adapter": {"post": changing("Load an adapter.", schema(&[LOAD], &["lora_name", "lora_path"]))},
            "/v1/unload_lora_adapter": {"post": changing("Unload an adapter.", schema(&[UNLOAD], &["lora_name"]))},
            "/v1/models": {"get": getting("The models and adapters.", list_of("#/components/schemas/Model"), &[])},
            "/v1/models/{name}": {"get": named_model()},
            "/health": {"get": probe("Whether requests are taken.", &["503"])},
            "/health/live": {"get": probe("Whether the process answers.", &[])},
            "/health/ready": {"get": probe("Whether requests are taken.", &["503"])},
            "/metrics": {"get": {
                "summary": "Metrics in Prometheus' text format.",
                "security": security(),
                "responses": responses(json!({"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}), &["401"]),
            }},
            "/openapi.json": {"get": getting_open("This document.", json!({"type": "object"}), &[])},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": error(), "Model": model(), "Usage": usage()},
        },
    })
}

fn posting(summary: &str, body: Value, answer: Value, stream: Option<&Value>) -> Value {
    let mut content = json!({"application/json": {"schema": answer}});
    if let (Some(content), Some(Value::Object(stream))) = (content.as_object_mut(), stream) {
        content.extend(stream.clone());
    }
    json!({
        "summary": summary,
        "security": security(),
        "requestBody": {"required": true, "content": {"application/json": {"schema": body}}},
        "responses": responses(
            json!({"description": "The answer.", "content": content}),
            &["400", "401", "403", "404", "408", "413", "415", "429", "500", "503"],
        ),
    })
}

/// For administrators; says in a line what was done.
fn changing(summary: &str, body: Value) -> Value {
    let mut operation = posting(summary, body, json!({}), None);
    operation["responses"]["200"] = json!({"description": "Done.", "content": {"text/plain": {"schema": {"type": "string"}}}});
    operation
}

fn getting(summary: &str, answer: Value, errors: &[&str]) -> Value {
    let mut operation = getting_open(summary, answer, &[errors, &["401"]].concat());
    operation["security"] = security();
    operation
}

fn getting_open(summary: &str, answer: Value, errors: &[&str]) -> Value {
    let done = json!({"description": "Done.", "content": {"application/json": {"schema": answer}}});
    json!({"summary": summary, "responses": responses(done, errors)})
}

fn probe(summary: &str, errors: &[&str]) -> Value {
    getting_open(summary, json!({"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}), errors)
}

fn tokenizer_info() -> Value {
    let mut operation = getting("What a tokenizer is like.", json!({"type": "object"}), &["400", "404"]);
    operation["parameters"] = json!([{"name": "model", "in": "query", "required": false, "schema": {"type": "string"}}]);
    operation
}

fn vectors() -> Value {
    let embedding = json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "number"}}]});
    let entry = json!({
        "type": "object",
        "properties": {"object": {"const": "embedding"}, "index": {"type": "integer"}, "embedding": embedding},
        "required": ["object", "index", "embedding"],
    });
    json!({
        "type": "object",
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": entry},
            "model": {"type": "string"},
            "usage": {"type": "object"},
        },
        "required": ["object", "data", "model", "usage"],
    })
}

fn tokens() -> Value {
    let count = json!({"type": "integer", "minimum": 0});
    json!({
        "type": "object",
        "properties": {"count": count, "max_model_len": count, "tokens": {"type": "array", "items": count}},
        "required": ["count", "max_model_len", "tokens"],
    })
}

fn text() -> Value {
    json!({"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]})
}

fn named_model() -> Value {
    let mut operation = getting("One model or adapter.", json!({"$ref": "#/components/schemas/Model"}), &["404"]);
    operation["parameters"] =
        json!([{"name": "name", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}}]);
    operation
}

fn responses(done: Value, errors: &[&str]) -> Value {
    let error = json!({"description": "Refused or failed.", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}});
    let mut all = Map::new();
    all.insert("200".into(), done);
    // Any request may come by a name or from a page that is not let in.
    all.extend(errors.iter().chain(&["403"]).map(|status| ((*status).to_owned(), error.clone())));
    all.into()
}

fn security() -> Value {
    // A server without keys asks for none.
    json!([{}, {"key": []}])
}

fn error() -> Value {
    let text = json!({"type": ["string", "null"]});
    json!({
        "type": "object",
        "properties": {"error": {
            "type": "object",
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text},
            "required": ["message", "type", "param", "code"],
        }},
        "required": ["error"],
    })
}

fn list_of(schema: &str) -> Value {
    json!({
        "type": "object",
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": {"$ref": schema}}},
        "required": ["object", "data"],
    })
}

fn model() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": {"type": "string"},
            "root": {"type": "string"},
            "parent": {"type": ["string", "null"]},
            "max_model_len": {"type": "integer"},
        },
        "required": ["id", "object", "created", "owned_by"],
    })
}

fn usage() -> Value {
    let count = json!({"type": "integer", "minimum": 0});
    json!({
        "type": "object",
        "properties": {
            "prompt_tokens": count,
            "completion_tokens": count,
            "total_tokens": count,
            "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": count}},
        },
        "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    })
}

fn answer(object: &str, choice: Value) -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "object": {"const": object},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": choice},
            "usage": {"$ref": "#/components/schemas/Usage"},
        },
        "required": ["id", "object", "created", "model", "choices", "usage"],
    })
}

fn chat_answer() -> Value {
    answer(
        "chat.completion",
        json!({
            "type": "object",
            "properties": {
                "index": {"type": "integer"},
                "message": {
                    "type": "object",
                    "properties": {"role": {"const": "assistant"}, "content": {"type": ["string", "null"]}},
                    "required": ["role", "content"],
                },
                "logprobs": {"type": ["object", "null"]},
                "finish_reason": {"enum": ["stop", "length"]},
            },
            "required": ["index", "message", "finish_reason"],
        }),
    )
}

fn text_answer() -> Value {
    answer(
        "text_completion",
        json!({
            "type": "object",
            "properties": {
                "index": {"type": "integer"},
                "text": {"type": "string"},
                "logprobs": {"type": ["object", "null"]},
                "finish_reason": {"enum": ["stop", "length"]},
            },
            "required": ["index", "text", "finish_reason"],
        }),
    )
}
