//! The real default model against llama.cpp and the float32 computation on the same weights (`reference/smollm2.py` made the
//! goldens), and what the program promises about seeds, threads, stop strings and `bench`. How people use `run` and `chat` is
//! in `run_model`.

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use clap::Parser;
use qern::cli::{Cli, Command as CliCommand};
use qern::loading::{self, PackedModel};
use qern_engine::{BatchSequence, LogitsFor, PAGE_LEN, PageId, TokenId};
use qern_kernels::kv::{KvFormat, KvPages};
use qern_model::tokenizer::Specials;
use qern_model::transformer::Scratch;
use serde::Deserialize;
use serde_json::Value;

/// Two logits closer than this may change places: the formats' noise has an RMS of 0.19 in llama.cpp (`kl.json`).
const NOISE: f32 = 0.5;

fn golden<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens/smollm2").join(name);
    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()
}

fn model() -> &'static PackedModel {
    static MODEL: OnceLock<PackedModel> = OnceLock::new();
    MODEL.get_or_init(|| {
        let CliCommand::Bench(args) = Cli::parse_from(["qern", "bench", "--quiet"]).command else { unreachable!() };
        let path = support::default_model();
        loading::pack(path.to_str().unwrap(), &args.machine, &args.log).unwrap()
    })
}

/// Calls `each` with the logits at every position of a text.
fn logits(tokens: &[TokenId], mut each: impl FnMut(usize, &[f32])) {
    // One test at a time computes: they would only slow each other down.
    static COMPUTING: Mutex<()> = Mutex::new(());
    let _one = COMPUTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let transformer = &model().transformer;
    let vocab_size = transformer.config().vocab_size;
    let num_pages = tokens.len().div_ceil(PAGE_LEN);
    let pages: Vec<_> = (0..num_pages as u32).map(PageId).collect();
    let mut kv = KvPages::new(transformer.kv_geometry(KvFormat::F16), num_pages).unwrap();
    let mut scratch = Scratch::default();
    for (chunk, tokens) in tokens.chunks(64).enumerate() {
        let batch = [BatchSequence { tokens, position: 64 * chunk, pages: &pages, logits: LogitsFor::All, adapter: None }];
        let logits = transformer.forward(&batch, &mut kv, &mut scratch).unwrap();
        for (row, logits) in logits.chunks_exact(vocab_size).enumerate() {
            each(64 * chunk + row, logits);
        }
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit) - max - sum.ln()).collect()
}

fn likeliest(logits: &[f32]) -> TokenId {
    (0..logits.len()).reduce(|best, id| if logits[id] > logits[best] { id } else { best }).unwrap() as TokenId
}

#[derive(Deserialize)]
struct Greedy {
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    user: String,
    text: String,
    prompt_ids: Vec<TokenId>,
    /// What llama.cpp generated.
    ids: Vec<TokenId>,
    top2: Vec<Top2>,
    /// The float32 reference on llama.cpp's tokens.
    reference_top2: Vec<Top2>,
}

type Top2 = [(TokenId, f32); 2];

fn gap(top2: &Top2) -> f32 {
    top2[0].1 - top2[1].1
}

#[test]
fn prompts_are_tokenized_as_llama_cpp_does() {
    for prompt in golden::<Greedy>("greedy.json").prompts {
        assert_eq!(model().tokenizer.encode(&prompt.text, Specials::Parse).unwrap(), prompt.prompt_ids, "{}", prompt.user);
    }
}

