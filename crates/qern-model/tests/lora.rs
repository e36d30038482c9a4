//! Adapters against transformers with PEFT (`reference/lora.py`), against each other's containers, and against themselves in
//! other company. What is refused is in `lora_refusals.rs`.

use qern_kernels::isa::Isa;
use qern_kernels::kv::{KvFormat, KvPages};
use qern_kernels::pool::Pool;
use qern_model::batch::{AdapterId, BatchSequence, LogitsFor, PageId};
use qern_model::checkpoint::Checkpoint;
use qern_model::lora::{Adapter, AdapterSet, AdapterTensors, FitOptions, Projection, Site};
use qern_model::transformer::{ForwardOptions, Scratch, Transformer};
use qern_model::weights::Weights;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens")
}

fn load(model: &str, num_threads: usize, isa: Isa) -> Transformer {
    let checkpoint = Checkpoint::open(goldens().join("models").join(model)).unwrap();
    let pool = Arc::new(Pool::new(num_threads));
    let weights = Weights::load(&checkpoint, &pool, &mut |_| {}).unwrap();
    Transformer::new(checkpoint.config().clone(), weights, pool, isa).unwrap()
}

fn adapter(transformer: &Transformer, path: &str) -> Arc<Adapter> {
    Arc::new(Adapter::open(goldens().join("adapters").join(path), transformer.config()).unwrap())
}

