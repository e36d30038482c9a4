//! `GET /v1/models` and `GET /v1/models/{name}`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::adapters::Loaded;
use crate::error::ApiError;
use crate::state::{AppState, Model};

/// All of them: models, then adapters.
pub(crate) async fn list(State(state): State<AppState>) -> Json<Value> {
    let models = state.models.iter().map(|model| of_model(&state, model));
    let adapters = state.adapters.all();
    let all: Vec<Value> = models.chain(adapters.iter().map(|(name, adapter)| of_adapter(name, adapter))).collect();
    Json(json!({"object": "list", "data": all}))
}

/// One of them. Names may have slashes.
pub(crate) async fn one(
    State(state): State<AppState>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(name) = name.map_err(|_| ApiError::invalid("a model's name must be UTF-8; given other bytes"))?;
    match state.adapters.get(&name) {
        Some(adapter) => Ok(Json(of_adapter(&name, &adapter))),
        None => {
            let model = state.base(&name)?;
            Ok(Json(of_model(&state, &model)))
        }
    }
}

fn of_model(state: &AppState, model: &Model) -> Value {
    entry(model, json!({"id": model.name, "created": state.started, "root": model.root, "parent": null}))
}

fn of_adapter(name: &str, adapter: &Loaded) -> Value {
    // Its last part alone: what a path says about this machine is nobody's business.
    let root = adapter.path.file_name().map(|name| name.to_string_lossy());
    entry(&adapter.model, json!({"id": name, "created": adapter.created, "root": root, "parent": adapter.model.name}))
}

fn entry(model: &Model, mut entry: Value) -> Value {
    entry["object"] = "model".into();
    entry["owned_by"] = "qern".into();
    entry["max_model_len"] = model.context_len.into();
    entry["permission"] = json!([]);
    entry
}
