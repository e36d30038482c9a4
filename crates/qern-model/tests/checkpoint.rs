//! Checkpoints: the same model seen through either kind of file, and what is said about files that do not fit together.

mod builders;

use std::fs;
use std::path::Path;

use builders::{Gguf, golden, message, safetensors_of};
use qern_model::checkpoint::{Checkpoint, checkpoint_name, expected_tensors, gguf_name};
use qern_model::config::{Architecture, ModelConfig, RopeLayout, RopeScaling};
use qern_model::generation::GenerationDefaults;
use qern_model::vocabulary::TokenizerSource;

const CONFIG: &str = r#"{"model_type":"qwen3","hidden_size":8,"intermediate_size":12,"num_hidden_layers":2,"num_attention_heads":2,
    "num_key_value_heads":1,"head_dim":4,"vocab_size":5,"max_position_embeddings":64,"tie_word_embeddings":true,"eos_token_id":3}"#;

/// Tensors by name and shape.
type Shapes = Vec<(String, Vec<usize>)>;

fn shapes() -> Shapes {
    let config = ModelConfig::from_json(CONFIG.as_bytes()).unwrap();
    let shape = |rows, cols| if rows == 1 { vec![cols] } else { vec![rows, cols] };
    expected_tensors(&config).into_iter().map(|tensor| (tensor.name, shape(tensor.rows, tensor.cols))).collect()
}

/// A folder with these files; those named `*.safetensors` are made of `shapes`.
fn folder(shapes: &Shapes, files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for &(name, text) in files {
        let bytes = if name.ends_with(".safetensors") { safetensors_of(shapes) } else { text.into() };
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn gguf(shapes: &Shapes) -> Gguf {
    let mut gguf = Gguf::default()
        .str("general.architecture", "qwen3")
        .u32("qwen3.block_count", 2)
        .u32("qwen3.embedding_length", 8)
        .u32("qwen3.feed_forward_length", 12)
        .u32("qwen3.attention.head_count", 2)
        .u32("qwen3.attention.head_count_kv", 1)
        .u32("qwen3.attention.key_length", 4)
        .u32("qwen3.context_length", 64)
        .f32("qwen3.attention.layer_norm_rms_epsilon", 1e-6)
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "qwen2")
        .strings("tokenizer.ggml.tokens", &["a", "b", "ab", "<|endoftext|>", "<|im_end|>"])
        .i32s("tokenizer.ggml.token_type", &[1, 1, 1, 3, 3])
        .strings("tokenizer.ggml.merges", &["a b"])
        .u32("tokenizer.ggml.eos_token_id", 4)
        .str("tokenizer.chat_template", "{{ messages }}");
    for (name, shape) in shapes {
        let dims: Vec<u64> = shape.iter().rev().map(|&dim| dim as u64).collect();
        gguf = gguf.zeros(&gguf_name(name).unwrap_or_else(|| name.clone()), &dims);
    }
    gguf
}

fn open_gguf(gguf: &Gguf) -> qern_model::Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m.gguf"), gguf.bytes()).unwrap();
    Checkpoint::open(folder.path())
}

#[test]
fn names_translate_both_ways() {
    let check = |name: &str, gguf: Option<&str>| {
        assert_eq!(gguf_name(name).as_deref(), gguf);
        if let Some(gguf) = gguf {
            assert_eq!(checkpoint_name(gguf).as_deref(), Some(name));
        }
    };
    check("model.embed_tokens.weight", Some("token_embd.weight"));
    check("model.norm.weight", Some("output_norm.weight"));
    check("lm_head.weight", Some("output.weight"));
    check("model.layers.3.self_attn.q_proj.weight", Some("blk.3.attn_q.weight"));
    check("model.layers.3.self_attn.q_proj.bias", Some("blk.3.attn_q.bias"));
    check("model.layers.35.self_attn.k_norm.weight", Some("blk.35.attn_k_norm.weight"));
    check("model.layers.0.self_attn.o_proj.weight", Some("blk.0.attn_output.weight"));
    check("model.layers.0.input_layernorm.weight", Some("blk.0.attn_norm.weight"));
    check("model.layers.0.post_attention_layernorm.weight", Some("blk.0.ffn_norm.weight"));
    check("model.layers.0.mlp.down_proj.lora_a", Some("blk.0.ffn_down.lora_a"));
    check("model.layers.x.mlp.down_proj.weight", None);
    check("model.layers.0.mlp.experts.weight", None);
    check("weight", None);
    check("", None);
    assert_eq!(checkpoint_name("blk.0.ffn_gate_exps.weight"), None);
}

