//! What a repository holds, and which of its files make up one model. Chooses by name alone; downloads nothing.

use super::client::RequestError;
use super::{Client, HubError, NameError, RepoName, check_file, check_revision, name};
use serde::Deserialize;
use std::time::Duration;

/// A listing larger than this is no model's.
const MAX_LISTING: u64 = 16 << 20;

/// The formats preferred when a repository has several GGUF files and none was named.
const PREFERRED: [&str; 4] = ["q4_k_m", "q4_0", "q4_1", "q8_0"];

/// The files around safetensors weights that a model needs or that say what it is.
const SIDE_FILES: [&str; 14] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
    "quantize_config.json",
    "LICENSE",
    "README.md",
];

/// One file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoFile {
    /// Its path inside the repository; checked.
    pub name: String,
    /// Its length in bytes, where the hub says it.
    pub size: Option<u64>,
    /// Its SHA-256 in lower-case hex, where the hub knows it (large files).
    pub sha256: Option<String>,
}

/// A repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its name.
    pub name: RepoName,
    /// The commit, so that all files are of one state; the revision asked for if the hub does not say.
    pub commit: String,
    /// Its files, in the hub's order.
    pub files: Vec<RepoFile>,
}

#[derive(Deserialize)]
struct Listing {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Client {
    /// Reads a repository's contents at a revision.
    pub fn repository(&self, repo: &RepoName, revision: &str) -> Result<Repository, HubError> {
        check_revision(revision)?;
        let what = format!("the repository `{repo}`");
        let path = format!("/api/models/{repo}/revision/{}?blobs=true", revision.replace('/', "%2F"));
        let body = self.retrying(&what, || {
            let answer = self.get(&path, &what, &[("accept", "application/json".to_string())])?;
            let body = answer.response.into_body().into_with_config().limit(MAX_LISTING).read_to_vec();
            body.map_err(|error| RequestError::Transient(error.to_string(), Duration::ZERO))
        })?;
        let malformed = |reason: String| HubError::Malformed { what: what.clone(), reason };
        let listing: Listing = serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?;
        let commit = listing.sha.unwrap_or_else(|| revision.to_string());
        check_revision(&commit).map_err(|error| malformed(error.to_string()))?;
        let files = listing.siblings.into_iter().map(RepoFile::try_from).collect::<Result<_, _>>();
        Ok(Repository { name: repo.clone(), commit, files: files.map_err(|error: NameError| malformed(error.to_string()))? })
    }
}

impl TryFrom<Sibling> for RepoFile {
    type Error = NameError;

    fn try_from(sibling: Sibling) -> Result<Self, NameError> {
        check_file(&sibling.rfilename)?;
        let lfs = sibling.lfs;
        let size = lfs.as_ref().and_then(|lfs| lfs.size).or(sibling.size);
        let sha256 = lfs.and_then(|lfs| lfs.sha256).filter(|hash| name::is_sha256(hash)).map(|hash| hash.to_ascii_lowercase());
        Ok(Self { name: sibling.rfilename, size, sha256 })
    }
}

impl Repository {
    /// The files of the model that `wanted` names, the one to load (or whose folder to load) first: a file's name, a GGUF
    /// format such as `Q4_K_M`, or nothing for the repository's own choice.
    pub fn model_files(&self, wanted: Option<&str>) -> Result<Vec<RepoFile>, String> {
        let gguf: Vec<&RepoFile> = self.files.iter().filter(|file| is_model_gguf(&file.name)).collect();
        let Some(wanted) = wanted else {
            let safetensors = self.safetensors();
            return match gguf.as_slice() {
                _ if !safetensors.is_empty() => Ok(safetensors),
                [] => Err(format!("`{}` holds neither safetensors weights with a config.json nor GGUF files", self.name)),
                _ => PREFERRED
                    .iter()
                    .find_map(|format| self.gguf_of_format(&gguf, format))
                    .or_else(|| (self.heads(&gguf).len() == 1).then(|| self.with_parts(gguf[0])))
                    .ok_or_else(|| {
                        format!("`{}` holds several GGUF files; name one, as in hf:{}:{}", self.name, self.name, gguf[0].name)
                    }),
            };
        };
        if let Some(file) = self.files.iter().find(|file| file.name == wanted) {
            return Ok(self.with_parts(file));
        }
        if let Some(files) = self.gguf_of_format(&gguf, &wanted.to_ascii_lowercase()) {
            return Ok(files);
        }
        let names: Vec<&str> = self.heads(&gguf).iter().take(12).map(|file| file.name.as_str()).collect();
        let known = if names.is_empty() { "it holds no GGUF file".to_string() } else { format!("it holds {}", names.join(", ")) };
        Err(format!("`{}` has no file `{wanted}`; {known}", self.name))
    }

