//! The transformer against transformers' own computation of tiny checkpoints (`reference/tiny_models.py`), and against itself
//! under other batches, chunks and threads.

use qern_kernels::isa::Isa;
use qern_kernels::kv::{KvFormat, KvPages};
use qern_kernels::pool::Pool;
use qern_model::batch::{BatchSequence, LogitsFor, PAGE_LEN, PageId};
use qern_model::checkpoint::Checkpoint;
use qern_model::transformer::{ForwardOptions, Scratch, Transformer};
use qern_model::weights::Weights;
use safetensors::SafeTensors;
use std::path::PathBuf;
use std::sync::Arc;

fn goldens(model: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens/models").join(model)
}

fn load(path: PathBuf, num_threads: usize, isa: Isa) -> Transformer {
    let checkpoint = Checkpoint::open(&path).unwrap();
    let pool = Arc::new(Pool::new(num_threads));
    let weights = Weights::load(&checkpoint, &pool, &mut |_| {}).unwrap();
    Transformer::new(checkpoint.config().clone(), weights, pool, isa).unwrap()
}

/// The tokens and tensors of a golden file.
struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    fn read(model: &str, file: &str) -> Self {
        Self { bytes: std::fs::read(goldens(model).join(file)).unwrap() }
    }
    fn tokens(&self) -> Vec<u32> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let data = tensors.tensor("input_ids").unwrap().data().to_vec();
        data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
    }
    fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

fn kv(transformer: &Transformer, format: KvFormat, num_pages: usize) -> KvPages {
    KvPages::new(transformer.kv_geometry(format), num_pages).unwrap()
}

/// The largest difference, relative to the largest expected value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / size
}

/// Every layer and the logits agree within 1e-4 with exact keys and values. Pages of half floats round those to 11 bits, and
/// a few layers carry that on to some times 2^-11.
fn check(model: &str, file: &str) {
    check_with(model, file, KvFormat::F32, 1e-4);
    check_with(model, file, KvFormat::F16, 5e-3);
}

fn check_with(model: &str, file: &str, format: KvFormat, bound: f32) {
    for isa in Isa::available() {
        let transformer = load(goldens(model).join(file), 2, isa);
        let golden = Golden::read(model, "golden.safetensors");
        let tokens = golden.tokens();
        let mut kv = kv(&transformer, format, 1);
        let (mut scratch, mut layers) = (Scratch::default(), vec![]);
        let batch = [BatchSequence { tokens: &tokens, position: 0, pages: &[PageId(0)], logits: LogitsFor::All, adapter: None }];
        let logits = transformer
            .forward_with(
                &batch,
                &mut kv,
                &mut scratch,
                ForwardOptions { observer: Some(&mut |layer, x| layers.push((layer, x.to_vec()))), ..Default::default() },
            )
            .unwrap();
        for (layer, hidden) in layers {
            let error = difference(&hidden, &golden.floats(&format!("hidden.{layer}")));
            assert!(error <= bound, "{model}/{file} on {isa}: hidden state {layer} differs by {error}");
        }
        let error = difference(logits, &golden.floats("logits"));
        println!("{model}/{file} {format:?} on {isa}: {error:e}");
        assert!(error <= bound, "{model}/{file} on {isa}: logits differ by {error}");
    }
}

#[test]
fn tiny_checkpoints_agree_with_transformers() {
    for model in [
        "qwen3-tiny",
        "qwen2-tiny",
        "llama-tiny",
        "llama-tied-tiny",
        "mistral-tiny",
        "qwen3-yarn-tiny",
        "llama-dynamic-tiny",
        "qwen3-sharded-tiny",
        "qwen3-bf16-tiny",
        "qwen3-f16-tiny",
    ] {
        check(model, "");
    }
}

#[test]
fn gguf_files_agree_with_transformers() {
    check("qwen3-tiny", "model.gguf");
    check("llama-tiny", "model.gguf");
    check("qwen3-tiny", "model-00001-of-00002.gguf");
}

/// Logits of all tokens, computed in runs of `chunk` tokens.
fn in_chunks(transformer: &Transformer, format: KvFormat, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let num_pages = tokens.len().div_ceil(PAGE_LEN);
    // Pages out of order, as a busy pool gives them.
    let pages: Vec<PageId> = (0..num_pages as u32).rev().map(PageId).collect();
    let mut kv = kv(transformer, format, num_pages);
    let (mut scratch, mut all, mut position) = (Scratch::default(), vec![], 0);
    for run in tokens.chunks(chunk) {
        let batch = [BatchSequence { tokens: run, position, pages: &pages, logits: LogitsFor::All, adapter: None }];
        all.extend_from_slice(transformer.forward(&batch, &mut kv, &mut scratch).unwrap());
        position += run.len();
    }
    all
}

#[test]
fn logits_have_the_same_bits_for_any_chunking_and_number_of_threads() {
    for model in ["qwen3-tiny", "mistral-tiny", "qwen2-tiny"] {
        let tokens: Vec<u32> = (0..128u32).map(|i| (i * 7919 + i / 3) % 250).collect();
        for format in [KvFormat::F16, KvFormat::Q8] {
            let reference = in_chunks(&load(goldens(model), 1, Isa::active()), format, &tokens, tokens.len());
            for threads in [1, 2] {
                let transformer = load(goldens(model), threads, Isa::active());
                for chunk in [1, 7, 64, 100] {
                    let found = in_chunks(&transformer, format, &tokens, chunk);
                    assert!(found == reference, "{model} {format:?}: chunks of {chunk} on {threads} threads");
                }
            }
        }
    }
}

