//! Adapters that must be refused, by what the error says: another base's, broken, hostile, or asking for what is not computed.

mod builders;

use builders::{Gguf, golden, message};
use qern_kernels::pool::Pool;
use qern_model::checkpoint::Checkpoint;
use qern_model::config::ModelConfig;
use qern_model::lora::{Adapter, AdapterFile, FitOptions};
use qern_model::transformer::Transformer;
use qern_model::weights::Weights;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An adapter of `qwen3-tiny` in memory: `q_proj` and `v_proj` with rank 4.
struct Peft {
    config: Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";

impl Peft {
    fn new() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens/adapters/qwen3-plain");
        let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
        let floats = |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        Self {
            config: serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap(),
            tensors: file.iter().map(|(name, t)| (name.to_owned(), (t.shape().to_vec(), floats(t.data())))).collect(),
        }
    }

    fn write(&self, folder: &Path) {
        std::fs::write(folder.join("adapter_config.json"), self.config.to_string()).unwrap();
        let bytes: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| {
                (name, shape.clone(), values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        std::fs::write(folder.join("adapter_model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

fn config(model: &str) -> ModelConfig {
    Checkpoint::open(golden(model)).unwrap().config().clone()
}

/// The error of an adapter changed by `change`, on `qwen3-tiny`.
fn error(change: impl FnOnce(&mut Peft)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut peft = Peft::new();
    change(&mut peft);
    peft.write(folder.path());
    message(Adapter::open(folder.path(), &config("qwen3-tiny")))
}

#[track_caller]
fn check(expected: &str, change: impl FnOnce(&mut Peft)) {
    let error = error(change);
    assert!(error.contains(expected), "{error}\n  must contain: {expected}");
}

#[track_caller]
fn check_config(key: &str, value: Value, expected: &str) {
    check(expected, |peft| peft.config[key] = value);
}

fn rename(peft: &mut Peft, from: &str, to: &str) {
    let tensor = peft.tensors.remove(from).unwrap();
    peft.tensors.insert(to.to_owned(), tensor);
}

#[test]
fn shapes_that_do_not_fit_the_base_are_named() {
    check(
        "`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` must be [rank, inputs] for the base's \
         `model.layers.0.self_attn.q_proj`, [4, 64]; it is [4, 32]: the adapter was made for another model",
        |peft| {
            peft.tensors.insert(format!("{Q}.lora_A.weight"), (vec![4, 32], vec![0.0; 128]));
        },
    );
    check("must be [outputs, rank] for the base's `model.layers.0.self_attn.q_proj`, [128, 4]; it is [100, 4]", |peft| {
        peft.tensors.insert(format!("{Q}.lora_B.weight"), (vec![100, 4], vec![0.0; 400]));
    });
    check("`model.layers.0.self_attn.q_proj` must have rank 4 by `adapter_config.json`; ", |peft| {
        peft.tensors.insert(format!("{Q}.lora_B.weight"), (vec![128, 5], vec![0.0; 640]));
    });
    check_config("r", json!(8), "must have rank 8 by `adapter_config.json`");
    check("it changes `model.layers.9.self_attn.q_proj`, but the base has 3 layers", |peft| {
        for part in ["lora_A", "lora_B"] {
            let tensor = peft.tensors[&format!("{Q}.{part}.weight")].clone();
            peft.tensors.insert(format!("base_model.model.model.layers.9.self_attn.q_proj.{part}.weight"), tensor);
        }
    });
}

#[test]
fn values_that_are_not_finite_are_named() {
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let name = format!("{Q}.lora_B.weight");
        check(&format!("every value of the tensor `{name}` must be finite; the one at [1, 2] is {shown}"), |peft| {
            peft.tensors.get_mut(&name).unwrap().1[6] = value;
        });
    }
    check_config("lora_alpha", json!(1e300), "the scale of `model.layers.0.self_attn.q_proj` must be finite");
}

#[test]
fn missing_and_unknown_tensors_are_named() {
    check("`model.layers.0.self_attn.q_proj` must have A and B; B is missing", |peft| {
        peft.tensors.remove(&format!("{Q}.lora_B.weight"));
    });
    check("`model.layers.0.self_attn.q_proj` must have A and B; A is missing", |peft| {
        peft.tensors.remove(&format!("{Q}.lora_A.weight"));
    });
    check("`model.layers.0.self_attn.q_proj` must have an adapter by `target_modules`; the file has none", |peft| {
        peft.tensors.retain(|name, _| !name.starts_with(Q));
    });
    check("the file holds no tensor of an adapter", |peft| peft.tensors.clear());
    for name in [
        "base_model.model.model.layers.0.self_attn.x_proj.lora_A.weight",
        "base_model.model.model.layers.+1.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.weight",
        "base_model.model.model.layers.0.input_layernorm.weight",
        "base_model.model.model.embed_tokens.lora_A.weight",
        "base_model.model.lm_head.lora_embedding_A",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
    ] {
        check(&format!("the tensor `{name}` is of no part of an adapter that Qern runs"), |peft| {
            rename(peft, &format!("{Q}.lora_A.weight"), name);
        });
    }
    check("has weights but `target_modules` of `adapter_config.json` does not name it", |peft| {
        peft.config["target_modules"] = json!(["v_proj"]);
    });
}

#[test]
fn what_is_not_computed_is_refused_by_its_key() {
    check_config("peft_type", json!("IA3"), "`peft_type` must be `LORA`; given `IA3`");
    check_config("peft_type", json!(null), "`peft_type` is missing");
    check_config("task_type", json!("SEQ_CLS"), "`task_type` must be `CAUSAL_LM`; given `SEQ_CLS`");
    check_config("bias", json!("all"), "`bias` must be `none`: trained biases are not supported; given `all`");
    check_config("lora_bias", json!(true), "`lora_bias` asks for biases on A and B, which is not supported");
    check_config("alora_invocation_tokens", json!([1, 2]), "`alora_invocation_tokens` asks for activated LoRA");
    check_config("layer_replication", json!([[0, 3]]), "`layer_replication` asks for a base with repeated layers");
    check_config("init_lora_weights", json!("pissa_niter_4"), "which changes the base's own weights");
    check_config("modules_to_save", json!(["norm"]), "`modules_to_save` names `norm`; only `embed_tokens` and `lm_head`");
    check_config("modules_to_save", json!(["lm_head"]), "`modules_to_save` names `lm_head`; only");
    check_config("use_dora", json!(true), "has no `lora_magnitude_vector`, which `use_dora` asks for");
    check("needs `use_dora` in `adapter_config.json`, which is not set", |peft| {
        peft.tensors.insert(format!("{Q}.lora_magnitude_vector"), (vec![128], vec![1.0; 128]));
    });
    check_config("rank_pattern", json!({ "(": 4 }), "`rank_pattern`: the expression `(` cannot be used");
    check_config("rank_pattern", json!({ "q_proj": -4 }), "`rank_pattern` must give a whole number for `q_proj`; given -4");
    check_config("alpha_pattern", json!({ "q_proj": "x" }), "`alpha_pattern` must give a number for `q_proj`");
    check_config("target_modules", json!(3), "`target_modules` must be a list of module names or an expression");
    check_config("lora_alpha", json!("x"), "`lora_alpha` must be a number");
    check_config("r", json!(-1), "`r` must be a whole number that is not negative");
}

#[test]
fn keys_without_meaning_are_noted_and_those_of_training_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut peft = Peft::new();
    peft.config["some_new_key"] = json!(1);
    peft.config["lora_dropout"] = json!(0.5);
    peft.config["an_empty_one"] = json!({});
    peft.write(folder.path());
    let file = AdapterFile::open(folder.path()).unwrap();
    assert_eq!(file.notes(), ["the key `some_new_key` is not known and has no effect"]);
    let summary = serde_json::to_value(file.summary().unwrap()).unwrap();
    assert_eq!(summary["modules"][0], json!({ "module": "q_proj", "count": 3, "ranks": [4], "alphas": [8.0], "scales": [2.0] }));
    assert_eq!(summary["parameters"], 3 * 4 * (64 + 128 + 64 + 64));
    assert_eq!(summary["formats"], json!(["F32 12"]));
}

fn open(path: PathBuf) -> String {
    message(Adapter::open(path, &config("qwen3-tiny")))
}

#[test]
fn paths_that_are_no_adapters_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let check = |path: PathBuf, expected: &str| {
        let error = open(path);
        assert!(error.contains(expected), "{error}\n  must contain: {expected}");
    };
    check(path("nothing"), "cannot read `");
    check(folder.path().into(), "`adapter_config.json` is missing; a PEFT adapter is a folder with it");
    check(golden("qwen3-tiny"), "this folder holds a model, not an adapter: `adapter_config.json` is missing");
    check(golden("qwen2-tiny").join("model.safetensors"), "an adapter must be a PEFT folder");
    check(golden("llama-tiny").join("model.gguf"), "`general.type` is missing, as in a model");
    std::fs::write(path("adapter_config.json"), r#"{"peft_type": "LORA"}"#).unwrap();
    check(folder.path().into(), "`adapter_model.safetensors` is missing beside `adapter_config.json`");
    std::fs::write(path("adapter_model.bin"), b"\x80\x04.").unwrap();
    check(folder.path().into(), "`adapter_model.bin` is a pickle, which runs code when it is loaded, and is never opened");
    check(path("adapter_model.bin"), "`.bin` files are pickles");
    std::fs::write(path("adapter_model.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    check(folder.path().into(), "safetensors: ");
    std::fs::write(path("adapter_config.json"), "[]").unwrap();
    check(folder.path().into(), "the file must hold an object; it holds a list");
}

#[test]
fn adapter_gguf_files_are_checked_alike() {
    let adapter = || {
        Gguf::default()
            .str("general.type", "adapter")
            .str("general.architecture", "qwen3")
            .str("adapter.type", "lora")
            .f32("adapter.lora.alpha", 8.0)
    };
    let ab =
        |gguf: Gguf, a: &[u64], b: &[u64]| gguf.zeros("blk.0.attn_q.weight.lora_a", a).zeros("blk.0.attn_q.weight.lora_b", b);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    let open = |gguf: Gguf| {
        std::fs::write(&path, gguf.bytes()).unwrap();
        Adapter::open(&path, &config("qwen3-tiny"))
    };
    open(ab(adapter(), &[64, 4], &[4, 128])).unwrap();
    let check = |gguf: Gguf, expected: &str| {
        let error = message(open(gguf));
        assert!(error.contains(expected), "{error}\n  must contain: {expected}");
    };
    check(ab(adapter(), &[32, 4], &[4, 128]), "must be [rank, inputs] for the base's `model.layers.0.self_attn.q_proj`, [4, 64]");
    check(
        ab(adapter(), &[64, 4], &[4, 64]),
        "must be [outputs, rank] for the base's `model.layers.0.self_attn.q_proj`, [128, 4]",
    );
    check(ab(adapter(), &[64, 4], &[3, 128]), "[3, 64]; it is [4, 64]");
    check(adapter().zeros("blk.0.attn_q.weight.lora_a", &[64, 4]), "must have A and B; B is missing");
    check(ab(adapter(), &[64, 4], &[4, 128]).zeros("blk.0.attn_norm.weight", &[64]), "`blk.0.attn_norm.weight` is of no part");
    check(adapter().zeros("blk.0.attn_x.weight.lora_a", &[64, 4]), "`blk.0.attn_x.weight.lora_a` is of no part");
    check(adapter(), "the file holds no tensor of an adapter");
    check(adapter().f32("adapter.alora.invocation_tokens", 1.0), "asks for activated LoRA");
    let typed = |key: &str, value: &str| ab(Gguf::default().str("general.type", "adapter").str(key, value), &[64, 4], &[4, 128]);
    check(typed("adapter.type", "ia3"), "`adapter.type` must be `lora`; given `ia3`");
    check(typed("adapter.type", "lora").str("general.architecture", "llama"), "must be the base's `qwen3`; given `llama`");
    check(Gguf::default().str("general.type", "model"), "`general.type` must be `adapter`; given `model`");
    let nan = f32::NAN.to_le_bytes().repeat(256);
    check(
        adapter().tensor("blk.0.attn_q.weight.lora_a", &[64, 4], 0, nan).zeros("blk.0.attn_q.weight.lora_b", &[4, 128]),
        "every value of the tensor `blk.0.attn_q.weight.lora_a` must be finite; the one at [0, 0] is NaN",
    );
}

#[test]
fn an_adapter_of_another_base_is_refused_unless_forced() {
    let checkpoint = Checkpoint::open(golden("qwen3-tiny")).unwrap();
    let pool = Arc::new(Pool::new(1));
    let weights = Weights::load(&checkpoint, &pool, &mut |_| {}).unwrap();
    let base = weights.fingerprint(checkpoint.config());
    let isa = qern_kernels::isa::Isa::active();
    let transformer = Transformer::new(checkpoint.config().clone(), weights, pool, isa).unwrap();
    let fit = |recorded: String, any_base| {
        let folder = tempfile::tempdir().unwrap();
        let mut peft = Peft::new();
        peft.config["qern_base"] = json!(recorded);
        peft.write(folder.path());
        Adapter::open(folder.path(), checkpoint.config()).unwrap().fit(&transformer, FitOptions { any_base })
    };
    assert_eq!(fit(base.to_string(), false).unwrap(), Vec::<String>::new());
    let other = format!("v1-{:016x}-{:016x}", base.model ^ 1, base.weights);
    assert_eq!(
        message(fit(other.clone(), false)),
        format!(
            "adapter: the adapter was trained on another base: it records {other}, and this one is {base}; force it if you know \
             that it fits"
        )
    );
    let notes = fit(other, true).unwrap();
    assert!(notes[0].starts_with("the adapter was trained on another base"), "{notes:?}");
    let requantized = fit(format!("v1-{:016x}-{:016x}", base.model, base.weights ^ 1), false).unwrap();
    assert!(requantized[0].starts_with("the adapter was trained on this base in another format"), "{requantized:?}");
    assert!(message(fit("v1-12".into(), false)).contains("must be written `v1-<16 hex digits>-<16 hex digits>`; given `v1-12`"));
}
