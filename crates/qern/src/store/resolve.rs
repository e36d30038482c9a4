//! A model's name, as people write it, to what it means. Paths that exist win over names; nothing is fetched here.

use super::Store;
use crate::catalogue::{self, Entry};
use crate::hub::{RepoName, check_file, check_revision};
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};

/// What a model's name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// A file, most likely GGUF; it exists.
    File(PathBuf),
    /// A folder, most likely with safetensors weights; it exists.
    Folder(PathBuf),
    /// A model of the catalogue.
    Catalogue(&'static Entry),
    /// A model on the hub: `hf:owner/repo[@revision][:file]`.
    Hub {
        /// The repository.
        repo: RepoName,
        /// A file's name, a GGUF format (`Q4_K_M`), or the repository's own choice.
        file: Option<String>,
        /// A branch, tag or commit, or the main branch.
        revision: Option<String>,
    },
}

impl Store {
    /// Reads a model's name.
    pub fn resolve(&self, name: &str) -> anyhow::Result<ModelRef> {
        if name.is_empty() {
            bail!("the model's name is empty; name a file, a folder, a catalogue model or hf:owner/repo");
        }
        let path = Path::new(name);
        if path.is_file() {
            return Ok(ModelRef::File(path.to_path_buf()));
        }
        if path.is_dir() {
            return Ok(ModelRef::Folder(path.to_path_buf()));
        }
        if let Some(hub) = name.strip_prefix("hf:") {
            return parse_hub(hub).with_context(|| format!("`{name}` is no hub name; write hf:owner/repo[@revision][:file]"));
        }
        if let Some(entry) = catalogue::find(name) {
            return Ok(ModelRef::Catalogue(entry));
        }
        let local = self.list()?;
        if let Some(model) = local.iter().find(|model| model.name == name && model.complete) {
            return Ok(model.to_ref());
        }
        if looks_like_path(name) {
            bail!("there is no file or folder `{name}`{}", nearest_file(path));
        }
        if RepoName::parse(name).is_ok() {
            bail!("there is no file or folder `{name}`; for the hub's repository of that name, write `hf:{name}`");
        }
        match catalogue::suggest(name, local.iter().map(|model| model.name.as_str())) {
            Some(near) => bail!("no model called `{name}`; did you mean `{near}`?"),
            None => bail!("no model called `{name}`; `qern list` shows those there are, hf:owner/repo names one on the hub"),
        }
    }
}

/// `owner/repo[@revision][:file]`.
fn parse_hub(text: &str) -> anyhow::Result<ModelRef> {
    let (rest, file) = match text.split_once(':') {
        Some((rest, file)) => (rest, Some(file.to_string())),
        None => (text, None),
    };
    let (repo, revision) = match rest.split_once('@') {
        Some((repo, revision)) => (repo, Some(revision.to_string())),
        None => (rest, None),
    };
    if let Some(file) = &file {
        check_file(file)?;
    }
    if let Some(revision) = &revision {
        check_revision(revision)?;
    }
    Ok(ModelRef::Hub { repo: RepoName::parse(repo)?, file, revision })
}

fn looks_like_path(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    name.starts_with(['.', '/', '~', '\\'])
        || lower.ends_with(".gguf")
        || lower.ends_with(".safetensors")
        || name.matches('/').count() > 1
}

/// The file of the nearest name in the same folder, as the end of an error message.
fn nearest_file(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = folder.read_dir() else {
        return format!("; nor is there a folder `{}`", folder.display());
    };
    let names = entries.flatten().take(10_000).map(|entry| entry.file_name().to_string_lossy().into_owned());
    let scored = names.map(|other| (strsim::normalized_damerau_levenshtein(&name, &other), other));
    match scored.filter(|(score, _)| *score >= 0.7).max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((_, near)) => format!("; did you mean `{}`?", path.with_file_name(near).display()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(name: &str) -> Result<ModelRef, String> {
        let home = tempfile::tempdir().unwrap();
        Store::at(home.path()).resolve(name).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn names_mean_what_they_say() {
        assert_eq!(resolve("qwen3:4b").unwrap(), ModelRef::Catalogue(catalogue::find("qwen3:4b").unwrap()));
        let repo = RepoName::parse("Qwen/Qwen3-0.6B").unwrap();
        let hub = |file: Option<&str>, revision: Option<&str>| ModelRef::Hub {
            repo: repo.clone(),
            file: file.map(str::to_string),
            revision: revision.map(str::to_string),
        };
        assert_eq!(resolve("hf:Qwen/Qwen3-0.6B").unwrap(), hub(None, None));
        assert_eq!(resolve("hf:Qwen/Qwen3-0.6B:a/b.gguf").unwrap(), hub(Some("a/b.gguf"), None));
        assert_eq!(resolve("hf:Qwen/Qwen3-0.6B@v1:Q8_0").unwrap(), hub(Some("Q8_0"), Some("v1")));
    }

    #[test]
    fn paths_that_exist_win() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.gguf");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(resolve(file.to_str().unwrap()).unwrap(), ModelRef::File(file));
        assert_eq!(resolve(folder.path().to_str().unwrap()).unwrap(), ModelRef::Folder(folder.path().to_path_buf()));
    }

    #[test]
    fn wrong_names_say_what_was_meant() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.gguf"), "x").unwrap();
        let near = folder.path().join("modle.gguf").to_str().unwrap().to_string();
        for (name, words) in [
            ("qwen3:4bb", "no model called `qwen3:4bb`; did you mean `qwen3:4b`?"),
            ("llama", "`qern list` shows"),
            ("Qwen/Qwen3-0.6B", "write `hf:Qwen/Qwen3-0.6B`"),
            ("./nothing/at/all.gguf", "no file or folder `./nothing/at/all.gguf`; nor is there a folder"),
            (near.as_str(), "did you mean"),
            ("", "empty"),
            ("hf:../../etc", "must not have a part"),
            ("hf:a/..", "must not have a part"),
            ("hf:a/b:../../c", "relative path"),
            ("hf:a/b@../c", "hub revision"),
            ("hf:a", "owner/repo"),
        ] {
            let error = resolve(name).unwrap_err();
            assert!(error.contains(words), "{name}: {error}");
        }
    }
}
