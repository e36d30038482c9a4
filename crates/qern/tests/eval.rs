//! `qern eval` as scripts use it, with the real default model.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens/smollm2/perplexity.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A folder with the goldens' text, 410 tokens, in `text.txt`.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The newline at the end is no part of the text.
        fs::write(folder.path().join("text.txt"), format!("{}\n", golden()["text"].as_str().unwrap())).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qern"));
        command.arg("eval").args(line.split_whitespace()).arg("-m").arg(support::default_model());
        command.current_dir(self.0.path()).env_remove("QERN_MODEL").stdin(Stdio::null());
        command
    }

    fn output(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn json(&self, line: &str) -> Value {
        let output = self.output(&format!("{line} --json"));
        assert!(output.status.success(), "`eval {line}`: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn check_fails(&self, line: &str, status: i32, words: &str) {
        let output = self.output(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "`eval {line}`: {stderr}");
        assert!(stderr.contains(words), "`eval {line}` says: {stderr}");
        assert!(output.stdout.is_empty());
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "text.txt").collect()
    }
}

const PERPLEXITY: &str = "perplexity --file text.txt --context 410";
const KL: &str = "kl --file text.txt --context 410 --reference reference.logits";

#[test]
fn perplexity_is_the_references_over_the_second_half_of_the_window() {
    let report = Folder::new().json(PERPLEXITY);
    let nll: Vec<f64> = golden()["nll"].as_array().unwrap().iter().map(|nll| nll.as_f64().unwrap()).collect();
    // The prediction at position i is of token i + 1, and `nll` begins with token 1.
    let second_half = &nll[205..];
    let mean = second_half.iter().sum::<f64>() / second_half.len() as f64;
    let counts = ["context", "windows", "scored_tokens", "left_out_tokens"].map(|name| report[name].as_u64().unwrap());
    assert_eq!(counts, [410, 1, 204, 0]);
    let perplexity = report["perplexity"].as_f64().unwrap();
    println!("perplexity {perplexity:.4}, reference {:.4}", mean.exp());
    assert!((perplexity / mean.exp() - 1.0).abs() < 0.01, "{report}; the reference has {}", mean.exp());
    assert!((report["nll"]["mean"].as_f64().unwrap().exp() / perplexity - 1.0).abs() < 1e-9);
    assert!(report["standard_error"].as_f64().unwrap() > 0.0 && report["tokens_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_model_does_not_diverge_from_itself_but_does_with_8_bit_keys() {
    let folder = Folder::new();
    let scored = folder.json("perplexity --file text.txt --context 128 --save-logits reference.logits");
    assert_eq!((&scored["windows"], &scored["left_out_tokens"]), (&Value::from(3), &Value::from(410 - 3 * 128)));
    let same = folder.json("kl --file text.txt --context 128 --reference reference.logits --threads 1");
    for name in ["mean", "median", "p90", "p99", "max"] {
        assert_eq!(same["kl"][name], 0.0, "{same}");
    }
    assert_eq!((&same["top1_agreement"]["mean"], &same["rms_delta_p"]), (&Value::from(1.0), &Value::from(0.0)));
    for name in ["perplexity", "standard_error", "nll"] {
        assert_eq!(same["perplexity"][name], scored[name]);
    }
    assert_eq!(same["reference_perplexity"], same["perplexity"]);
    let other = folder.json("kl --file text.txt --context 128 --reference reference.logits --kv q8");
    let kl = |name: &str| other["kl"][name].as_f64().unwrap();
    println!("KL of 8-bit KV from 16-bit: mean {}, max {}", kl("mean"), kl("max"));
    assert!(0.0 < kl("median") && kl("median") <= kl("p90") && kl("p90") <= kl("p99") && kl("p99") <= kl("max"));
    assert!(kl("mean") < 0.01, "{other}");
}

#[test]
fn what_cannot_be_compared_is_refused_with_both_sides() {
    let folder = Folder::new();
    folder.json(&format!("{PERPLEXITY} --save-logits reference.logits"));
    folder.check_fails(&KL.replace("410", "128"), 1, "--context must be what `reference.logits` was saved with, 410; given 128");
    fs::write(folder.path("other.txt"), "A different text. ".repeat(200)).unwrap();
    folder.check_fails(&KL.replace("text.txt", "other.txt"), 1, "both models must read the same tokens: those of `");
    folder.check_fails(&KL.replace("reference.logits", "missing.logits"), 1, "the saved logits `missing.logits` cannot be used");

    // As if saved by a model with a token more or less of vocabulary.
    let mut bytes = fs::read(folder.path("reference.logits")).unwrap();
    let vocab_size = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) - 1;
    bytes[12..16].copy_from_slice(&vocab_size.to_le_bytes());
    bytes.truncate(bytes.len() - 4 * 204);
    fs::write(folder.path("smaller.logits"), &bytes).unwrap();
    folder.check_fails(&KL.replace("reference.logits", "smaller.logits"), 1, &format!("has {vocab_size} tokens, that of `"));
    bytes.truncate(1000);
    fs::write(folder.path("short.logits"), &bytes).unwrap();
    folder.check_fails(&KL.replace("reference.logits", "short.logits"), 1, "it has 1000");
}

#[test]
fn texts_that_cannot_be_scored_are_refused() {
    let folder = Folder::new();
    folder.check_fails("perplexity --file text.txt", 2, "must fill a window of 512 tokens and has 410");
    folder.check_fails("perplexity --file missing.txt", 1, "the text `missing.txt` cannot be read");
    folder.check_fails("perplexity --file text.txt --context 2", 2, "--context");
    fs::write(folder.path("latin.txt"), b"caf\xe9").unwrap();
    folder.check_fails("perplexity --file latin.txt", 2, "must be UTF-8; byte 3 is not");
    fs::write(folder.path("long.txt"), "word ".repeat(10_000)).unwrap();
    folder.check_fails("perplexity --file long.txt --context 9000", 2, "--context must be at most the model's");
    folder.check_fails(
        &format!("{PERPLEXITY} --save-logits no/such/folder.logits"),
        1,
        "`no/such/folder.logits` cannot be written",
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing_half_written() {
    let folder = Folder::new();
    let long = fs::read_to_string(folder.path("text.txt")).unwrap().repeat(10);
    fs::write(folder.path("text.txt"), long).unwrap();
    let mut child = folder
        .command("perplexity --file text.txt --save-logits reference.logits")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut said).unwrap();
    assert!(said.contains("the logits in `reference.logits` will take 4"), "{said}");
    let begun = Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(20), "it stops at once");
    assert_eq!(folder.files(), Vec::<String>::new());
}
