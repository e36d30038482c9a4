//! What every handler can reach: the models, the configuration, the keys, the metrics, and whether the server is about to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use qern_engine::{AdapterId, EngineHandle};
use qern_model::generation::GenerationDefaults;
use qern_model::template::ChatTemplate;
use qern_model::tokenizer::Tokenizer;
use tokio::sync::{Notify, Semaphore};

use crate::adapters::{Adapters, OpenAdapter};
use crate::auth::Keys;
use crate::config::Config;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::params::short;
use axum::http::StatusCode;

/// A model that the server answers with.
pub struct Model {
    /// What requests call it.
    pub name: String,
    /// What it was loaded as; the `root` of `/v1/models`.
    pub root: String,
    /// Its engine.
    pub engine: EngineHandle,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template; base models may have none.
    pub template: Option<ChatTemplate>,
    /// The template's source, where it came with the model.
    pub template_source: Option<String>,
    /// How its authors want it sampled.
    pub defaults: GenerationDefaults,
    /// Tokens that prompt and answer may have together.
    pub context_len: usize,
    /// Opens adapters for it; `None` for a model that runs none.
    pub open_adapter: Option<OpenAdapter>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "model `{}`", self.name)
    }
}

/// What a request's `model` means.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub model: Arc<Model>,
    /// With this adapter.
    pub adapter: Option<AdapterId>,
}

impl std::ops::Deref for Target {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.model
    }
}

/// What handlers share.
pub(crate) type AppState = Arc<Shared>;

pub(crate) struct Shared {
    pub config: Config,
    pub keys: Keys,
    pub models: Vec<Arc<Model>>,
    pub adapters: Adapters,
    pub metrics: Metrics,
    /// Seconds since 1970 when the server started; `created` of its models.
    pub started: u64,
    /// Places for requests that are answered.
    pub places: Arc<Semaphore>,
    /// Places for work that occupies a core: templates and tokenization.
    pub preparing: Semaphore,
    draining: AtomicBool,
    num_active: AtomicUsize,
    idle: Notify,
}

/// Templates and tokenizers at work at once: they must not take the cores from the engine.
const NUM_PREPARING: usize = 2;

impl Shared {
    pub fn new(config: Config, keys: Keys, models: Vec<Model>, adapters: Adapters) -> Self {
        let places = Arc::new(Semaphore::new(config.max_requests));
        let metrics = Metrics::new(models.iter().map(|model| model.name.clone()));
        Self {
            config,
            keys,
            models: models.into_iter().map(Arc::new).collect(),
            adapters,
            metrics,
            started: now(),
            places,
            preparing: Semaphore::new(NUM_PREPARING),
            draining: AtomicBool::new(false),
            num_active: AtomicUsize::new(0),
            idle: Notify::new(),
        }
    }

    /// The model or adapter of this name; without a name the first model.
    pub fn target(&self, name: Option<&str>) -> Result<Target, ApiError> {
        let Some(name) = name else {
            let first = self.models.first().cloned().ok_or_else(|| ApiError::internal("no model is loaded"))?;
            return Ok(Target { model: first, adapter: None });
        };
        match self.adapters.get(name) {
            Some(loaded) => Ok(Target { model: loaded.model, adapter: Some(loaded.id) }),
            None => Ok(Target { model: self.base(name)?, adapter: None }),
        }
    }

    /// The model of this name, which is no adapter.
    pub fn base(&self, name: &str) -> Result<Arc<Model>, ApiError> {
        self.models.iter().find(|model| model.name == name).cloned().ok_or_else(|| self.no_model(name))
    }

    fn no_model(&self, name: &str) -> ApiError {
        // A few are named; whoever has more reads the list.
        let adapters = self.adapters.all();
        let names = self.models.iter().map(|model| &model.name).chain(adapters.iter().map(|(name, _)| name));
        let names: Vec<String> = names.take(8).map(|name| format!("`{name}`")).collect();
        let message = format!("there is no model `{}` here; this server has {}", short(name), names.join(", "));
        ApiError::new(StatusCode::NOT_FOUND, message).of_param("model").coded("model_not_found")
    }

    /// Refuses new requests from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// One more request is answered.
    pub fn begin(&self) {
        self.num_active.fetch_add(1, Ordering::SeqCst);
    }

    /// One less.
    pub fn end(&self) {
        if self.num_active.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.idle.notify_waiters();
        }
    }

    /// Requests that are answered now.
    pub fn num_active(&self) -> usize {
        self.num_active.load(Ordering::SeqCst)
    }

    /// Waits until no request is answered.
    pub async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Registered before the count is read, so that the last end cannot be missed.
            idle.as_mut().enable();
            if self.num_active() == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
