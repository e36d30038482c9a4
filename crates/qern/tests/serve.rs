//! `qern serve` with the real default model: its answers are those of `qern run`, it says what it serves, and signals end it.
#![cfg(unix)]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// A server on a free port, and what it said first.
struct Server {
    child: Child,
    url: String,
    stderr: BufReader<std::process::ChildStderr>,
}

fn qern(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qern"));
    command.args(arguments).stdin(Stdio::null());
    for variable in ["QERN_MODEL", "QERN_MODELS", "QERN_CONFIG", "QERN_HOST", "QERN_PORT", "QERN_API_KEYS", "QERN_API_KEY_FILE"] {
        command.env_remove(variable);
    }
    command
}

fn serve(arguments: &[&str]) -> Server {
    let model = format!("small={}", support::default_model().display());
    serve_model(&model, &[&["--ctx", "1024"], arguments].concat())
}

fn serve_model(model: &str, arguments: &[&str]) -> Server {
    let line = [&["serve", "--port", "0", "-m", model], arguments].concat();
    let mut child = qern(&line).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    let url = loop {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "the server ended: {said}");
        if let Some(at) = said.find("http://") {
            break said[at..].split(';').next().unwrap().to_owned();
        }
    };
    Server { child, url, stderr }
}

impl Server {
    fn post(&self, path: &str, body: &Value) -> Value {
        ureq::post(format!("{}{path}", self.url)).send_json(body).unwrap().body_mut().read_json().unwrap()
    }

    fn signal(&self) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_served_answer_is_that_of_run() {
    let server = serve(&[]);
    let body = json!({
        "model": "small", "seed": 7, "temperature": 1, "max_tokens": 24, "messages": [{"role": "user", "content": "Tell me a story."}],
    });
    let answer = server.post("/v1/chat/completions", &body);
    let flags =
        ["run", "--json", "--ctx", "1024", "--seed", "7", "--temperature", "1", "--max-tokens", "24", "Tell me a story.", "-m"];
    let output = qern(&flags).arg(support::default_model()).output().unwrap();
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], run["text"]);
    assert_eq!((&answer["seed"], &answer["usage"]["prompt_tokens"]), (&run["seed"], &run["usage"]["prompt_tokens"]));
}

#[test]
fn log_probabilities_of_a_prompt_are_those_of_its_answer() {
    let server = serve(&[]);
    let prompt = "1, 2, 3, 4, 5,";
    let said = server.post("/v1/completions", &json!({"prompt": prompt, "temperature": 0, "max_tokens": 6, "logprobs": 1}));
    let choice = &said["choices"][0];
    let whole = format!("{prompt}{}", choice["text"].as_str().unwrap());
    let scored = server.post("/v1/completions", &json!({"prompt": whole, "max_tokens": 0, "logprobs": 1, "echo": true}));
    let (said, scored) = (&choice["logprobs"], &scored["choices"][0]["logprobs"]);
    let count = said["tokens"].as_array().unwrap().len();
    for field in ["tokens", "token_logprobs", "top_logprobs"] {
        let all = scored[field].as_array().unwrap();
        assert_eq!(all[all.len() - count..], said[field].as_array().unwrap()[..], "{field}");
    }
}

