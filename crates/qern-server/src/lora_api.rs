//! `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`, as vLLM has them. For administrators, or this machine when there are
//! none; paths stay within the server's folder of adapters.

use axum::extract::{Extension, FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;

use crate::adapters::{self, Wanted};
use crate::error::ApiError;
use crate::limits::JsonBody;
use crate::listen::Peer;
use crate::params::Kind::{Refused, Text};
use crate::params::{Param, Params, param};
use crate::state::AppState;

/// The fields of `/v1/load_lora_adapter`.
pub(crate) const LOAD: &[Param] = &[
    param("lora_name", Text, "What requests will call the adapter."),
    param("lora_path", Text, "A PEFT folder or an adapter GGUF, within the server's `adapter-dir`."),
    param("base_model_name", Text, "The model that it belongs to; the first one that it fits when left out."),
    param("load_inplace", Refused(&["false"]), "unload the adapter first"),
    param("lora_int_id", Refused(&[]), "the server numbers adapters itself; leave it out"),
];

/// The fields of `/v1/unload_lora_adapter`.
pub(crate) const UNLOAD: &[Param] =
    &[param("lora_name", Text, "The adapter."), param("lora_int_id", Refused(&[]), "adapters are known by name; leave it out")];

/// Someone who may change what is served.
pub(crate) struct Administrator;

impl FromRequestParts<AppState> for Administrator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let peer = Option::<Extension<Peer>>::from_request_parts(parts, state).await.ok().flatten();
        if state.keys.may_administer(&parts.headers, peer.map(|Extension(Peer(address))| address)) {
            return Ok(Self);
        }
        let message = "adapters are changed with an administrator's key (`admin:` in the key file), or from this machine when there \
                       is none";
        Err(ApiError::new(StatusCode::FORBIDDEN, message).coded("administrators_only"))
    }
}

/// `POST /v1/load_lora_adapter`.
pub(crate) async fn load(_: Administrator, State(state): State<AppState>, JsonBody(body): JsonBody) -> Result<String, ApiError> {
    let params = Params::parse(&body, &[LOAD])?;
    let name = params.str("lora_name").ok_or_else(|| Params::missing("lora_name"))?.to_owned();
    let path = state.adapters.within_folder(params.str("lora_path").ok_or_else(|| Params::missing("lora_path"))?)?;
    let model = params.str("base_model_name").map(str::to_owned);
    let said = format!("Success: LoRA adapter '{name}' added successfully.");
    adapters::load(&state, Wanted { name, path, model }, false).await?;
    Ok(said)
}

/// `POST /v1/unload_lora_adapter`.
pub(crate) async fn unload(
    _: Administrator,
    State(state): State<AppState>,
    JsonBody(body): JsonBody,
) -> Result<String, ApiError> {
    let params = Params::parse(&body, &[UNLOAD])?;
    let name = params.str("lora_name").ok_or_else(|| Params::missing("lora_name"))?;
    adapters::unload(&state, name).await?;
    Ok(format!("Success: LoRA adapter '{name}' removed successfully."))
}
