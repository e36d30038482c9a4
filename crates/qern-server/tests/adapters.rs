//! Adapters that are loaded and unloaded while the server runs: who may, from where, and that nothing acknowledged is lost.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Running, Setup, agent, eventually};
use tempfile::TempDir;

const CHAT: &str = "/v1/chat/completions";
const LOAD: &str = "/v1/load_lora_adapter";
const UNLOAD: &str = "/v1/unload_lora_adapter";

/// A folder with the adapters `one` and `two`, and a file beside it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapters/one", "adapters/two", "elsewhere"] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("parrot"), "").unwrap();
    }
    std::fs::create_dir(folder.path().join("adapters/empty")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), folder.path().join("adapters/link")).unwrap();
    folder
}

fn setup(folder: &Path) -> Setup {
    let mut setup = Setup::default();
    setup.config.adapter_dir = Some(folder.join("adapters"));
    setup.config.state_dir = Some(folder.join("state"));
    setup
}

/// Status and text; the success of these endpoints is no JSON.
fn post(server: &Running, path: &str, body: &Value) -> (u16, String) {
    let mut response = agent().post(server.url(path)).send_json(body).unwrap();
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
}

fn load(server: &Running, name: &str, path: &str) {
    let (status, text) = post(server, LOAD, &json!({"lora_name": name, "lora_path": path}));
    assert_eq!((status, text), (200, format!("Success: LoRA adapter '{name}' added successfully.")));
}

