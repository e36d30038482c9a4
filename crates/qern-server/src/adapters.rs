//! The adapters of a server by name: which there are, loading and unloading them while requests run, and the list on disk that
//! outlives the process. What an adapter does is the model's.

mod list;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::StatusCode;
use qern_engine::AdapterId;

use crate::error::ApiError;
use crate::params::short;
use crate::state::{AppState, Model, now};
use list::SavedList;
pub use list::{Entry, ListError};

/// An adapter that requests may name.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub id: AdapterId,
    /// The model that it belongs to.
    pub model: Arc<Model>,
    /// Where it was read from.
    pub path: PathBuf,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// Given at the start, and so no part of the list.
    pub is_given: bool,
}

/// All adapters of a server.
pub(crate) struct Adapters {
    loaded: RwLock<BTreeMap<String, Loaded>>,
    /// Held while one is loaded or unloaded, so that the list on disk says what is true.
    changing: tokio::sync::Mutex<Option<SavedList>>,
    /// Where requests may load adapters from.
    folder: Option<PathBuf>,
}

/// An adapter to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What requests will call it.
    pub name: String,
    /// A PEFT folder, or an adapter GGUF.
    pub path: PathBuf,
    /// The model that it belongs to; the first one that it fits when not given.
    pub model: Option<String>,
}

impl Adapters {
    /// `folder`: where requests may load from; `state`: where the list is kept.
    pub fn new(folder: Option<PathBuf>, state: Option<&Path>) -> Result<Self, ListError> {
        let list = state.map(SavedList::open).transpose()?;
        Ok(Self { loaded: RwLock::default(), changing: tokio::sync::Mutex::new(list), folder })
    }

    /// The one of this name.
    pub fn get(&self, name: &str) -> Option<Loaded> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All of them by name.
    pub fn all(&self) -> Vec<(String, Loaded)> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.iter().map(|(name, adapter)| (name.clone(), adapter.clone())).collect()
    }

    fn insert(&self, name: String, adapter: Loaded) {
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).insert(name, adapter);
    }

    fn remove(&self, name: &str) {
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// What the list on disk says, to be loaded at the start.
    pub async fn saved(&self) -> Vec<Wanted> {
        let list = self.changing.lock().await;
        let entries = list.as_ref().map(SavedList::entries).unwrap_or_default();
        entries.into_iter().map(|Entry { name, model, path }| Wanted { name, path, model: Some(model) }).collect()
    }

    /// The path of an adapter that a request names: within the folder, whatever it says.
    pub fn within_folder(&self, given: &str) -> Result<PathBuf, ApiError> {
        let refuse = |message: String| Err(ApiError::invalid(message).of_param("lora_path"));
        let Some(folder) = &self.folder else {
            let message = "adapters cannot be loaded by requests: the server was started without `adapter-dir` (--adapter-dir)";
            return Err(ApiError::new(StatusCode::FORBIDDEN, message).coded("adapters_not_allowed"));
        };
        let outside = || refuse("`lora_path` must name a folder or file within the server's `adapter-dir`; given another".into());
        let path = Path::new(given);
        let is_plain = path.components().all(|component| matches!(component, std::path::Component::Normal(_)));
        // Absolute paths into the folder are taken too: that is what clients of vLLM send.
        if given.is_empty() || !(is_plain || path.is_absolute()) {
            return outside();
        }
        // Links are followed before the comparison. What does not exist is told apart from what is elsewhere only within the folder.
        let Ok(folder) = folder.canonicalize() else {
            return Err(ApiError::internal("the server's `adapter-dir` cannot be read; create it"));
        };
        match folder.join(path).canonicalize() {
            Ok(found) if found.starts_with(&folder) && found != folder => Ok(found),
            Err(_) if is_plain => refuse(format!("`lora_path`: there is no `{}` in the server's `adapter-dir`", short(given))),
            _ => outside(),
        }
    }
}