#[test]
fn a_folder_of_safetensors_is_a_model() {
    let files = [
        ("model.safetensors", ""),
        ("config.json", CONFIG),
        ("tokenizer.json", "{}"),
        ("generation_config.json", r#"{"temperature":0.7,"top_p":0.8,"top_k":20,"eos_token_id":[4,3,4],"pad_token_id":3}"#),
        (
            "tokenizer_config.json",
            r#"{"eos_token":{"content":"<|im_end|>"},"pad_token":"<pad>","bos_token":null,"add_bos_token":false,
                "chat_template":[{"name":"tool_use","template":"T"},{"name":"default","template":"D"}]}"#,
        ),
    ];
    let folder = folder(&shapes(), &files);
    for path in [folder.path().to_owned(), folder.path().join("model.safetensors"), folder.path().join("config.json")] {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(checkpoint.config().architecture, Architecture::Qwen3);
        assert_eq!(
            *checkpoint.generation_defaults(),
            GenerationDefaults {
                temperature: Some(0.7),
                top_p: Some(0.8),
                top_k: Some(20),
                eos_token_ids: vec![4, 3],
                pad_token_id: Some(3),
                add_bos: Some(false),
                ..GenerationDefaults::default()
            }
        );
        assert_eq!(checkpoint.chat_template(), Some("D"));
        let TokenizerSource::Json(vocabulary) = checkpoint.tokenizer_source().unwrap() else { panic!("json") };
        assert_eq!(vocabulary.tokenizer_json, b"{}");
        assert_eq!(vocabulary.config.eos_token.as_deref(), Some("<|im_end|>"));
        assert_eq!(vocabulary.config.pad_token.as_deref(), Some("<pad>"));
        assert_eq!((vocabulary.config.bos_token, vocabulary.config.add_bos_token), (None, Some(false)));
        let q_proj = checkpoint.tensor("model.layers.1.self_attn.q_proj.weight").unwrap();
        assert_eq!((q_proj.rows, q_proj.cols), (8, 8));
        assert_eq!(checkpoint.format_summary(), "F32 24");
        assert_eq!(checkpoint.num_bytes(), 4 * checkpoint.num_parameters());
        assert!(!checkpoint.has_tensor("lm_head.weight"));
    }
}

#[test]
fn a_gguf_is_a_model() {
    let checkpoint = open_gguf(&gguf(&shapes())).unwrap();
    assert_eq!(checkpoint.config().rope.layout, RopeLayout::HalfSplit);
    assert_eq!(checkpoint.generation_defaults().eos_token_ids, [4, 3], "the end of a text ends an answer too");
    assert_eq!(checkpoint.chat_template(), Some("{{ messages }}"));
    let TokenizerSource::Gguf(vocabulary) = checkpoint.tokenizer_source().unwrap() else { panic!("gguf") };
    assert_eq!((vocabulary.model.as_str(), vocabulary.pre.as_deref()), ("gpt2", Some("qwen2")));
    assert_eq!((vocabulary.tokens.len(), vocabulary.token_types.len()), (5, 5));
    assert_eq!((vocabulary.merges, vocabulary.eos_token_id), (vec!["a b".to_owned()], Some(4)));
    let down_proj = checkpoint.tensor("model.layers.0.mlp.down_proj.weight").unwrap();
    assert_eq!((down_proj.name, down_proj.rows, down_proj.cols), ("blk.0.ffn_down.weight", 8, 12));
    down_proj.release();
    assert!(checkpoint.has_tensor("model.norm.weight") && !checkpoint.has_tensor("model.norm.bias"));
}