    /// Weights in safetensors and what belongs to them, or nothing when the repository is not such a model.
    fn safetensors(&self) -> Vec<RepoFile> {
        let at_root = |file: &&RepoFile| !file.name.contains('/');
        let is_shard = |file: &&RepoFile| file.name.starts_with("model") && file.name.ends_with(".safetensors");
        let shards: Vec<&RepoFile> = self.files.iter().filter(at_root).filter(is_shard).collect();
        let has_config = self.files.iter().any(|file| file.name == "config.json");
        if shards.is_empty() || !has_config {
            return Vec::new();
        }
        // Small files first: a wrong or gated repository is found out before gigabytes are.
        let sides = SIDE_FILES.iter().filter_map(|name| self.files.iter().find(|file| file.name == *name));
        sides.chain(shards).cloned().collect()
    }

    fn gguf_of_format(&self, gguf: &[&RepoFile], format: &str) -> Option<Vec<RepoFile>> {
        let matches = |file: &&&RepoFile| {
            let stem = file.name.to_ascii_lowercase();
            let stem = stem.trim_end_matches(".gguf");
            let stem = split_part(stem).map_or(stem, |(stem, _, _)| stem);
            stem.strip_suffix(format).is_some_and(|rest| rest.ends_with(['-', '.', '_', '/']))
        };
        let found: Vec<&RepoFile> = gguf.iter().filter(matches).copied().collect();
        (self.heads(&found).len() == 1).then(|| self.with_parts(found[0]))
    }

    /// Files that are not the second or a later part of a split one.
    fn heads<'a>(&self, files: &[&'a RepoFile]) -> Vec<&'a RepoFile> {
        let is_head = |file: &&&RepoFile| split_part(file.name.trim_end_matches(".gguf")).is_none_or(|(_, part, _)| part == 1);
        files.iter().filter(is_head).copied().collect()
    }

    /// The file, and every other part when it is one of a split GGUF; part one first.
    fn with_parts(&self, file: &RepoFile) -> Vec<RepoFile> {
        let Some((stem, _, total)) = file.name.strip_suffix(".gguf").and_then(split_part) else {
            return vec![file.clone()];
        };
        let part = |number| format!("{stem}-{number:05}-of-{total:05}.gguf");
        (1..=total).filter_map(|number| self.files.iter().find(|file| file.name == part(number))).cloned().collect()
    }
}

/// `name-00002-of-00003` as its stem, part and total.
pub(crate) fn split_part(stem: &str) -> Option<(&str, u32, u32)> {
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    if total.len() != 5 || part.len() != 5 {
        return None;
    }
    let (part, total) = (part.parse().ok()?, total.parse().ok()?);
    (1..=total).contains(&part).then_some((stem, part, total))
}

fn is_model_gguf(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // Vision projectors and importance matrices are no models.
    name.ends_with(".gguf") && !name.contains("mmproj") && !name.contains("imatrix")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[&str], wanted: Option<&str>, expected: Result<&[&str], &str>) {
        let files = files.iter().map(|name| RepoFile { name: (*name).to_string(), size: None, sha256: None }).collect();
        let repo = Repository { name: RepoName::parse("o/r").unwrap(), commit: "main".into(), files };
        match (repo.model_files(wanted), expected) {
            (Ok(got), Ok(names)) => assert_eq!(got.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), names),
            (Err(got), Err(words)) => assert!(got.contains(words), "{got}"),
            (got, _) => panic!("{got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_safetensors_repository_is_fetched_as_a_folder() {
        let files = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "config.json",
            "pytorch_model.bin",
            "run.py",
        ];
        check(&files, None, Ok(&["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]));
        check(&["model.safetensors"], None, Err("neither"));
    }

    #[test]
    fn one_gguf_is_chosen_by_format_name_or_preference() {
        let files = ["m-Q8_0.gguf", "m-Q4_K_M.gguf", "mmproj-f16.gguf", "README.md"];
        check(&files, None, Ok(&["m-Q4_K_M.gguf"]));
        check(&files, Some("q8_0"), Ok(&["m-Q8_0.gguf"]));
        check(&files, Some("m-Q8_0.gguf"), Ok(&["m-Q8_0.gguf"]));
        check(&files, Some("Q5_0"), Err("it holds m-Q8_0.gguf, m-Q4_K_M.gguf"));
        check(&["a-Q2_K.gguf", "a-Q3_K.gguf"], None, Err("several GGUF files"));
        check(&["a.gguf"], None, Ok(&["a.gguf"]));
    }

    #[test]
    fn a_split_gguf_is_fetched_with_all_its_parts() {
        let files = ["m-Q8_0-00002-of-00002.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q4_0.gguf"];
        check(&files, Some("Q8_0"), Ok(&["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]));
        check(&files, Some("m-Q8_0-00001-of-00002.gguf"), Ok(&["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]));
    }
}
