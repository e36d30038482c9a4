//! Models by name, against a stand-in hub and a home of their own: what `pull` brings is what `-m` finds.

mod support;

use qern::hub::{HubConfig, Progress};
use qern::store::Store;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use support::stand_in::{Reply, Request, StandIn, file, sha256};
use tempfile::TempDir;

/// A repository of these files, each holding its own name and `shards` in the index.
fn repository(files: &'static [&'static str]) -> impl Fn(&Request, usize) -> Reply + Send + Sync {
    move |request, _| {
        if request.path.starts_with("/api/") {
            let siblings: Vec<String> = files
                .iter()
                .map(|name| {
                    let content = content(name);
                    format!(
                        r#"{{"rfilename": "{name}", "lfs": {{"sha256": "{}", "size": {}}}}}"#,
                        sha256(&content),
                        content.len()
                    )
                })
                .collect();
            return Reply::body(format!(r#"{{"sha": "c0ffee", "siblings": [{}]}}"#, siblings.join(", ")));
        }
        match request.path.strip_prefix("/o/r/resolve/c0ffee/").and_then(|name| files.iter().find(|known| **known == name)) {
            Some(name) => file(&content(name), request),
            None => Reply::status(404),
        }
    }
}

fn content(name: &str) -> Vec<u8> {
    if name.ends_with("index.json") {
        let shards = "model-00001-of-00002.safetensors model-00002-of-00002.safetensors";
        let map: Vec<String> = shards.split(' ').map(|shard| format!(r#""t{shard}": "{shard}""#)).collect();
        return format!(r#"{{"weight_map": {{{}}}}}"#, map.join(", ")).into_bytes();
    }
    format!("content of {name}").into_bytes()
}

fn config(hub: &StandIn) -> HubConfig {
    HubConfig { attempts: 2, backoff: Duration::from_millis(1), ..HubConfig::at(&hub.url()) }
}

/// Fetches `name`, then finds it again without a hub.
fn fetch(home: &TempDir, hub: &StandIn, name: &str) -> Result<PathBuf, String> {
    let store = Store::at(home.path());
    let model = store.resolve(name).map_err(|error| format!("{error:#}"))?;
    let path = store.fetch(&model, config(hub), Progress::Silent).map_err(|error| format!("{error:#}"))?;
    assert_eq!(store.locate(&model).unwrap().as_ref(), Some(&path), "{name}");
    let listed = store.list().unwrap();
    assert!(listed.iter().any(|model| model.path == path && model.complete), "{name} is not listed");
    Ok(path.strip_prefix(store.models()).unwrap().to_path_buf())
}

#[test]
fn a_safetensors_repository_becomes_a_folder() {
    let files = &[
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "modeling_custom.py",
        "pytorch_model.bin",
    ];
    let (home, hub) = (tempfile::tempdir().unwrap(), StandIn::start(repository(files)));
    assert_eq!(fetch(&home, &hub, "hf:o/r"), Ok("hub/o/r".into()));
    let folder = home.path().join("models/hub/o/r");
    for name in &files[..5] {
        assert_eq!(fs::read(folder.join(name)).unwrap(), content(name), "{name}");
    }
    // Code and pickles are never fetched.
    assert_eq!(folder.read_dir().unwrap().count(), 5);
}

#[test]
fn gguf_files_are_chosen_by_format_and_split_ones_fetched_whole() {
    let files = &["m-Q4_K_M.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"];
    let (home, hub) = (tempfile::tempdir().unwrap(), StandIn::start(repository(files)));
    assert_eq!(fetch(&home, &hub, "hf:o/r:Q8_0"), Ok("hub/o/r/m-Q8_0-00001-of-00002.gguf".into()));
    assert!(home.path().join("models/hub/o/r/m-Q8_0-00002-of-00002.gguf").is_file());
    assert_eq!(fetch(&home, &hub, "hf:o/r:q4_k_m"), Ok("hub/o/r/m-Q4_K_M.gguf".into()));
    assert_eq!(fetch(&home, &hub, "hf:o/r"), Ok("hub/o/r/m-Q4_K_M.gguf".into()));
    let error = fetch(&home, &hub, "hf:o/r:Q2_K").unwrap_err();
    assert!(error.contains("no file `Q2_K`; it holds m-Q4_K_M.gguf, m-Q8_0-00001-of-00002.gguf"), "{error}");
}

#[test]
fn a_revision_has_a_folder_of_its_own() {
    let (home, hub) = (tempfile::tempdir().unwrap(), StandIn::start(repository(&["m.gguf"])));
    assert_eq!(fetch(&home, &hub, "hf:o/r@refs/pr/1:m.gguf"), Ok("hub/o/r@refs%2Fpr%2F1/m.gguf".into()));
    assert!(hub.requests()[0].path.contains("/revision/refs%2Fpr%2F1?"));
}

#[test]
fn a_split_model_with_a_part_missing_is_refused() {
    let (home, hub) = (tempfile::tempdir().unwrap(), StandIn::start(repository(&["m-00001-of-00002.gguf"])));
    let error = fetch(&home, &hub, "hf:o/r").unwrap_err();
    assert!(error.contains("only 1 of the 2 parts"), "{error}");
}

#[test]
fn a_repository_without_a_model_says_so() {
    let (home, hub) = (tempfile::tempdir().unwrap(), StandIn::start(repository(&["README.md", "pytorch_model.bin"])));
    let error = fetch(&home, &hub, "hf:o/r").unwrap_err();
    assert!(error.contains("neither safetensors weights"), "{error}");
}

#[test]
fn a_catalogue_model_that_cannot_be_fetched_names_the_file_to_place() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::at(home.path());
    let model = store.resolve("qwen3:4b").unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = store.fetch(&model, HubConfig::at(&format!("http://127.0.0.1:{port}")), Progress::Silent).unwrap_err();
    let path = home.path().join("models/qwen3-4b/Qwen3-4B-Instruct-2507-Q4_K_M.gguf");
    let words = format!("{error:#}");
    assert!(words.contains(&format!("at {}", path.display())) && words.contains("cannot reach the hub"), "{words}");
    // Placed there, it is found.
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "placed by hand").unwrap();
    assert_eq!(store.locate(&model).unwrap(), Some(path));
}

#[test]
fn a_file_of_the_wrong_length_is_not_taken_for_the_model() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::at(home.path());
    let model = store.resolve("smollm2").unwrap();
    let path = home.path().join("models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "short").unwrap();
    let error = store.locate(&model).unwrap_err().to_string();
    assert!(error.contains("has 5 bytes, but `smollm2` has 98362432; remove it with `qern rm smollm2`"), "{error}");
}

#[test]
fn the_default_model_is_the_file_that_the_catalogue_describes() {
    let path = support::default_model();
    let entry = qern::catalogue::find("smollm2").unwrap();
    let bytes = fs::read(path).unwrap();
    assert_eq!(Some(bytes.len() as u64), entry.size);
    assert_eq!(Some(sha256(&bytes)), entry.sha256);
}