fn said(server: &Running, model: &str) -> String {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
    let answer = server.ok(CHAT, &body);
    assert_eq!(answer["model"], model);
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

fn names(server: &Running) -> Vec<String> {
    let list = server.get("/v1/models").1;
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_adapter_answers_from_its_loading_to_its_unloading() {
    let folder = folder();
    let server = setup(folder.path()).start();
    load(&server, "first", "one");
    assert_eq!(said(&server, "first"), "[1] Turn 1: *hi* é");
    assert_eq!(said(&server, "parrot"), "Turn 1: *hi* é");
    let entry = server.get("/v1/models/first").1;
    assert_eq!((&entry["parent"], &entry["root"]), (&json!("parrot"), &json!("one")));
    assert_eq!(names(&server), ["parrot", "org/second", "first"]);
    let (status, _) = post(&server, UNLOAD, &json!({"lora_name": "first"}));
    assert_eq!(status, 200);
    assert_eq!(names(&server), ["parrot", "org/second"]);
    let body = json!({"model": "first", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(server.refused(CHAT, &body).0, 404);
    assert_eq!(post(&server, UNLOAD, &json!({"lora_name": "first"})).0, 404);
}

#[test]
fn an_answer_that_has_begun_keeps_its_adapter() {
    let folder = folder();
    let server = Setup { step: Duration::from_millis(5), ..setup(folder.path()) }.start();
    load(&server, "first", "one");
    let url = server.url(CHAT);
    let body = json!({"model": "first", "messages": [{"role": "user", "content": "count"}], "max_tokens": 200});
    let asked = std::thread::spawn(move || agent().post(url).send_json(body).unwrap().body_mut().read_json::<Value>().unwrap());
    eventually("the answer has begun", || server.engine.stats().unwrap().running == 1);
    assert_eq!(post(&server, UNLOAD, &json!({"lora_name": "first"})).0, 200);
    let answer = asked.join().unwrap();
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().starts_with("[1] 1 2 3 4"), "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 200);
}

#[test]
fn paths_stay_within_the_folder() {
    let folder = folder();
    let server = setup(folder.path()).start();
    let absolute = |path: &str| folder.path().canonicalize().unwrap().join(path).to_str().unwrap().to_owned();
    for path in ["../elsewhere", "one/../../elsewhere", "link", &absolute("elsewhere"), "/etc/passwd", "", ".", "..", "/"] {
        let (status, text) = post(&server, LOAD, &json!({"lora_name": "x", "lora_path": path}));
        assert_eq!(status, 400, "{path}: {text}");
        assert!(text.contains("within the server's `adapter-dir`"), "{path}: {text}");
        assert!(!text.contains(folder.path().to_str().unwrap()), "{text}");
    }
    let (status, text) = post(&server, LOAD, &json!({"lora_name": "x", "lora_path": "three"}));
    assert_eq!(status, 400);
    assert!(text.contains("there is no `three`"), "{text}");
    let (status, text) = post(&server, LOAD, &json!({"lora_name": "x", "lora_path": "empty"}));
    assert_eq!(status, 400);
    assert!(text.contains("cannot read `empty/parrot`") && !text.contains(folder.path().to_str().unwrap()), "{text}");
    load(&server, "absolute", &absolute("adapters/one"));
}

#[test]
fn wrong_requests_change_nothing() {
    let folder = folder();
    let server = setup(folder.path()).start();
    load(&server, "first", "one");
    let check = |body: Value, part: &str| {
        let (status, text) = post(&server, LOAD, &body);
        assert!(status == 400 || status == 404, "{text}");
        assert!(text.contains(part), "{text}");
    };
    check(json!({"lora_name": "first", "lora_path": "two"}), "there is an adapter `first` already");
    check(json!({"lora_name": "parrot", "lora_path": "two"}), "be no model's");
    check(json!({"lora_name": "", "lora_path": "two"}), "have 1 to 256 bytes");
    check(json!({"lora_name": "x"}), "`lora_path` is missing");
    check(json!({"lora_name": "x", "lora_path": "two", "base_model_name": "nobody"}), "there is no model `nobody`");
    check(json!({"lora_name": "x", "lora_path": "two", "load_inplace": true}), "unload the adapter first");
    assert_eq!(names(&server), ["parrot", "org/second", "first"]);
    let without = Setup::default().start();
    let (status, text) = post(&without, LOAD, &json!({"lora_name": "x", "lora_path": "one"}));
    assert_eq!(status, 403);
    assert!(text.contains("--adapter-dir"), "{text}");
}

#[test]
fn only_administrators_change_adapters() {
    let folder = folder();
    let server = Setup { keys: "user-key,admin:admin-key", ..setup(folder.path()) }.start();
    let ask = |key: &str| {
        let body = json!({"lora_name": "first", "lora_path": "one"});
        agent().post(server.url(LOAD)).header("x-api-key", key).send_json(body).unwrap().status().as_u16()
    };
    assert_eq!((ask("wrong-key"), ask("user-key"), ask("admin-key")), (401, 403, 200));
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    let folder = folder();
    let server = setup(folder.path()).start();
    load(&server, "first", "one");
    load(&server, "second", "two");
    assert_eq!(post(&server, UNLOAD, &json!({"lora_name": "first"})).0, 200);
    // A crash leaves the disk as it is; the list is read while the server still runs, as the next one would find it.
    let state = |name: &str| -> PathBuf { folder.path().join(name) };
    std::fs::create_dir(state("after")).unwrap();
    std::fs::copy(state("state/adapters.json"), state("after/adapters.json")).unwrap();
    let mut again = setup(folder.path());
    again.config.state_dir = Some(state("after"));
    let again = again.start();
    assert_eq!(names(&again), ["parrot", "org/second", "second"]);
    assert_eq!(said(&again, "second"), "[1] Turn 1: *hi* é");
}

#[test]
fn an_adapter_that_is_gone_does_not_keep_the_server_from_starting() {
    let folder = folder();
    let mut server = setup(folder.path()).start();
    load(&server, "first", "one");
    load(&server, "second", "two");
    server.join();
    drop(server);
    std::fs::remove_dir_all(folder.path().join("adapters/one")).unwrap();
    let server = setup(folder.path()).start();
    assert_eq!(names(&server), ["parrot", "org/second", "second"]);
}
