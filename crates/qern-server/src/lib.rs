//! HTTP for Qern: dialects, authentication, limits, metrics. Knows nothing of files, formats or command lines: models come
//! loaded, with their engines running.
//!
//! ```text
//! listen -> observe -> origin -> auth -> limits -> dialects -> generate -> engine
//! ```
#![forbid(unsafe_code)]

mod adapters;
mod auth;
mod config;
mod dialects;
mod error;
mod generate;
mod health;
mod limits;
mod listen;
mod lora_api;
mod metrics;
mod observe;
mod openapi;
mod origin;
mod params;
mod sse;
mod state;
mod tokenize;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use tokio::net::TcpListener;

pub use adapters::{ListError, OpenAdapter, Opened, Wanted};
pub use auth::{KeyError, Keys};
pub use config::{Config, ConfigError};
pub use listen::ListenError;
pub use state::Model;

use adapters::Adapters;
use dialects::openai;
use error::ApiError;
use state::{AppState, Shared};

/// A server that has its address and waits to be run.
pub struct Server {
    listener: TcpListener,
    state: AppState,
}

/// A server that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The list of adapters.
    #[error(transparent)]
    List(#[from] ListError),
    /// An adapter that was given.
    #[error("cannot load the adapter `{name}`: {reason}")]
    Adapter {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Two models of one name, or none at all.
    #[error("{0}")]
    Models(String),
}

/// Checks names before models are loaded, which takes long.
pub fn check_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<(), StartError> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
            return Err(StartError::Models("a model's name must have 1 to 256 bytes without control characters".into()));
        }
        if !seen.insert(name) {
            return Err(StartError::Models(format!("models must have different names; `{name}` is given twice")));
        }
    }
    match seen.is_empty() {
        true => Err(StartError::Models("a server needs at least one model; name one by -m".into())),
        false => Ok(()),
    }
}

impl Server {
    /// Takes the address of the configuration. Done before models are loaded, a taken port is known at once.
    pub async fn bind(config: &Config) -> Result<TcpListener, StartError> {
        config.check()?;
        Ok(listen::bind(config).await?)
    }

    /// Joins an address and what is served there.
    pub fn new(listener: TcpListener, config: Config, keys: Keys, models: Vec<Model>) -> Result<Self, StartError> {
        config.check()?;
        check_names(models.iter().map(|model| model.name.as_str()))?;
        let adapters = Adapters::new(config.adapter_dir.clone(), config.state_dir.as_deref())?;
        Ok(Self { listener, state: Arc::new(Shared::new(config, keys, models, adapters)) })
    }

    /// Loads the adapters that are given, and those that requests had loaded before the server last ended. One of the latter
    /// that cannot be loaded is left out, and said to be: it may have been removed since.
    pub async fn load_adapters(&self, given: Vec<Wanted>) -> Result<(), StartError> {
        for wanted in given {
            let name = wanted.name.clone();
            let loaded = adapters::load(&self.state, wanted, true).await;
            loaded.map_err(|error| StartError::Adapter { name, reason: error.message })?;
        }
        for wanted in self.state.adapters.saved().await {
            let name = wanted.name.clone();
            if let Err(error) = adapters::load(&self.state, wanted, false).await {
                tracing::warn!("the adapter `{}` was loaded before and is left out now: {}", params::short(&name), error.message);
            }
        }
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is done and what runs then has finished, or the drain timeout is over; then the engines are shut
    /// down. Returns how many requests were broken off.
    pub async fn run(self, stop: impl Future<Output = ()>) -> usize {
        let num_left = listen::serve(self.listener, router(&self.state), self.state.clone(), stop).await;
        let state = self.state;
        // Waits for the engines' threads.
        let shutdown = move || state.models.iter().for_each(|model| model.engine.shutdown());
        if tokio::task::spawn_blocking(shutdown).await.is_err() {
            tracing::error!("shutting the engines down failed");
        }
        num_left
    }
}

/// All routes, with what stands before them.
fn router(state: &AppState) -> Router {
    let generating = Router::new()
        .route("/v1/chat/completions", post(openai::chat::chat))
        .route("/v1/completions", post(openai::completions::completions))
        .route("/v1/embeddings", post(openai::embeddings::embeddings))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .layer(from_fn_with_state(state.clone(), limits::admit));
    let with_key = Router::new()
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*name}", get(openai::models::one))
        .route("/v1/load_lora_adapter", post(lora_api::load))
        .route("/v1/unload_lora_adapter", post(lora_api::unload))
        .route("/tokenizer_info", get(tokenize::info))
        .route("/metrics", get(metrics::metrics))
        .merge(generating)
        .layer(from_fn_with_state(state.clone(), auth::require_key));
    let open = Router::new()
        .route("/openapi.json", get(openapi::document))
        .route("/health", get(health::ready))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready));
    open.merge(with_key)
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(state.clone(), origin::check))
        .layer(origin::cors(&state.config))
        .layer(from_fn(harden))
        .layer(from_fn_with_state(state.clone(), observe::observe))
        .with_state(state.clone())
}

async fn no_such_path(method: Method, uri: Uri) -> ApiError {
    let message = format!("there is no {method} {}; /openapi.json lists what there is", params::short(uri.path()));
    ApiError::new(StatusCode::NOT_FOUND, message).coded("not_found")
}

async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}; /openapi.json lists what it takes", params::short(uri.path()));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).coded("method_not_allowed")
}

/// Browsers must take every answer for what it says it is.
async fn harden(request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(axum::http::header::X_CONTENT_TYPE_OPTIONS, axum::http::HeaderValue::from_static("nosniff"));
    response
}
