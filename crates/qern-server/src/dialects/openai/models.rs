//! `GET /v1/models` and `GET /v1/models/{name}`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::{AppState, Model};

/// All of them.
pub(crate) async fn list(State(state): State<AppState>) -> Json<Value> {
    let models: Vec<Value> = state.models.iter().map(|model| entry(&state, model)).collect();
    Json(json!({"object": "list", "data": models}))
}

/// One of them. Names may have slashes.
pub(crate) async fn one(
    State(state): State<AppState>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(name) = name.map_err(|_| ApiError::invalid("a model's name must be UTF-8; given other bytes"))?;
    let model = state.model(Some(&name))?;
    Ok(Json(entry(&state, &model)))
}

fn entry(state: &AppState, model: &Model) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": state.started,
        "owned_by": "qern",
        "root": model.root,
        "parent": null,
        "max_model_len": model.context_len,
        "permission": [],
    })
}
