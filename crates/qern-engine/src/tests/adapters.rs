//! Adapters come and go while requests run; each request runs with its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use qern_kernels::isa::Isa;
use qern_kernels::kv::KvFormat;
use qern_kernels::pool::Pool;
use qern_model::checkpoint::Checkpoint;
use qern_model::config::{Architecture, ModelConfig, RopeConfig, RopeLayout, RopeScaling};
use qern_model::lora::Adapter;
use qern_model::transformer::Transformer;
use qern_model::weights::Weights;

use super::toy::*;
use crate::*;

/// Longer than any stall of the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An adapter that says nothing, for a model that looks at its layers alone.
fn adapter(num_layers: usize) -> Arc<Adapter> {
    let config = ModelConfig {
        architecture: Architecture::Qwen3,
        num_layers,
        hidden_size: 8,
        intermediate_size: 8,
        num_heads: 1,
        num_kv_heads: 1,
        head_dim: 8,
        vocab_size: VOCAB,
        rms_norm_eps: 1e-6,
        max_positions: 64,
        rope: RopeConfig { theta: 1e4, num_dims: 8, layout: RopeLayout::HalfSplit, scaling: RopeScaling::None },
        qk_norm: false,
        qkv_bias: false,
        tied_embeddings: true,
        sliding_window: None,
    };
    Arc::new(Adapter::new(&config, Vec::new()).unwrap())
}

fn start() -> EngineHandle {
    // The longest answer outlasts any stall between two calls.
    let max_positions = 100_000;
    let toy = Toy::new(max_positions / PAGE_LEN + 10, max_positions);
    Engine::start(toy, Arc::new(ToyText), EngineConfig::default()).unwrap()
}

fn submit(handle: &EngineHandle, adapter: Option<AdapterId>) -> Result<RequestStream, Error> {
    let request = GenerateRequest {
        prompt: prompt(10, 1),
        sampling: SamplingParams::greedy(),
        ignore_eos: true,
        adapter,
        ..GenerateRequest::default()
    };
    handle.submit(request.validate(&handle.limits()).unwrap())
}

fn refusal(handle: &EngineHandle, id: AdapterId) -> String {
    let error = submit(handle, Some(id)).err().expect("must be refused");
    assert!(error.is_invalid_request());
    error.to_string()
}

#[test]
fn requests_may_name_loaded_adapters_alone() {
    let handle = start();
    let message = "no adapter with the id 0 is loaded; load it, or leave `adapter` out";
    assert_eq!(refusal(&handle, AdapterId(0)), message);
    let inputs = EmbedRequest { inputs: vec![vec![2]], adapter: Some(AdapterId(0)), ..EmbedRequest::default() };
    assert_eq!(handle.embed(inputs.clone()).err().unwrap().to_string(), message);
    let id = handle.load_adapter(adapter(1)).unwrap();
    assert_eq!((id, handle.adapters()), (AdapterId(0), vec![AdapterId(0)]));
    submit(&handle, Some(id)).unwrap();
    handle.embed(inputs).unwrap().wait().unwrap();
    let error = handle.load_adapter(adapter(9)).unwrap_err();
    assert_eq!(error.to_string(), "the toy has no nine layers");
    assert_eq!(handle.unload_adapter(AdapterId(7)).err().unwrap().to_string(), message.replace('0', "7"));
}

#[test]
fn an_adapter_goes_when_its_last_request_has_ended() {
    let handle = start();
    let id = handle.load_adapter(adapter(1)).unwrap();
    let mut used = submit(&handle, Some(id)).unwrap();
    let waiting = submit(&handle, Some(id)).unwrap();
    let base = submit(&handle, None).unwrap();
    let unloading = handle.unload_adapter(id).unwrap();
    assert!(refusal(&handle, id).contains("no adapter with the id 0 is loaded"));
    assert!(handle.unload_adapter(id).is_err());
    assert!(matches!(unloading.wait_timeout(Duration::from_millis(50)), Err(Timeout)));
    // Its requests go on, and another adapter is loaded beside.
    assert!(matches!(used.next(), Some(Event::Started { .. })));
    assert_eq!(handle.load_adapter(adapter(1)).unwrap(), AdapterId(1));
    drop(waiting);
    drop(used);
    unloading.wait_timeout(PATIENCE).unwrap().unwrap();
    drop(base);
    // The toy fails a step that names an unloaded adapter.
    submit(&handle, Some(AdapterId(1))).unwrap();
}

#[test]
fn an_engine_that_has_ended_has_no_adapters_to_wait_for() {
    let handle = start();
    let id = handle.load_adapter(adapter(1)).unwrap();
    let _running = submit(&handle, Some(id)).unwrap();
    let unloading = handle.unload_adapter(id).unwrap();
    handle.shutdown();
    unloading.wait_timeout(PATIENCE).unwrap().unwrap();
    assert!(matches!(handle.load_adapter(adapter(1)), Err(Error::Stopped)));
}

#[test]
fn base_and_adapters_share_a_real_batch_and_each_gets_its_own_answer() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens");
    let checkpoint = Checkpoint::open(goldens.join("models/qwen3-tiny")).unwrap();
    let pool = Arc::new(Pool::new(2));
    let weights = Weights::load(&checkpoint, &pool, &mut |_| {}).unwrap();
    let config = checkpoint.config();
    let transformer = Arc::new(Transformer::new(config.clone(), weights, pool, Isa::active()).unwrap());
    let runner = Runner::new(transformer, KvFormat::F16, 1024).unwrap();
    let handle = Engine::start(runner, Arc::new(ToyText), EngineConfig::default()).unwrap();
    let mut users = vec![None];
    for name in ["qwen3-plain", "qwen3-dora"] {
        let adapter = Adapter::open(goldens.join("adapters").join(name), config).unwrap();
        users.push(Some(handle.load_adapter(Arc::new(adapter)).unwrap()));
    }
    let submit = |adapter| {
        let request = GenerateRequest {
            prompt: (1..80).collect(),
            sampling: SamplingParams::greedy(),
            max_tokens: Some(20),
            ignore_eos: true,
            logprobs: Some(0),
            adapter,
            ..GenerateRequest::default()
        };
        handle.submit(request.validate(&handle.limits()).unwrap()).unwrap()
    };
    let alone: Vec<_> = users.iter().map(|&adapter| collect(submit(adapter))).collect();
    assert!(alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2]);
    let streams: Vec<_> = users.iter().chain(&users).map(|&adapter| submit(adapter)).collect();
    for (i, stream) in streams.into_iter().enumerate() {
        assert!(collect(stream) == alone[i % 3], "request {i}");
    }
}
