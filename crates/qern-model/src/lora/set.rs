//! The adapters that a running model has, by id. Who uses them, and when one may go, is the engine's business.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Adapter, FitOptions};
use crate::batch::AdapterId;
use crate::error::{Error, Result};
use crate::transformer::Transformer;

/// Loaded adapters. An id stands for one adapter for ever: it is not given to another after `unload`.
#[derive(Debug, Default)]
pub struct AdapterSet {
    loaded: BTreeMap<AdapterId, Arc<Adapter>>,
    num_loaded: u32,
}

impl AdapterSet {
    /// A set without adapters.
    pub const fn new() -> Self {
        Self { loaded: BTreeMap::new(), num_loaded: 0 }
    }

    /// Fits an adapter to the transformer, where that has not been done, and gives it an id.
    pub fn load(&mut self, transformer: &Transformer, adapter: Arc<Adapter>) -> Result<AdapterId> {
        adapter.fit(transformer, FitOptions::default())?;
        let id = AdapterId(self.num_loaded);
        self.num_loaded = self.num_loaded.checked_add(1).ok_or_else(|| {
            Error::Adapter("4294967295 adapters have been loaded, and there is no further id; start again".into())
        })?;
        self.loaded.insert(id, adapter);
        Ok(id)
    }

    /// Lets an adapter go. No batch may name it any more.
    pub fn unload(&mut self, id: AdapterId) -> Result<Arc<Adapter>> {
        self.loaded.remove(&id).ok_or_else(|| Error::Adapter(format!("no adapter with the id {} is loaded", id.0)))
    }

    /// A loaded adapter.
    pub fn get(&self, id: AdapterId) -> Option<&Arc<Adapter>> {
        self.loaded.get(&id)
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (AdapterId, &Arc<Adapter>)> {
        self.loaded.iter().map(|(&id, adapter)| (id, adapter))
    }
}
