//! The adapter that a run writes, against what PEFT makes of it: `reference/adapter_out.py`.

use std::path::{Path, PathBuf};

use qern_model::checkpoint::Checkpoint;
use qern_train::adapter::{AdapterSpec, BaseName, peft_config};
use qern_train::checkpoint::tensors_to_bytes;
use qern_train::config::{LoraSettings, linear_modules, resolve};
use qern_train::run::persist::{ADAPTER, ADAPTER_CONFIG, config_bytes};
use serde_json::{Map, Value, json};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens")
}

/// Settings with everything that changes names, shapes or scales.
fn settings() -> LoraSettings {
    LoraSettings {
        rank: 4,
        alpha: Some(6.0),
        targets: ["q_proj", "self_attn.v_proj", "layers.1.mlp.*", "model.layers.0.self_attn.o_proj"].map(String::from).into(),
        dropout: 0.1,
        rslora: true,
        dora: true,
        rank_pattern: [("layers.2.*.q_proj".to_string(), 3)].into(),
        alpha_pattern: [("down_proj".to_string(), 5.0)].into(),
        modules_to_save: vec!["embed_tokens".into(), "lm_head".into()],
    }
}

fn spec() -> (AdapterSpec, Vec<String>) {
    let checkpoint = Checkpoint::open(goldens().join("models/llama-tiny")).unwrap();
    let linears = linear_modules(checkpoint.config()).into_iter().map(|linear| linear.name).collect();
    (resolve(&settings(), checkpoint.config()).unwrap(), linears)
}

#[test]
fn peft_finds_the_names_shapes_and_scales_that_were_written() {
    let (spec, linears) = spec();
    let tensors: Vec<(String, Vec<usize>)> =
        spec.parameters().into_iter().map(|p| (format!("base_model.model.{}", p.name), p.shape)).collect();
    if let Some(dir) = std::env::var_os("QERN_TRAIN_PEFT_OUT").map(PathBuf::from) {
        let values: Vec<Vec<f32>> = (tensors.iter().enumerate())
            .map(|(id, (_, shape))| (0..shape.iter().product()).map(|i| ((i * 7 + id) % 13) as f32 / 8.0 - 0.75).collect())
            .collect();
        let views: Vec<_> = tensors.iter().zip(&values).map(|((n, s), v)| (n.clone(), s.as_slice(), v.as_slice())).collect();
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(ADAPTER), tensors_to_bytes(&views).unwrap()).unwrap();
        let base = BaseName { name: "llama-tiny".into(), fingerprint: Some("v1-0000000000000000-0000000000000000".into()) };
        std::fs::write(dir.join(ADAPTER_CONFIG), config_bytes(&peft_config(&settings(), &spec, &linears, &base))).unwrap();
    }
    let golden: Value = serde_json::from_slice(&std::fs::read(goldens().join("training/peft-tensors.json")).unwrap()).unwrap();
    let written: Map<String, Value> = tensors.into_iter().map(|(name, shape)| (name, json!(shape))).collect();
    let expected = golden["tensors"].as_object().unwrap();
    assert_eq!(written.len(), expected.len());
    written.iter().for_each(|(name, shape)| assert_eq!(Some(shape), expected.get(name), "{name}"));
    let scaling = golden["scaling"].as_object().unwrap();
    assert_eq!(scaling.len(), spec.modules.len());
    for module in &spec.modules {
        let expected = scaling[&module.name].as_f64().unwrap();
        assert!((f64::from(module.scale) / expected - 1.0).abs() < 1e-6, "{}: {} by PEFT {expected}", module.name, module.scale);
    }
}