#[test]
fn a_template_is_found_wherever_it_lies() {
    let check = |files: &[(&str, &str)], expected: Option<&str>| {
        let mut all = vec![("model.safetensors", ""), ("config.json", CONFIG)];
        all.extend(files);
        let folder = folder(&shapes(), &all);
        assert_eq!(Checkpoint::open(folder.path()).unwrap().chat_template(), expected);
    };
    let in_config = ("tokenizer_config.json", r#"{"chat_template":"C"}"#);
    check(&[], None);
    check(&[in_config], Some("C"));
    check(&[in_config, ("chat_template.json", r#"{"chat_template":"J"}"#)], Some("J"));
    check(&[in_config, ("chat_template.jinja", "X")], Some("X"));
    check(&[("tokenizer_config.json", r#"{"chat_template":[{"name":"rag","template":"R"}]}"#)], Some("R"));
}

#[test]
fn files_that_are_no_model_are_told_what_is_there() {
    let check = |files: &[(&str, &str)], expected: &str| {
        let folder = folder(&shapes(), files);
        let found = message(Checkpoint::open(folder.path()));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    };
    check(&[], "the folder is empty");
    check(&[("a.txt", ""), ("b.txt", "")], "found `a.txt`, `b.txt`");
    check(&[("config.json", CONFIG)], "found `config.json`");
    check(&[("a.gguf", ""), ("b.gguf", "")], "the folder holds several gguf models; name one of them: `a.gguf`, `b.gguf`");
    check(&[("m-00001-of-00002.gguf", ""), ("n.gguf", "")], "several gguf models");
    check(&[("a.gguf", "")], "it has 0 bytes");
    check(&[("model.safetensors", "")], "`config.json` is missing beside `model.safetensors`");
    check(&[("config.json", CONFIG), ("a.safetensors", ""), ("b.safetensors", "")], "several safetensors files need");
    check(&[("config.json", CONFIG), ("pytorch_model.bin", "")], "pickles, which run code");
    check(&[("adapter_config.json", "{}"), ("adapter_model.safetensors", "")], "the folder holds an adapter, not a model");
    check(&[("config.json", "[]"), ("model.safetensors", "")], "the file must hold an object; it holds a list");
    check(&[("config.json", "{"), ("model.safetensors", "")], "the file is not valid json");
    let generation = |text| [("config.json", CONFIG), ("model.safetensors", ""), ("generation_config.json", text)];
    check(&generation(r#"{"temperature":-1}"#), "`temperature` must be at least 0; given -1");
    check(&generation(r#"{"top_p":1.5}"#), "`top_p` must be above 0 and at most 1; given 1.5");
    check(&generation(r#"{"eos_token_id":"x"}"#), "`eos_token_id` must be a token id or a list of them; given the string `x`");
    assert!(message(Checkpoint::open("no/such/model")).starts_with("cannot read `no/such/model`"));
    assert!(message(Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))).contains("a model must be a"));
}

#[test]
fn tensors_that_do_not_fit_the_configuration_are_refused() {
    let check = |change: fn(&mut Shapes), expected: &str| {
        let mut shapes = shapes();
        change(&mut shapes);
        let folder = folder(&shapes, &[("config.json", CONFIG), ("model.safetensors", "")]);
        let found = message(Checkpoint::open(folder.path()));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
        let found = message(open_gguf(&gguf(&shapes)));
        let short: Vec<_> = expected.split('`').step_by(2).collect();
        assert!(short.iter().all(|part| found.contains(part)), "expected `{expected}` in `{found}`");
    };
    fn at<'a>(shapes: &'a mut Shapes, name: &str) -> &'a mut Vec<usize> {
        &mut shapes.iter_mut().find(|(other, _)| other == name).unwrap().1
    }
    check(|shapes| drop(shapes.pop()), "the tensor `model.norm.weight");
    check(
        |shapes| *at(shapes, "model.layers.1.mlp.up_proj.weight") = vec![8, 12],
        "the tensor `model.layers.1.mlp.up_proj.weight` must have shape [12, 8] by the configuration; it has [8, 12]",
    );
    check(|shapes| *at(shapes, "model.norm.weight") = vec![9], "must have shape [1, 8] by the configuration; it has [1, 9]");
    check(
        |shapes| shapes.push(("model.layers.0.self_attn.o_proj.bias".into(), vec![8])),
        "is not part of the qwen3 architecture; leaving it out would change the model's answers",
    );
    check(|shapes| shapes.push(("model.layers.1.extra.weight".into(), vec![8])), "is not part of the qwen3 architecture");
}

#[test]
fn tensors_that_do_not_matter_are_left_out() {
    for name in
        ["model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight", "score.weight", "model.layers.2.eh_proj.weight"]
    {
        let mut shapes = shapes();
        shapes.push((name.into(), vec![5, 8]));
        let folder = folder(&shapes, &[("config.json", CONFIG), ("model.safetensors", "")]);
        assert_eq!(Checkpoint::open(folder.path()).unwrap().format_summary(), "F32 24", "{name}");
    }
}

#[test]
fn tensors_in_a_format_that_is_not_read_are_refused_by_name() {
    let mut gguf = gguf(&shapes());
    let tensor = gguf.tensors.iter_mut().find(|tensor| tensor.name == b"blk.0.attn_q.weight").unwrap();
    (tensor.type_id, tensor.data) = (28, vec![0; 8 * 64]);
    let found = message(open_gguf(&gguf));
    assert!(found.contains("the tensor `blk.0.attn_q.weight` is stored as F64, which is not supported"), "{found}");
}

#[test]
fn a_vocabulary_that_contradicts_itself_is_refused() {
    let check = |change: fn(Gguf) -> Gguf, expected: &str| {
        let checkpoint = open_gguf(&change(gguf(&shapes())));
        let found = message(checkpoint.and_then(|checkpoint| checkpoint.tokenizer_source()));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    };
    fn without(mut gguf: Gguf, key: &str) -> Gguf {
        gguf.entries.retain(|entry| !entry[8..].starts_with(key.as_bytes()));
        gguf
    }
    check(|gguf| without(gguf, "tokenizer.ggml.model"), "`tokenizer.ggml.model` is missing: the file has no tokenizer");
    check(|gguf| without(gguf, "tokenizer.ggml.tokens"), "`tokenizer.ggml.tokens` is missing");
    check(|gguf| without(gguf, "tokenizer.ggml.tokens").strings("tokenizer.ggml.tokens", &[]), "must have 1 to");
    check(
        |gguf| without(gguf, "tokenizer.ggml.token_type").i32s("tokenizer.ggml.token_type", &[1]),
        "`tokenizer.ggml.token_type` must have one value for each of the 5 tokens; it has 1",
    );
    check(
        |gguf| gguf.u32("tokenizer.ggml.bos_token_id", 5),
        "`tokenizer.ggml.bos_token_id` must be below 5, the number of tokens; given 5",
    );
    check(|gguf| gguf.str("tokenizer.ggml.add_bos_token", "yes"), "`tokenizer.ggml.add_bos_token` must be a bool");
}

#[test]
fn reference_checkpoints_open() {
    for entry in fs::read_dir(golden("")).unwrap() {
        let path = entry.unwrap().path();
        for file in fs::read_dir(&path).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_some_and(|extension| extension == "gguf") {
                Checkpoint::open(&file).unwrap();
            }
        }
        let checkpoint = Checkpoint::open(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(checkpoint.config().architecture.name()), "{name}");
    }
}

#[test]
fn both_files_of_a_reference_model_say_the_same() {
    let check = |name: &str, change: fn(&mut ModelConfig)| {
        let folder = Checkpoint::open(golden(name)).unwrap();
        let gguf = Checkpoint::open(golden(name).join("model.gguf")).unwrap();
        let mut config = folder.config().clone();
        change(&mut config);
        assert_eq!(*gguf.config(), config, "{name}");
        for tensor in expected_tensors(&config) {
            let (theirs, ours) = (folder.tensor(&tensor.name).unwrap(), gguf.tensor(&tensor.name).unwrap());
            assert_eq!((theirs.rows, theirs.cols), (ours.rows, ours.cols), "{name}: {}", tensor.name);
        }
    };
    check("qwen3-tiny", |_| {});
    // The conversion permutes the rows of q_proj and k_proj, and turns the scaling into factors.
    check("llama-tiny", |config| {
        config.rope.layout = RopeLayout::Interleaved;
        let llama3 = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 64 };
        assert_eq!(config.rope.scaling, llama3);
        let gguf = Checkpoint::open(golden("llama-tiny").join("model.gguf")).unwrap();
        assert!(matches!(gguf.config().rope.scaling, RopeScaling::Factors(_)));
        config.rope.scaling = gguf.config().rope.scaling.clone();
    });
}

#[test]
fn reference_configurations_are_read() {
    let check = |name: &str, holds: fn(&ModelConfig) -> bool| {
        let checkpoint = Checkpoint::open(golden(name)).unwrap();
        assert!(holds(checkpoint.config()), "{name}: {:?}", checkpoint.config());
    };
    check("qwen3-tiny", |c| c.qk_norm && !c.qkv_bias && c.tied_embeddings && c.head_dim == 32);
    check("qwen2-tiny", |c| !c.qk_norm && c.qkv_bias && !c.tied_embeddings && c.head_dim == 16);
    check("mistral-tiny", |c| c.sliding_window == Some(8) && c.rope.theta == 1e6);
    check("llama-tied-tiny", |c| c.tied_embeddings);
    check("llama-dynamic-tiny", |c| matches!(c.rope.scaling, RopeScaling::DynamicNtk { .. }));
    check("qwen3-yarn-tiny", |c| {
        matches!(c.rope.scaling, RopeScaling::Yarn { factor: 4.0, original_positions: 16, .. }) && c.max_positions == 64
    });
}
