//! Merged models and adapter GGUFs against what they are made of: the logits that PEFT computed (`reference/lora.py`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qern_kernels::isa::Isa;
use qern_kernels::kv::{KvFormat, KvPages};
use qern_kernels::pool::Pool;
use qern_model::batch::{BatchSequence, LogitsFor, PageId};
use qern_model::checkpoint::Checkpoint;
use qern_model::lora::{Adapter, AdapterSet};
use qern_model::transformer::{ForwardOptions, Scratch, Transformer};
use qern_model::weights::Weights;
use qern_train::adapter::{AdapterSpec, GgufHeader, ModuleSpec, adapter_gguf, merge};
use safetensors::SafeTensors;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens")
}

fn transformer(path: &Path) -> Transformer {
    let checkpoint = Checkpoint::open(path).unwrap();
    let pool = Arc::new(Pool::new(1));
    let weights = Weights::load(&checkpoint, &pool, &mut |_| {}).unwrap();
    Transformer::new(checkpoint.config().clone(), weights, pool, Isa::active()).unwrap()
}

fn logits(transformer: &Transformer, adapter: Option<&Path>, tokens: &[u32]) -> Vec<f32> {
    let mut set = AdapterSet::new();
    let adapter =
        adapter.map(|path| set.load(transformer, Arc::new(Adapter::open(path, transformer.config()).unwrap())).unwrap());
    let mut kv = KvPages::new(transformer.kv_geometry(KvFormat::F32), 2).unwrap();
    let batch = [BatchSequence { tokens, position: 0, pages: &[PageId(0), PageId(1)], logits: LogitsFor::All, adapter }];
    let options = ForwardOptions { adapters: Some(&set), ..Default::default() };
    transformer.forward_with(&batch, &mut kv, &mut Scratch::default(), options).unwrap().to_vec()
}

/// The base, the tokens and the logits of an adapter's golden.
fn golden(adapter: &str) -> (PathBuf, Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(goldens().join("adapters").join(adapter).join("golden.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let base = metadata.metadata().as_ref().unwrap()["base"].clone();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let data = |name: &str| tensors.tensor(name).unwrap().data().to_vec();
    let tokens = data("input_ids").chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
    let logits = data("logits").chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (goldens().join("models").join(base), tokens, logits)
}

fn check_close(found: &[f32], expected: &[f32], bound: f32, what: &str) {
    let size = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let error = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / size;
    assert!(found.len() == expected.len() && error <= bound, "{what}: logits differ by {error}");
}

fn merged(base: &Path, adapter: &str, out: &Path) -> qern_train::Result<qern_train::adapter::MergeReport> {
    let base = Checkpoint::open(base).unwrap();
    let adapter = Adapter::open(goldens().join("adapters").join(adapter), base.config()).unwrap();
    merge(&base, &adapter, out)
}

#[test]
fn a_merged_model_has_the_logits_of_base_and_adapter() {
    for name in ["qwen3-plain", "qwen3-patterns", "qwen3-dora", "llama-all", "llama-dora"] {
        let dir = tempfile::tempdir().unwrap();
        let (base, tokens, expected) = golden(name);
        let out = dir.path().join("merged");
        let report = merged(&base, name, &out).unwrap();
        assert!(report.num_changed > 0 && report.num_tensors > report.num_changed, "{report:?}");
        check_close(&logits(&transformer(&out), None, &tokens), &expected, 1e-4, name);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing unfinished is left");
    }
}

#[test]
fn what_cannot_be_merged_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let check = |base: &Path, adapter: &str, out: &Path, expected: &str| {
        let message = merged(base, adapter, out).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    let (base, ..) = golden("qwen3-plain");
    check(&base.join("model.gguf"), "qwen3-plain", &dir.path().join("a"), "into a base in safetensors only");
    check(&base, "qwen3-plain", dir.path(), "must not exist yet; name a new folder");
    let (base, ..) = golden("llama-embedding");
    check(&base, "llama-embedding", &dir.path().join("a"), "serve it beside its base by --adapter");
}

/// Modules of the golden's adapter as training would have them, their rows in the order of this base.
fn as_trained(base: &Transformer, name: &str) -> (AdapterSpec, Vec<Vec<f32>>) {
    let adapter = Adapter::open(goldens().join("adapters").join(name), base.config()).unwrap();
    let (mut spec, mut values) = (AdapterSpec::default(), Vec::new());
    for (site, addition) in adapter.additions() {
        let (a, b) = (addition.a(), addition.b());
        spec.modules.push(ModuleSpec {
            name: site.to_string(),
            in_features: a.cols(),
            out_features: b.rows(),
            rank: a.rows(),
            scale: addition.scale(),
            dora: false,
        });
        for matrix in [a, b] {
            let mut floats = vec![0.0; matrix.rows() * matrix.cols()];
            for (row, out) in floats.chunks_exact_mut(matrix.cols()).enumerate() {
                matrix.dequantize_row(Isa::active(), row, out);
            }
            values.push(floats);
        }
    }
    (spec, values)
}

#[test]
fn an_adapter_gguf_has_the_logits_of_the_adapter_on_bases_of_either_order() {
    for (name, base_file) in [("qwen3-plain", ""), ("qwen3-patterns", ""), ("llama-all", ""), ("llama-all", "model.gguf")] {
        let dir = tempfile::tempdir().unwrap();
        let (base, tokens, expected) = golden(name);
        let base = transformer(&base.join(base_file));
        let (spec, values) = as_trained(&base, name);
        let header = GgufHeader { name: "x".into(), alpha: 3.0, fingerprint: None };
        let path = dir.path().join("adapter.gguf");
        std::fs::write(&path, adapter_gguf(&header, &spec, base.config(), &values).unwrap()).unwrap();
        check_close(&logits(&base, Some(&path), &tokens), &expected, 1e-4, &format!("{name} {base_file}"));
        let dora = AdapterSpec { modules: vec![ModuleSpec { dora: true, ..spec.modules[0].clone() }], ..AdapterSpec::default() };
        let message = adapter_gguf(&header, &dora, base.config(), &values).unwrap_err().to_string();
        assert!(message.contains("cannot hold DoRA"), "{message}");
    }
}