/// Teacher-forced: at every position the tokens that llama.cpp chose come before, so one near tie does not change the rest.
#[test]
fn greedy_choices_are_llama_cpps_except_at_near_ties() {
    let (mut num_positions, mut with_llama, mut with_reference, mut llama_with_reference) = (0, 0, 0, 0);
    for Prompt { user, prompt_ids, ids, top2, reference_top2, .. } in golden::<Greedy>("greedy.json").prompts {
        let tokens = [&prompt_ids[..], &ids[..ids.len() - 1]].concat();
        logits(&tokens, |position, logits| {
            let Some(at) = (position + 1).checked_sub(prompt_ids.len()) else { return };
            let (ours, llama, reference) = (likeliest(logits), &top2[at], &reference_top2[at]);
            num_positions += 1;
            with_llama += usize::from(ours == llama[0].0);
            with_reference += usize::from(ours == reference[0].0);
            llama_with_reference += usize::from(llama[0].0 == reference[0].0);
            if ours == llama[0].0 {
                return;
            }
            let word = |id| String::from_utf8_lossy(&model().tokenizer.decode(&[id], true)).into_owned();
            let story = format!(
                "\"{user}\", token {at}: {:?} where llama.cpp has {:?} ({:.3} ahead) and float32 has {:?} ({:.3} ahead)",
                word(ours),
                word(llama[0].0),
                gap(llama),
                word(reference[0].0),
                gap(reference)
            );
            println!("{story}");
            assert!(gap(llama).min(gap(reference)) < NOISE, "not a near tie: {story}");
            let behind = logits[ours as usize] - logits[llama[0].0 as usize];
            assert!(behind < NOISE, "llama.cpp's choice is {behind} behind here: {story}");
        });
    }
    println!(
        "of {num_positions} first choices, {with_llama} are llama.cpp's and {with_reference} float32's; llama.cpp has {llama_with_reference} of float32's"
    );
    let slack = num_positions / 100;
    assert!(with_reference + slack >= llama_with_reference, "further from float32 than llama.cpp is");
    assert!(with_llama + slack >= llama_with_reference, "further from llama.cpp than llama.cpp is from float32");
}

#[derive(Deserialize)]
struct Kl {
    ids: Vec<TokenId>,
    positions: Vec<Position>,
}

#[derive(Deserialize)]
struct Position {
    index: usize,
    /// The reference's likeliest tokens.
    top: Vec<(TokenId, f64)>,
    /// The probability of all others.
    rest: f64,
    llama_cpp_kl_coarse: Paths,
}

/// llama.cpp rounds differently in prefill and decode; Qern computes the same bits in both.
#[derive(Deserialize)]
struct Paths {
    prefill: f64,
    decode: f64,
}

#[test]
fn the_divergence_from_float32_is_no_worse_than_llama_cpps() {
    let Kl { ids, positions } = golden("kl.json");
    let mut ours = vec![];
    logits(&ids, |index, logits| {
        let Some(position) = positions.iter().find(|position| position.index == index) else { return };
        let q = log_softmax(logits);
        let mut q_rest = 1.0;
        let mut kl = 0.0;
        for &(id, p) in &position.top {
            q_rest -= q[id as usize].exp();
            kl += p.exp() * (p - q[id as usize]);
        }
        ours.push(kl + position.rest * (position.rest / q_rest.max(1e-300)).ln());
    });
    assert_eq!(ours.len(), positions.len());
    let count = ours.len() as f64;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / count;
    let prefill: Vec<f64> = positions.iter().map(|position| position.llama_cpp_kl_coarse.prefill).collect();
    let decode: Vec<f64> = positions.iter().map(|position| position.llama_cpp_kl_coarse.decode).collect();
    // How much worse than llama.cpp's decode, position by position, and how far 32 positions can tell.
    let worse: Vec<f64> = ours.iter().zip(&decode).map(|(ours, decode)| ours - decode).collect();
    let error = (worse.iter().map(|d| (d - mean(&worse)).powi(2)).sum::<f64>() / (count * (count - 1.0))).sqrt();
    println!(
        "mean KL from float32: {:.6}; llama.cpp: prefill {:.6}, decode {:.6} ({:+.6} ± {error:.6})",
        mean(&ours),
        mean(&prefill),
        mean(&decode),
        mean(&worse)
    );
    assert!(mean(&ours) <= mean(&prefill), "worse than llama.cpp's prefill");
    assert!(mean(&worse) < 2.0 * error, "worse than llama.cpp's decode, beyond what so few positions leave open");
}

