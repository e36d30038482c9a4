//! Whether the server lives, and whether it takes requests. For load balancers and supervisors; needs no key.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::ApiError;
use crate::state::AppState;

/// `GET /health/live`: the process answers.
pub(crate) async fn live() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

/// `GET /health/ready`: models are loaded and new requests are taken. 503 while the server drains or an engine has ended.
pub(crate) async fn ready(State(state): State<AppState>) -> Response {
    if state.is_draining() {
        return ApiError::draining().into_response();
    }
    if let Some(model) = state.models.iter().find(|model| model.engine.stats().is_err()) {
        let message = format!("the engine of `{}` has ended; start the server again", model.name);
        return ApiError::internal(message).coded("engine_stopped").into_response();
    }
    Json(json!({"status": "ok"})).into_response()
}