#[test]
fn logits_have_the_same_bits_alone_and_among_fifteen_others() {
    let transformer = load(goldens("qwen3-tiny"), 2, Isa::active());
    let texts: Vec<Vec<u32>> = (0..16u32).map(|s| (0..8 + 7 * s).map(|i| (i * 31 + s * 17) % 250).collect()).collect();
    let mut kv = kv(&transformer, KvFormat::F16, 16 * 2);
    let pages: Vec<Vec<PageId>> = (0..16u32).map(|s| (2 * s..2 * s + 2).map(PageId).collect()).collect();
    let mut scratch = Scratch::default();
    let runs: Vec<_> = texts
        .iter()
        .zip(&pages)
        .map(|(tokens, pages)| BatchSequence { tokens, position: 0, pages, logits: LogitsFor::Last, adapter: None })
        .collect();
    let together = transformer.forward(&runs, &mut kv, &mut scratch).unwrap().to_vec();
    for (i, run) in runs.iter().enumerate() {
        let alone = transformer.forward(std::slice::from_ref(run), &mut kv, &mut scratch).unwrap();
        let vocab = alone.len();
        assert!(alone == &together[i * vocab..(i + 1) * vocab], "sequence {i} of 16");
    }
}

#[test]
fn a_batch_that_does_not_fit_the_model_is_refused() {
    let transformer = load(goldens("qwen3-tiny"), 1, Isa::active());
    let mut kv = kv(&transformer, KvFormat::F16, 1);
    let mut check = |tokens: &[u32], position, pages: &[PageId], message: &str| {
        let batch = [BatchSequence { tokens, position, pages, logits: LogitsFor::Last, adapter: None }];
        let error = transformer.forward(&batch, &mut kv, &mut Scratch::default()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    check(&[1_000_000], 0, &[PageId(0)], "token ids must be below");
    check(&[1], 64, &[PageId(0)], "65 positions need 2 pages; given 1");
    check(&[1], 0, &[PageId(9)], "page ids must be below 1; given 9");
    check(&[1], usize::MAX - 1, &[PageId(0)], "positions must stay below");
}

#[test]
fn hidden_states_are_the_normed_residual_stream_and_leave_logits_as_they_are() {
    let transformer = load(goldens("qwen3-tiny"), 2, Isa::active());
    let hidden_size = transformer.config().hidden_size;
    let texts: Vec<Vec<u32>> = (0..4u32).map(|s| (0..5 + 3 * s).map(|i| (i * 31 + s * 17) % 250).collect()).collect();
    let mut kv = kv(&transformer, KvFormat::F16, 4);
    let mut run = |kinds: [LogitsFor; 4]| {
        let mut scratch = Scratch::default();
        let pages = [[PageId(0)], [PageId(1)], [PageId(2)], [PageId(3)]];
        let batch: Vec<_> = texts
            .iter()
            .zip(&pages)
            .zip(kinds)
            .map(|((tokens, pages), logits)| BatchSequence { tokens, position: 0, pages, logits, adapter: None })
            .collect();
        let mut last = Vec::new();
        let mut observe = |layer: usize, x: &[f32]| {
            if layer == transformer.config().num_layers {
                last = x.to_vec();
            }
        };
        let logits = transformer
            .forward_with(&batch, &mut kv, &mut scratch, ForwardOptions { observer: Some(&mut observe), ..Default::default() })
            .unwrap()
            .to_vec();
        (logits, scratch.hidden().to_vec(), last)
    };
    use LogitsFor::{All, HiddenAll, HiddenLast, Last};
    let (logits, no_hidden, _) = run([Last, LogitsFor::None, All, LogitsFor::None]);
    let (same_logits, hidden, outputs) = run([Last, HiddenAll, All, HiddenLast]);
    assert!(no_hidden.is_empty());
    assert!(same_logits == logits, "the bits of logits beside hidden states");
    // Rows of the batch: 1 for logits, 8 hidden, 11 for logits, 1 hidden.
    let rows: Vec<&[f32]> = outputs.chunks(hidden_size).collect();
    assert_eq!((rows.len(), hidden.len()), (1 + 8 + 11 + 1, 9 * hidden_size));
    for (row, found) in rows[1..9].iter().chain(&rows[20..]).zip(hidden.chunks(hidden_size)) {
        let mean = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / hidden_size as f64;
        let scale = (mean + f64::from(transformer.config().rms_norm_eps)).sqrt().recip();
        for ((&x, &weight), &found) in row.iter().zip(&transformer.weights().norm).zip(found) {
            let expected = f64::from(x) * scale * f64::from(weight);
            assert!((expected - f64::from(found)).abs() <= 1e-5 * expected.abs().max(1.0), "{found} for {expected}");
        }
    }
    let (no_logits, alone, _) = run([LogitsFor::None, LogitsFor::None, LogitsFor::None, HiddenAll]);
    assert!(no_logits.is_empty());
    assert!(alone[13 * hidden_size..] == hidden[8 * hidden_size..], "the last hidden state has the same bits");
}
