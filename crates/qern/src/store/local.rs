//! The models that are here: found by walking the store's folders, named as `resolve` understands them, removed whole.
//! Keeps no index that could disagree with the disk.

use super::{ModelRef, Store};
use crate::catalogue;
use crate::hub::split_part;
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Folders deeper than this hold no models: `models/hub/owner/repo/sub`.
const MAX_DEPTH: usize = 5;

/// What a model is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// A GGUF file, or several that belong together.
    Gguf,
    /// A folder with safetensors weights.
    Safetensors,
}

/// One model on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalModel {
    /// The name that `-m` takes.
    pub name: String,
    /// The file (the first of several) or the folder.
    pub path: PathBuf,
    /// What it is made of.
    pub kind: ModelKind,
    /// Bytes on the disk, all files together.
    pub size: u64,
    /// When it was last written, in seconds since 1970.
    pub modified: u64,
    /// Whether all of it is here; otherwise `qern pull` continues.
    pub complete: bool,
    #[serde(skip)]
    files: Vec<PathBuf>,
}

impl LocalModel {
    /// The model as a reference.
    pub fn to_ref(&self) -> ModelRef {
        match self.kind {
            ModelKind::Gguf => ModelRef::File(self.path.clone()),
            ModelKind::Safetensors => ModelRef::Folder(self.path.clone()),
        }
    }
}