#[test]
fn texts_with_like_meanings_have_like_embeddings() {
    let server = serve(&[]);
    let inputs = ["A cat sat on the mat.", "A kitten sat on the rug.", "Quarterly revenue grew by nine percent."];
    let answer = server.post("/v1/embeddings", &json!({"input": inputs}));
    let vector = |index: usize| -> Vec<f64> {
        answer["data"][index]["embedding"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    let dot = |a: usize, b: usize| -> f64 { vector(a).iter().zip(vector(b)).map(|(a, b)| a * b).sum() };
    assert!((dot(0, 0) - 1.0).abs() < 1e-5);
    assert!(dot(0, 1) > dot(0, 2), "{} and {}", dot(0, 1), dot(0, 2));
}

#[test]
fn an_adapter_is_served_beside_its_base_and_survives_a_kill() {
    let goldens = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens");
    let model = format!("base={}", goldens.join("models/qwen3-tiny/model.gguf").display());
    let given = format!("plain={}", goldens.join("adapters/qwen3-plain").display());
    let state = tempfile::tempdir().unwrap();
    let adapters = goldens.join("adapters");
    let flags = ["--adapter", &given, "--adapter-dir", adapters.to_str().unwrap(), "--state-dir", state.path().to_str().unwrap()];
    let scored = |server: &Server, model: &str| {
        let body = json!({"model": model, "prompt": [1, 2, 3, 4, 5], "max_tokens": 0, "echo": true, "logprobs": 0});
        server.post("/v1/completions", &body)["choices"][0]["logprobs"]["token_logprobs"].clone()
    };
    let mut server = serve_model(&model, &flags);
    let load = json!({"lora_name": "dora", "lora_path": "qwen3-dora", "base_model_name": "base"});
    ureq::post(format!("{}/v1/load_lora_adapter", server.url)).send_json(load).unwrap();
    let (base, plain, dora) = (scored(&server, "base"), scored(&server, "plain"), scored(&server, "dora"));
    assert!(base != plain && base != dora && plain != dora);
    // SIGKILL: nothing can be written on the way out.
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let server = serve_model(&model, &flags);
    assert_eq!((scored(&server, "base"), scored(&server, "plain"), scored(&server, "dora")), (base, plain, dora));
}

#[test]
fn a_signal_lets_a_running_answer_finish() {
    let mut server = serve(&[]);
    let body =
        json!({"stream": true, "max_tokens": 200, "ignore_eos": true, "messages": [{"role": "user", "content": "Count."}]});
    let mut response = ureq::post(format!("{}/v1/chat/completions", server.url)).send_json(body).unwrap();
    let mut reader = BufReader::new(response.body_mut().as_reader());
    let mut text = String::new();
    reader.read_line(&mut text).unwrap();
    server.signal();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.contains(r#""finish_detail":"max_tokens""#) && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = serve(&[]);
    let body =
        json!({"stream": true, "max_tokens": 900, "ignore_eos": true, "messages": [{"role": "user", "content": "Count."}]});
    let mut response = ureq::post(format!("{}/v1/chat/completions", server.url)).send_json(body).unwrap();
    let mut reader = BufReader::new(response.body_mut().as_reader());
    reader.read_line(&mut String::new()).unwrap();
    server.signal();
    // Signals of one kind that come together count once: the second is sent when the first has been heard.
    while ureq::get(format!("{}/health/ready", server.url)).call().is_ok() {}
    server.signal();
    assert_eq!(server.child.wait().unwrap().code(), Some(130));
}

#[test]
fn the_log_has_requests_and_never_their_texts_unless_asked() {
    let logged = |flags: &[&str]| {
        let mut server = serve(&[&["--log-format", "json"], flags].concat());
        let body = json!({"max_tokens": 2, "messages": [{"role": "user", "content": "the secret word"}]});
        server.post("/v1/chat/completions", &body);
        server.signal();
        let mut said = String::new();
        server.stderr.read_to_string(&mut said).unwrap();
        said
    };
    let quiet = logged(&[]);
    assert!(quiet.contains(r#""path":"/v1/chat/completions""#) && quiet.contains(r#""request_id":"req-"#), "{quiet}");
    assert!(!quiet.contains("secret"), "{quiet}");
    assert!(logged(&["--log-text"]).contains("secret"));
}

#[test]
fn mistakes_are_said_before_a_model_is_loaded() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (keys, wrong, unknown) =
        (file("keys", "first-key\n"), file("wrong.toml", "[server]\nport = 'x'"), file("u.toml", "prot = 1"));
    std::fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let check = |flags: &[&str], part: &str| {
        let output = qern(&[&["serve", "-m", "nothing-here.gguf"], flags].concat()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(part), "{said}");
    };
    check(&["--port", &port], "another program does already");
    check(&["--api-key-file", &keys], "chmod 600");
    check(&["--api-key-file", "nowhere"], "cannot read the key file `nowhere`");
    check(&["--config", &wrong], "wrong.toml");
    check(&["--config", &unknown], "unknown field `prot`");
    check(&["--max-header-bytes", "5"], "`max-header-bytes` must be at least 8192; given 5");
    check(&["-m", "a=x", "-m", "a=y"], "`a` is given twice");
    check(&["--host", "192.0.2.1"], "this machine does not have the address");
}

#[test]
fn the_configuration_is_printed_with_flags_over_environment_over_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serve.toml");
    std::fs::write(&path, "models = ['a=smollm2']\n[server]\nport = 1\nmax-requests = 1\nmax-connections = 1\n").unwrap();
    let output = qern(&["serve", "--print-config", "--port", "3", "--config"])
        .arg(&path)
        .envs([("QERN_PORT", "2"), ("QERN_MAX_REQUESTS", "2")])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for line in ["models = [\"a=smollm2\"]", "port = 3", "max-requests = 2", "max-connections = 1"] {
        assert!(text.lines().any(|given| given == line), "{line} in\n{text}");
    }
}
