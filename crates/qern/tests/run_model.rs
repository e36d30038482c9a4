//! `qern run` and `qern chat` with the real default model, as a script and a person use them.

mod support;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn qern(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qern"));
    command.args(arguments).arg("-m").arg(support::default_model()).env_remove("QERN_MODEL").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the output is whole UTF-8 characters")
}

/// Runs to the end with `stdin`; the status must be 0.
fn run(arguments: &[&str], stdin: &str) -> Output {
    let mut child = start(arguments);
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    output
}

fn start(arguments: &[&str]) -> Child {
    qern(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn json(arguments: &[&str], stdin: &str) -> Value {
    serde_json::from_slice(&run(arguments, stdin).stdout).expect("one JSON object on stdout")
}

const GREEDY: [&str; 2] = ["--temperature", "0"];

#[test]
fn a_piped_prompt_is_answered_on_stdout_and_nothing_else_is_said() {
    let output = run(&["run", "-", "--max-tokens", "24", "--seed", "1"], "Translate to French: good morning\n");
    assert!(!text(&output.stdout).trim().is_empty());
    assert!(text(&output.stdout).ends_with('\n'));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn stdin_follows_the_prompt() {
    let counted = |arguments: &[&str], stdin| json(arguments, stdin)["usage"]["prompt_tokens"].as_u64().unwrap();
    let alone = counted(&["run", "--json", "Repeat:", "--max-tokens", "1"], "");
    let followed = counted(&["run", "--json", "Repeat:", "--max-tokens", "1"], "one two three four five\n");
    let joined = counted(&["run", "--json", "-", "--max-tokens", "1"], "Repeat:\n\none two three four five\n");
    assert!(followed > alone + 4, "{followed} tokens with stdin, {alone} without");
    assert_eq!(followed, joined);
}

#[test]
fn the_same_seed_gives_the_same_text_and_another_does_not() {
    let said =
        |seed: &str| json(&["run", "--json", "Tell me a story.", "--max-tokens", "24", "--seed", seed, "--temperature", "1"], "");
    let (first, again, other) = (said("7"), said("7"), said("8"));
    assert_eq!(first["seed"], 7);
    assert_eq!(first["answers"][0]["tokens"], again["answers"][0]["tokens"]);
    assert_ne!(first["answers"][0]["tokens"], other["answers"][0]["tokens"]);
    let drawn = json(&["run", "--json", "Tell me a story.", "--max-tokens", "24", "--temperature", "1"], "");
    let seed = drawn["seed"].to_string();
    assert_eq!(said(&seed)["text"], drawn["text"], "the seed that was reported gives the text again");
}

#[test]
fn json_reports_usage_reason_logprobs_and_context() {
    let mut arguments = vec!["run", "--json", "--logprobs=2", "--max-tokens", "5", "Name a colour."];
    arguments.extend(GREEDY);
    let object = json(&arguments, "");
    assert_eq!(object["finish_reason"], "length");
    assert_eq!(object["usage"]["generated_tokens"], 5);
    let logprobs = object["answers"][0]["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), 5);
    for token in logprobs {
        assert_eq!(token["top"].as_array().unwrap().len(), 2);
        assert_eq!(token["id"], token["top"][0]["id"], "greedy takes the likeliest");
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
    }
    assert_eq!(object["context"]["dropped_turns"], 0);
    assert!(object["timings"]["time_to_first_token"].as_f64().unwrap() > 0.0);
}

#[test]
fn several_answers_and_beams_are_all_given() {
    let object =
        json(&["run", "--json", "--n", "3", "--temperature", "1", "--max-tokens", "6", "--seed", "5", "Say something."], "");
    let answers = object["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().any(|answer| answer["text"] != answers[0]["text"]), "three samples of six tokens differ");
    let beams = json(&["run", "--json", "--beams", "3", "--n", "2", "--max-tokens", "6", "Say something."], "");
    let scores: Vec<f64> = beams["answers"].as_array().unwrap().iter().map(|answer| answer["score"].as_f64().unwrap()).collect();
    assert!(scores.len() == 2 && scores[0] >= scores[1], "{scores:?}");
}

#[test]
fn a_raw_prompt_is_continued_up_to_a_stop() {
    let object =
        json(&["run", "--json", "--raw", "1, 2, 3, 4, 5, 6,", "--temperature", "0", "--stop", " 9", "--max-tokens", "30"], "");
    assert!(object["text"].as_str().unwrap().starts_with(" 7, 8,"), "{object}");
    assert_eq!(object["finish_reason"], "stop_string");
    assert_eq!(object["answers"][0]["stop_string"], " 9");
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_with_the_numbers() {
    let long = "word ".repeat(600);
    let output = qern(&["run", "--ctx", "256", &long]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("tokens but 255 are available"), "{}", text(&output.stderr));
}

#[test]
fn an_empty_prompt_is_a_usage_error() {
    let output = qern(&["run", ""]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("the prompt must not be empty; give one"));
}

#[test]
fn a_reader_that_leaves_ends_the_run_quietly() {
    let mut child = start(&["run", "Count to one hundred.", "--max-tokens", "400", "--ignore-eos"]);
    drop(child.stdin.take());
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_was_said_and_exits_with_130() {
    let mut child = start(&["run", "Count to one hundred.", "--max-tokens", "2000", "--ignore-eos"]);
    drop(child.stdin.take());
    let mut stdout = child.stdout.take().unwrap();
    let mut said = vec![0; 1];
    stdout.read_exact(&mut said).unwrap();
    let begun = Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    stdout.read_to_end(&mut said).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(20), "it stops at once, not at the end");
    assert!(said.ends_with(b"\n") && text(&said).len() > 1);
}

/// Holds a chat by a script and returns what was saved of it.
fn chat(messages: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.json");
    let script = format!("{}\n/save {}\n", messages.join("\n"), path.display());
    let mut arguments = vec!["chat", "--max-tokens", "40"];
    arguments.extend(GREEDY);
    let said = run(&arguments, &script).stdout;
    let saved: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for turn in saved["messages"].as_array().unwrap().iter().filter(|turn| turn["role"] == "assistant") {
        assert!(text(&said).contains(turn["content"].as_str().unwrap()), "what is saved was said: {turn}");
    }
    saved
}

#[test]
fn a_chat_remembers_what_was_said() {
    let saved = chat(&["The secret word is banana.", "What is the secret word?"]);
    let last = saved["messages"][3]["content"].as_str().unwrap();
    assert!(last.contains("banana"), "{saved}");
}

#[test]
fn a_chat_is_saved_with_its_model_and_settings() {
    let saved = chat(&["Hello"]);
    assert_eq!((&saved["format"], &saved["messages"][0]["content"]), (&"qern-chat".into(), &"Hello".into()));
    assert!(Path::new(saved["model"].as_str().unwrap()).exists());
    assert_eq!(saved["settings"]["max-tokens"][0], "40");
}

#[test]
fn a_chat_script_with_a_mistake_fails() {
    let mut child = start(&["chat"]);
    child.stdin.take().unwrap().write_all(b"/hlep\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("did you mean /help?"), "{}", text(&output.stderr));
}