impl Store {
    /// All models of the store, by name.
    pub fn list(&self) -> anyhow::Result<Vec<LocalModel>> {
        let mut found = Vec::new();
        if self.models.exists() {
            self.walk(&self.models, 0, &mut found)
                .with_context(|| format!("cannot read the folder {}", self.models.display()))?;
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Removes a model's files, and the folders that this leaves empty.
    pub fn remove(&self, model: &LocalModel) -> anyhow::Result<()> {
        for file in &model.files {
            fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        let mut folder = model.files.first().and_then(|file| file.parent());
        while let Some(path) = folder.filter(|path| path.starts_with(&self.models) && *path != self.models) {
            if fs::remove_dir(path).is_err() {
                break;
            }
            folder = path.parent();
        }
        Ok(())
    }

    fn walk(&self, folder: &Path, depth: usize, found: &mut Vec<LocalModel>) -> io::Result<()> {
        let entries: Vec<DirEntry> = folder.read_dir()?.collect::<io::Result<_>>()?;
        let mut files = BTreeSet::new();
        for entry in entries {
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if path.is_file() {
                files.insert(path);
            } else if path.is_dir() && depth < MAX_DEPTH {
                self.walk(&path, depth + 1, found)?;
            }
        }
        let name_of = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names: BTreeSet<String> = files.iter().map(|path| name_of(path)).collect();
        let is_weights = |name: &str| name.ends_with(".safetensors") || name.ends_with(".safetensors.part");
        if names.contains("config.json") && names.iter().any(|name| is_weights(name)) {
            let own: Vec<PathBuf> = files.iter().filter(|path| !name_of(path).contains(".gguf")).cloned().collect();
            found.push(self.describe(folder.to_path_buf(), ModelKind::Safetensors, own, is_complete_folder(folder)));
        }
        for path in &files {
            let name = name_of(path);
            let Some(whole) = name.strip_suffix(".part").or(Some(&name)).filter(|name| name.ends_with(".gguf")) else {
                continue;
            };
            let stem = whole.trim_end_matches(".gguf");
            let parts: Vec<String> = match split_part(stem) {
                None => vec![whole.to_string()],
                Some((_, 1, total)) if total < 1000 => {
                    let stem = &stem[..stem.len() - "-00001-of-00001".len()];
                    (1..=total).map(|number| format!("{stem}-{number:05}-of-{total:05}.gguf")).collect()
                }
                Some(_) => continue,
            };
            let complete = parts.iter().all(|part| names.contains(part));
            if name != whole && names.contains(whole) {
                continue;
            }
            let beside =
                |part: &String| ["", ".part", ".part.json", ".lock"].map(|suffix| folder.join(format!("{part}{suffix}")));
            let own = parts.iter().flat_map(beside).filter(|path| files.contains(path)).collect();
            found.push(self.describe(folder.join(whole), ModelKind::Gguf, own, complete));
        }
        Ok(())
    }

    fn describe(&self, path: PathBuf, kind: ModelKind, files: Vec<PathBuf>, complete: bool) -> LocalModel {
        let data: Vec<fs::Metadata> = files.iter().filter_map(|file| file.metadata().ok()).collect();
        let modified = data.iter().filter_map(|data| data.modified().ok()).max().unwrap_or(SystemTime::UNIX_EPOCH);
        LocalModel {
            name: self.name_of(&path, kind),
            kind,
            size: data.iter().map(fs::Metadata::len).sum(),
            modified: modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            complete,
            files,
            path,
        }
    }

    /// The name by which `resolve` finds the path again.
    fn name_of(&self, path: &Path, kind: ModelKind) -> String {
        if let Some(entry) = catalogue::entries().iter().find(|entry| self.catalogue_path(entry) == path) {
            return entry.name.clone();
        }
        let relative = path.strip_prefix(&self.models).unwrap_or(path);
        let parts: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        match parts.as_slice() {
            [hub, owner, repo] if hub == "hub" && kind == ModelKind::Safetensors => {
                format!("hf:{owner}/{}", repo.replace("%2F", "/"))
            }
            [hub, owner, repo, file @ ..] if hub == "hub" && !file.is_empty() => {
                format!("hf:{owner}/{}:{}", repo.replace("%2F", "/"), file.join("/"))
            }
            _ => parts.join("/"),
        }
    }
}

/// Whether a safetensors folder has its configuration and every shard that its index (or the shards' own names) speak of.
pub(super) fn is_complete_folder(folder: &Path) -> bool {
    if !folder.join("config.json").is_file() {
        return false;
    }
    if let Ok(index) = fs::read(folder.join("model.safetensors.index.json")) {
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap_or_default();
        let Some(map) = index["weight_map"].as_object() else {
            return false;
        };
        let shards: BTreeSet<&str> = map.values().filter_map(|shard| shard.as_str()).collect();
        return !shards.is_empty() && shards.iter().all(|shard| folder.join(shard).is_file());
    }
    folder.join("model.safetensors").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(files: &[&str]) -> (tempfile::TempDir, Store) {
        let home = tempfile::tempdir().unwrap();
        for file in files {
            let path = home.path().join("models").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
            fs::write(path, if file.ends_with("index.json") { index } else { "12345" }).unwrap();
        }
        let store = Store::at(home.path());
        (home, store)
    }

    fn names(store: &Store) -> Vec<(String, u64, bool)> {
        store.list().unwrap().into_iter().map(|model| (model.name, model.size, model.complete)).collect()
    }

    #[test]
    fn models_are_listed_under_the_names_that_find_them() {
        let (_home, store) = store(&[
            "qwen3-4b/Qwen3-4B-Instruct-2507-Q4_K_M.gguf",
            "hub/o/r/m-Q8_0.gguf",
            "hub/o/r@v1/config.json",
            "hub/o/r@v1/model.safetensors",
            "mine.gguf",
            "notes.txt",
        ]);
        let listed = names(&store);
        let expected = [("hf:o/r:m-Q8_0.gguf", 5), ("hf:o/r@v1", 10), ("mine.gguf", 5), ("qwen3:4b", 5)];
        assert_eq!(listed, expected.map(|(name, size)| (name.to_string(), size, true)));
        for model in store.list().unwrap() {
            let found = store.resolve(&model.name).unwrap();
            assert_eq!(store.locate(&found).unwrap(), Some(model.path), "{}", model.name);
        }
    }

    #[test]
    fn what_is_not_whole_is_listed_as_such() {
        let (_home, store) = store(&[
            "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf.part",
            "big-00001-of-00002.gguf",
            "hub/o/r/config.json",
            "hub/o/r/model.safetensors.index.json",
            "hub/o/r/model-00001-of-00002.safetensors",
        ]);
        assert!(store.list().unwrap().iter().all(|model| !model.complete));
        assert_eq!(
            names(&store).iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(),
            ["big-00001-of-00002.gguf", "hf:o/r", "smollm2"]
        );
        assert_eq!(store.locate(&store.resolve("hf:o/r").unwrap()).unwrap(), None);
    }

    #[test]
    fn removing_takes_all_files_and_empty_folders_and_no_more() {
        let files = [
            "a/m-00001-of-00002.gguf",
            "a/m-00002-of-00002.gguf",
            "hub/o/r/config.json",
            "hub/o/r/model.safetensors",
            "hub/o/r/x.gguf",
        ];
        let (home, store) = store(&files);
        for name in ["a/m-00001-of-00002.gguf", "hf:o/r"] {
            let model = store.list().unwrap().into_iter().find(|model| model.name == name).unwrap();
            store.remove(&model).unwrap();
        }
        assert_eq!(names(&store), [("hf:o/r:x.gguf".to_string(), 5, true)]);
        assert!(!home.path().join("models/a").exists());
    }
}