/// What PEFT computed.
struct Golden {
    base: String,
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

fn golden(adapter: &str) -> Golden {
    let bytes = std::fs::read(goldens().join("adapters").join(adapter).join("golden.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let base = metadata.metadata().as_ref().unwrap()["base"].clone();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let data = |name: &str| tensors.tensor(name).unwrap().data().to_vec();
    let tokens = data("input_ids").chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
    let logits = data("logits").chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    Golden { base, tokens, logits }
}

/// Logits of all tokens of one sequence, computed in runs of `chunk` tokens.
fn run(transformer: &Transformer, set: &AdapterSet, adapter: Option<AdapterId>, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut kv = KvPages::new(transformer.kv_geometry(KvFormat::F32), 2).unwrap();
    let (mut scratch, mut logits, mut position) = (Scratch::default(), Vec::new(), 0);
    for tokens in tokens.chunks(chunk) {
        let pages = &[PageId(1), PageId(0)];
        let batch = [BatchSequence { tokens, position, pages, logits: LogitsFor::All, adapter }];
        let options = ForwardOptions { adapters: Some(set), ..Default::default() };
        logits.extend_from_slice(transformer.forward_with(&batch, &mut kv, &mut scratch, options).unwrap());
        position += tokens.len();
    }
    logits
}

/// The largest difference, relative to the largest expected value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / size
}

/// The logits of an adapter on a base are within 1e-4 of PEFT's, on every instruction set.
fn check(name: &str, file: &str, base_file: &str) {
    let golden = golden(name);
    for isa in Isa::available() {
        let transformer = load(&format!("{}/{base_file}", golden.base), 2, isa);
        let mut set = AdapterSet::new();
        let id = set.load(&transformer, adapter(&transformer, &format!("{name}/{file}"))).unwrap();
        let error = difference(&run(&transformer, &set, Some(id), &golden.tokens, 100), &golden.logits);
        println!("{name}/{file} on {}/{base_file} with {isa}: {error:e}", golden.base);
        assert!(error <= 1e-4, "{name}/{file} on {}/{base_file} with {isa}: logits differ by {error}", golden.base);
    }
}

#[test]
fn adapters_agree_with_peft() {
    for name in [
        "qwen3-plain",
        "qwen3-rslora-bf16",
        "qwen3-patterns",
        "qwen3-some-layers-f16",
        "qwen3-layer-1",
        "qwen3-dora",
        "qwen2-dora-head",
        "qwen3-tied-new-head",
        "llama-all",
        "llama-dora",
        "llama-embedding",
        "llama-new-embedding-f16",
    ] {
        check(name, "", "");
    }
}

#[test]
fn adapters_agree_with_peft_in_every_container_of_adapter_and_base() {
    for (name, base_file) in [("qwen3-plain", "model.gguf"), ("llama-all", "model.gguf"), ("llama-embedding", "model.gguf")] {
        check(name, "adapter.gguf", base_file);
        check(name, "adapter.gguf", "");
        check(name, "", base_file);
    }
    // Magnitudes are in the order of the base's rows too.
    check("llama-dora", "", "model.gguf");
}

/// Two adapters of each base that differ in everything, and a set that has them.
fn two(transformer: &Transformer, names: [&str; 2]) -> (AdapterSet, [AdapterId; 2]) {
    let mut set = AdapterSet::new();
    let ids = names.map(|name| set.load(transformer, adapter(transformer, name)).unwrap());
    (set, ids)
}

const PAIRS: [(&str, [&str; 2]); 4] = [
    ("qwen3-tiny", ["qwen3-patterns", "qwen3-dora"]),
    ("qwen3-tiny", ["qwen3-tied-new-head", "qwen3-plain"]),
    ("qwen2-tiny", ["qwen2-dora-head", "qwen2-dora-head"]),
    ("llama-tiny", ["llama-embedding", "llama-new-embedding-f16"]),
];

#[test]
fn base_and_adapters_in_one_batch_have_the_bits_of_each_alone() {
    for (base, names) in PAIRS {
        let transformer = load(base, 2, Isa::active());
        let (set, [first, second]) = two(&transformer, names);
        let users = [None, Some(first), Some(first), Some(second), None, Some(second), Some(first), None];
        let texts: Vec<Vec<u32>> = (0..8u32).map(|s| (0..3 + 9 * s).map(|i| (i * 31 + s * 17) % 250).collect()).collect();
        let pages: Vec<Vec<PageId>> = (0..8u32).map(|s| vec![PageId(2 * s), PageId(2 * s + 1)]).collect();
        let mut kv = KvPages::new(transformer.kv_geometry(KvFormat::F16), 16).unwrap();
        let mut scratch = Scratch::default();
        let logits = [LogitsFor::Last, LogitsFor::All, LogitsFor::None, LogitsFor::Last];
        let runs: Vec<_> = (0..8)
            .map(|i| BatchSequence { tokens: &texts[i], position: 0, pages: &pages[i], logits: logits[i % 4], adapter: users[i] })
            .collect();
        let mut forward = |batch: &[BatchSequence<'_>], adapters| {
            let options = ForwardOptions { adapters, ..Default::default() };
            transformer.forward_with(batch, &mut kv, &mut scratch, options).unwrap().to_vec()
        };
        let together = forward(&runs, Some(&set));
        let (vocab, mut end) = (transformer.config().vocab_size, 0);
        for (i, run) in runs.iter().enumerate() {
            let start = end;
            end += run.logits.num_rows(run.tokens.len()) * vocab;
            let alone = forward(std::slice::from_ref(run), Some(&set));
            assert!(alone == together[start..end], "{base}: sequence {i} with {:?}", run.adapter);
            if run.adapter.is_none() {
                assert!(forward(std::slice::from_ref(run), None) == together[start..end], "{base}: base sequence {i}");
            }
        }
        assert_eq!(end, together.len());
    }
}

#[test]
fn adapted_logits_have_the_same_bits_for_any_chunking_and_number_of_threads() {
    let tokens: Vec<u32> = (0..70u32).map(|i| (i * 7919 + i / 3) % 250).collect();
    for (base, names) in PAIRS {
        let mut expected: [Option<Vec<f32>>; 2] = [None, None];
        for threads in [1, 2] {
            let transformer = load(base, threads, Isa::active());
            let (set, ids) = two(&transformer, names);
            for chunk in [1, 7, 64, 100] {
                for (id, expected) in ids.into_iter().zip(&mut expected) {
                    let found = run(&transformer, &set, Some(id), &tokens, chunk);
                    let expected = expected.get_or_insert_with(|| found.clone());
                    assert!(found == *expected, "{base} {names:?}: chunks of {chunk} on {threads} threads");
                }
            }
        }
    }
}

#[test]
fn an_unloaded_id_is_refused_and_not_used_again() {
    let transformer = load("qwen3-tiny", 1, Isa::active());
    let (mut set, [first, second]) = two(&transformer, ["qwen3-plain", "qwen3-dora"]);
    let before = run(&transformer, &set, Some(second), &[1, 2, 3], 10);
    set.unload(first).unwrap();
    assert_eq!(set.unload(first).unwrap_err().to_string(), "adapter: no adapter with the id 0 is loaded");
    let third = set.load(&transformer, adapter(&transformer, "qwen3-plain")).unwrap();
    assert!(third != first && third != second);
    assert!(run(&transformer, &set, Some(second), &[1, 2, 3], 10) == before);
    let mut kv = KvPages::new(transformer.kv_geometry(KvFormat::F16), 1).unwrap();
    let batch = [BatchSequence { tokens: &[1], position: 0, pages: &[PageId(0)], logits: LogitsFor::Last, adapter: Some(first) }];
    let options = ForwardOptions { adapters: Some(&set), ..Default::default() };
    let error = transformer.forward_with(&batch, &mut kv, &mut Scratch::default(), options).unwrap_err();
    assert_eq!(error.to_string(), "batch: adapter ids must be of loaded adapters; given 0");
}

#[test]
fn floats_of_training_are_served_as_they_are() {
    let transformer = load("qwen3-tiny", 1, Isa::active());
    let path = goldens().join("adapters/qwen3-plain/adapter_model.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let data = file.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let sites = (0..3).flat_map(|layer| [Projection::Q, Projection::V].map(|projection| Site::Layer(layer, projection)));
    let tensors = sites
        .map(|site| AdapterTensors {
            site,
            rank: 4,
            a: floats(&format!("base_model.model.{site}.lora_A.weight")),
            b: floats(&format!("base_model.model.{site}.lora_B.weight")),
            magnitude: None,
            scale: 2.0,
        })
        .collect();
    let mut set = AdapterSet::new();
    let opened = set.load(&transformer, adapter(&transformer, "qwen3-plain")).unwrap();
    let made = set.load(&transformer, Arc::new(Adapter::new(transformer.config(), tensors).unwrap())).unwrap();
    let tokens = golden("qwen3-plain").tokens;
    assert!(run(&transformer, &set, Some(opened), &tokens, 100) == run(&transformer, &set, Some(made), &tokens, 100));
}

#[test]
fn an_adapter_without_effect_keeps_the_bits_of_the_base() {
    let transformer = load("qwen2-tiny", 2, Isa::active());
    let config = transformer.config();
    let tensors = Site::all(config)
        .filter(|&site| site != Site::Embedding)
        .map(|site| {
            let (outputs, inputs) = site.shape(config).unwrap();
            AdapterTensors { site, rank: 2, a: vec![0.5; 2 * inputs], b: vec![0.0; 2 * outputs], magnitude: None, scale: 1.0 }
        })
        .collect();
    let mut set = AdapterSet::new();
    let id = set.load(&transformer, Arc::new(Adapter::new(config, tensors).unwrap())).unwrap();
    let tokens: Vec<u32> = (0..20).collect();
    assert!(run(&transformer, &set, Some(id), &tokens, 100) == run(&transformer, &set, None, &tokens, 100));
}

#[test]
fn a_fitted_adapter_stays_with_its_base() {
    let (one, other) = (load("qwen3-tiny", 1, Isa::active()), load("qwen3-bf16-tiny", 1, Isa::active()));
    let adapter = adapter(&one, "qwen3-dora");
    let notes = adapter.fit(&one, FitOptions::default()).unwrap();
    assert_eq!(notes, ["the adapter does not say which base it was trained on; only its shapes were checked"]);
    assert_eq!(adapter.fit(&one, FitOptions::default()).unwrap(), Vec::<String>::new());
    let error = adapter.fit(&other, FitOptions::default()).unwrap_err().to_string();
    assert!(error.contains("it is fitted to the base v1-") && error.ends_with("open it again"), "{error}");
}

#[test]
fn fingerprints_tell_models_apart_and_not_their_containers() {
    let of = |model: &str| {
        let checkpoint = Checkpoint::open(goldens().join("models").join(model)).unwrap();
        let packed = load(model, 1, Isa::active());
        let fingerprint = checkpoint.fingerprint().unwrap();
        assert_eq!(fingerprint, packed.weights().fingerprint(packed.config()), "{model}");
        assert_eq!(fingerprint.to_string().parse::<qern_model::fingerprint::Fingerprint>().unwrap(), fingerprint);
        fingerprint
    };
    let qwen = of("qwen3-tiny");
    assert_eq!(qwen, of("qwen3-tiny/model.gguf"));
    assert_eq!(qwen, of("qwen3-sharded-tiny"));
    assert_eq!(of("llama-tiny"), of("llama-tiny/model.gguf"));
    let models = ["qwen3-tiny", "qwen2-tiny", "llama-tiny", "llama-tied-tiny", "mistral-tiny"].map(of);
    for (i, a) in models.iter().enumerate() {
        assert!(models[..i].iter().all(|b| a.model != b.model && a.weights != b.weights));
    }
}
