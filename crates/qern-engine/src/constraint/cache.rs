//! Compiled constraints that are kept for the next request that asks for the same, least recently used ones going first when they
//! exceed their bytes. Knows nothing of what is in them.

use std::sync::Arc;

use super::compiler::Compiled;

/// Bounded in bytes.
#[derive(Default)]
pub(super) struct Cache {
    /// Least recently used first. Few enough that a search is nothing beside a compilation.
    entries: Vec<(Arc<str>, Arc<Compiled>)>,
}

/// A constraint larger than this is compiled anew each time before it turns others out.
const MAX_SHARE: usize = 4;

impl Cache {
    pub(super) fn get(&mut self, key: &str) -> Option<Arc<Compiled>> {
        let place = self.entries.iter().position(|(other, _)| &**other == key)?;
        let entry = self.entries.remove(place);
        let compiled = entry.1.clone();
        self.entries.push(entry);
        Some(compiled)
    }

    pub(super) fn insert(&mut self, key: &str, compiled: &Arc<Compiled>, max_bytes: usize) {
        if self.entries.iter().any(|(other, _)| &**other == key) || compiled.num_bytes() + key.len() > max_bytes / MAX_SHARE {
            return;
        }
        self.entries.push((key.into(), compiled.clone()));
        // Their tables grow with use, so what they take is asked for again.
        let sizes: Vec<usize> = self.entries.iter().map(|(key, compiled)| key.len() + compiled.num_bytes()).collect();
        let mut total: usize = sizes.iter().sum();
        let too_many = sizes.iter().take_while(|&&size| {
            let over = total > max_bytes;
            total -= if over { size } else { 0 };
            over
        });
        let count = too_many.count();
        self.entries.drain(..count);
    }

    pub(super) fn num_bytes(&self) -> usize {
        self.entries.iter().map(|(key, compiled)| key.len() + compiled.num_bytes()).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