#[derive(Deserialize)]
struct Perplexity {
    text: String,
    ids: Vec<TokenId>,
    perplexity: Perplexities,
    nll: Vec<f64>,
}

#[derive(Deserialize)]
struct Perplexities {
    reference: f64,
    llama_cpp_prefill: f64,
}

#[test]
fn the_perplexity_is_that_of_float32() {
    let Perplexity { text, ids, perplexity, nll } = golden("perplexity.json");
    assert_eq!(model().tokenizer.encode(&text, Specials::AsText).unwrap(), ids);
    let mut ours = vec![];
    logits(&ids[..ids.len() - 1], |index, logits| ours.push(-log_softmax(logits)[ids[index + 1] as usize]));
    let mean = ours.iter().sum::<f64>() / ours.len() as f64;
    let squares: f64 = ours.iter().zip(&nll).map(|(ours, nll)| (ours - nll).powi(2)).sum();
    let rms = (squares / nll.len() as f64).sqrt();
    println!(
        "perplexity {:.4}; float32 {:.4}, llama.cpp {:.4}; RMS of the difference per token {rms:.4} nats",
        mean.exp(),
        perplexity.reference,
        perplexity.llama_cpp_prefill
    );
    assert!((mean.exp() / perplexity.reference - 1.0).abs() < 0.005);
    assert!(rms < 0.15, "{rms}");
}

fn json(arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qern"));
    command.args(arguments).arg("-m").arg(support::default_model()).env_remove("QERN_MODEL").stdin(std::process::Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_seed_gives_the_same_text_on_any_number_of_threads() {
    let said = |threads: &str| {
        let flags = ["--temperature", "1", "--seed", "11", "--n", "2", "--max-tokens", "32", "--threads", threads];
        json(&[&["run", "--json", "--logprobs=2", "Tell me about rivers."], &flags[..]].concat())["answers"].clone()
    };
    let one = said("1");
    assert_eq!(one.as_array().unwrap().len(), 2);
    assert_ne!(one[0]["text"], one[1]["text"]);
    for threads in ["2", "3"] {
        assert_eq!(said(threads), one, "text, tokens and log-probabilities on {threads} threads");
    }
}

#[test]
fn stop_strings_longer_than_tokens_are_found_and_near_misses_lose_nothing() {
    let continued = |stop| {
        let line = ["run", "--json", "--raw", "1, 2, 3, 4, 5, 6,", "--temperature", "0", "--max-tokens", "40", "--stop", stop];
        let object = json(&line);
        (object["text"].as_str().unwrap().to_owned(), object["finish_reason"].as_str().unwrap().to_owned())
    };
    assert_eq!(continued(" 9, 10, 11, 12"), (" 7, 8,".into(), "stop_string".into()));
    let (text, reason) = continued(" 9, 10, 12, 13");
    assert!(text.starts_with(" 7, 8, 9, 10, 11,"), "{text}");
    assert_eq!(reason, "length");
}

#[test]
fn bench_reports_each_figure_beside_the_machines_limits() {
    let report = json(&["bench", "--json", "--prompt", "16", "--gen", "2", "--batch", "1,2", "--depth", "70", "--repeat", "1"]);
    for number in ["threads", "read_bandwidth", "integer_peak", "float_peak"] {
        assert!(report[number].as_f64().unwrap() > 0.0, "{number}: {report}");
    }
    assert!(report["model"].is_string() && report["isa"].is_string());
    let figures = report["figures"].as_array().unwrap();
    let names: Vec<_> = figures.iter().map(|figure| figure["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["prefill 16 @ 70", "decode 2 @ 70", "decode 2 x 2 @ 70"]);
    for figure in figures {
        assert_eq!((&figure["depth"], figure["runs"].as_array().unwrap().len()), (&Value::from(70), 1));
        for number in [
            "tokens_per_second",
            "bytes_per_second",
            "bandwidth_fraction",
            "operations_per_second",
            "integer_fraction",
            "limit_fraction",
        ] {
            assert!(figure[number].as_f64().unwrap() > 0.0, "{number}: {figure}");
        }
    }
}