/// Loads an adapter and notes it in the list, unless it was given at the start.
pub(crate) async fn load(state: &AppState, wanted: Wanted, is_given: bool) -> Result<(), ApiError> {
    let Wanted { name, path, model } = wanted;
    check_name(state, &name)?;
    let adapters = &state.adapters;
    let mut list = adapters.changing.lock().await;
    if adapters.get(&name).is_some() {
        let message = format!("there is an adapter `{}` already; unload it first, or choose another name", short(&name));
        return Err(ApiError::invalid(message).of_param("lora_name").coded("adapter_exists"));
    }
    let models = match &model {
        Some(name) => vec![state.base(name)?],
        None => state.models.clone(),
    };
    let opened_path = path.clone();
    // Reading files and fitting DoRA take a while.
    let opened = tokio::task::spawn_blocking(move || open(&models, &opened_path)).await;
    let (model, opened) = opened.map_err(|_| ApiError::internal("the adapter could not be read: an internal error"))??;
    for note in &opened.notes {
        tracing::warn!("adapter `{}`: {note}", short(&name));
    }
    let id = model.engine.load_adapter_async(opened.adapter).await?;
    if let (Some(list), false) = (list.as_mut(), is_given) {
        let mut entries = list.entries();
        entries.retain(|entry| entry.name != name);
        entries.push(Entry { name: name.clone(), model: model.name.clone(), path: path.clone() });
        if let Err(error) = list.save(entries) {
            // What cannot be kept is not acknowledged.
            if let Ok(unloading) = model.engine.unload_adapter(id) {
                drop(unloading);
            }
            return Err(ApiError::internal(error.to_string()));
        }
    }
    adapters.insert(name, Loaded { id, model, path, created: now(), is_given });
    Ok(())
}

/// Lets an adapter go: new requests do not find it, running ones finish with it.
pub(crate) async fn unload(state: &AppState, name: &str) -> Result<(), ApiError> {
    let adapters = &state.adapters;
    let mut list = adapters.changing.lock().await;
    let Some(adapter) = adapters.get(name) else {
        let message = format!("there is no adapter `{}` here; /v1/models lists them", short(name));
        return Err(ApiError::new(StatusCode::NOT_FOUND, message).of_param("lora_name").coded("adapter_not_found"));
    };
    if let (Some(list), false) = (list.as_mut(), adapter.is_given) {
        let mut entries = list.entries();
        entries.retain(|entry| entry.name != name);
        list.save(entries).map_err(|error| ApiError::internal(error.to_string()))?;
    }
    adapters.remove(name);
    // It goes when the last request that uses it has ended; nobody need wait for that.
    drop(adapter.model.engine.unload_adapter(adapter.id)?);
    Ok(())
}

fn check_name(state: &AppState, name: &str) -> Result<(), ApiError> {
    let refuse = |rule: &str| {
        let message = format!("an adapter's name must {rule}; given `{}`", short(name));
        Err(ApiError::invalid(message).of_param("lora_name"))
    };
    if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
        return refuse("have 1 to 256 bytes without control characters");
    }
    if state.models.iter().any(|model| model.name == name) {
        return refuse("be no model's");
    }
    Ok(())
}

/// The adapter, opened for the first of the models that it fits.
fn open(models: &[Arc<Model>], path: &Path) -> Result<(Arc<Model>, Opened), ApiError> {
    let mut first_error = None;
    for model in models {
        let Some(open) = &model.open_adapter else { continue };
        match open(path) {
            Ok(opened) => return Ok((model.clone(), opened)),
            Err(error) => _ = first_error.get_or_insert(error),
        }
    }
    // Where the folder is on this machine is not the client's business; its name is.
    let folder = path.parent().map(|parent| format!("{}/", parent.display())).unwrap_or_default();
    Err(match first_error {
        Some(error) => ApiError::invalid(error.to_string().replace(&folder, "")).of_param("lora_path").coded("adapter_refused"),
        None => ApiError::invalid("no model here runs adapters").of_param("lora_path"),
    })
}

/// An adapter that fits its model.
pub struct Opened {
    /// The adapter.
    pub adapter: Arc<qern_model::lora::Adapter>,
    /// What the log should know of it.
    pub notes: Vec<String>,
}

/// Opens and fits the adapter at a path.
pub type OpenAdapter = Arc<dyn Fn(&Path) -> qern_model::Result<Opened> + Send + Sync>;
