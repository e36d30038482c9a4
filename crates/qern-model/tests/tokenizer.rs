//! The tokenizer against ids from the `tokenizers` library, on hostile files, and on texts made to be slow.
//! Goldens: `reference/tokenization.py`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use qern_model::tokenizer::{Specials, Tokenizer};
use qern_model::vocabulary::GgufVocabulary;
use serde_json::{Value, json};

fn golden(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens/tokenization").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn qwen3() -> Tokenizer {
    Tokenizer::from_json(golden("qwen3-pruned-tokenizer.json").as_bytes()).unwrap()
}

struct Case {
    name: String,
    text: String,
    specials: Specials,
    ids: Vec<u32>,
    decoded: String,
}

fn cases(file: &str) -> Vec<Case> {
    let case = |line: &str| {
        let case: Value = serde_json::from_str(line).unwrap();
        let text = case["text"].as_str().unwrap();
        Case {
            name: case["name"].as_str().unwrap().into(),
            text: text.into(),
            specials: if case["special"] == true { Specials::Parse } else { Specials::AsText },
            ids: serde_json::from_value(case["ids"].clone()).unwrap(),
            decoded: case["decoded"].as_str().unwrap_or(text).into(),
        }
    };
    golden(file).lines().map(case).collect()
}

fn check_all(tokenizer: &Tokenizer, file: &str) {
    let cases = cases(file);
    assert!(cases.len() > 200);
    let mut wrong = Vec::new();
    for case in &cases {
        let ids = tokenizer.encode(&case.text, case.specials).unwrap();
        if ids != case.ids {
            wrong.push(format!("{} ({:?}): {:?}\n  {:?}\n  {:?}", case.name, case.specials, case.text, ids, case.ids));
        }
        let decoded = tokenizer.decode(&case.ids, true);
        assert_eq!(String::from_utf8_lossy(&decoded), case.decoded, "{} decoded", case.name);
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// The GGUF that a converter makes of a tokenizer.json.
fn as_gguf(json: &str, pre: &str) -> GgufVocabulary {
    let file: Value = serde_json::from_str(json).unwrap();
    let mut tokens: Vec<(u64, String, i32)> = Vec::new();
    for (token, id) in file["model"]["vocab"].as_object().unwrap() {
        tokens.push((id.as_u64().unwrap(), token.clone(), 1));
    }
    for token in file["added_tokens"].as_array().unwrap() {
        let kind = if token["special"] == true { 3 } else { 4 };
        tokens.retain(|(id, ..)| *id != token["id"].as_u64().unwrap());
        tokens.push((token["id"].as_u64().unwrap(), token["content"].as_str().unwrap().into(), kind));
    }
    let size = tokens.iter().map(|(id, ..)| *id).max().unwrap() as usize + 1;
    let mut vocabulary = GgufVocabulary {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        tokens: (0..size).map(|id| format!("[PAD{id}]")).collect(),
        token_types: vec![5; size],
        ..GgufVocabulary::default()
    };
    for (id, token, kind) in tokens {
        vocabulary.tokens[id as usize] = token;
        vocabulary.token_types[id as usize] = kind;
    }
    let merges = file["model"]["merges"].as_array().unwrap();
    let line = |merge: &Value| {
        merge.as_str().map_or_else(|| format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()), Into::into)
    };
    vocabulary.merges = merges.iter().map(line).collect();
    vocabulary
}

#[test]
fn qwen3_ids_are_those_of_the_reference() {
    check_all(&qwen3(), "qwen3-cases.jsonl");
}

#[test]
fn qwen3_as_gguf_gives_the_same_ids() {
    let vocabulary = as_gguf(&golden("qwen3-pruned-tokenizer.json"), "qwen2");
    check_all(&Tokenizer::from_gguf(&vocabulary).unwrap(), "qwen3-cases.jsonl");
}

/// With `QERN_TEST_SMOLLM2` naming SmolLM2-135M-Instruct.Q4_1.gguf; the end-to-end tests fetch that file.
#[test]
fn smollm2_ids_are_those_of_the_reference() {
    let Some(path) = std::env::var_os("QERN_TEST_SMOLLM2") else { return };
    let checkpoint = qern_model::checkpoint::Checkpoint::open(path).unwrap();
    let start = Instant::now();
    let tokenizer = Tokenizer::new(&checkpoint.tokenizer_source().unwrap()).unwrap();
    println!("{} tokens in {:?}", tokenizer.vocab_size(), start.elapsed());
    check_all(&tokenizer, "smollm2-cases.jsonl");
}

#[test]
fn token_bytes_join_to_the_text() {
    let tokenizer = qwen3();
    for case in cases("qwen3-cases.jsonl") {
        let bytes: Vec<u8> = case.ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap()).copied().collect();
        assert_eq!(bytes, case.decoded.as_bytes(), "{}", case.name);
    }
}

#[test]
fn special_tokens_are_known_and_left_out_on_request() {
    let tokenizer = qwen3();
    let ids = tokenizer.encode("<think>a<|im_end|>", Specials::Parse).unwrap();
    assert_eq!(ids.len(), 3);
    assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(ids[2]));
    assert!(tokenizer.is_special(ids[2]) && !tokenizer.is_special(ids[0]));
    assert_eq!(tokenizer.decode(&ids, false), b"<think>a");
    assert_eq!(tokenizer.decode(&ids, true), b"<think>a<|im_end|>");
    assert_eq!(tokenizer.token_bytes(4_000_000_000), None);
    assert_eq!(tokenizer.decode(&[4_000_000_000], true), b"");
}

#[test]
fn long_runs_take_linear_time() {
    let tokenizer = qwen3();
    let megabyte = 1 << 20;
    for unit in
        ["a", " ", "\n", " \n", "aA", "1", "é", "e\u{301}", "\u{301}", "!", "a ", "   a", "<|im_", "<|im_end|>", "'s", "\u{4e00}"]
    {
        let text = unit.repeat(megabyte / unit.len());
        let start = Instant::now();
        let ids = tokenizer.encode(&text, Specials::Parse).unwrap();
        assert!(!ids.is_empty());
        assert!(start.elapsed() < Duration::from_secs(20), "{unit:?} took {:?}", start.elapsed());
    }
}

/// Byte-level BPE over bytes and a few merges, in a file that a test may spoil.
fn tiny() -> Value {
    let alphabet: Vec<char> = (0..=255u8).map(byte_char).collect();
    let mut vocab: Vec<String> = alphabet.iter().map(char::to_string).collect();
    vocab.extend(["he", "ll", "llo", "hello", "Ġhello"].map(String::from));
    let vocab: serde_json::Map<String, Value> = vocab.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    json!({
        "added_tokens": [{"id": 300, "content": "<|end|>", "special": true}, {"id": 301, "content": "  ", "special": false}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": ["h e", "l l", "ll o", "he llo", ["Ġ", "hello"]],
        },
    })
}

fn byte_char(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let index = (0..byte).filter(|&byte| !is_printable(byte)).count() as u32;
    if is_printable(byte) { byte as char } else { char::from_u32(0x100 + index).unwrap() }
}

fn from_value(file: &Value) -> Result<Tokenizer, String> {
    Tokenizer::from_json(&serde_json::to_vec(file).unwrap()).map_err(|error| error.to_string())
}

#[test]
fn added_tokens_that_are_no_markup_belong_to_the_text() {
    let tokenizer = from_value(&tiny()).unwrap();
    let encode = |text, specials| tokenizer.encode(text, specials).unwrap();
    assert_eq!(encode("hello hello", Specials::AsText), [259, 260]);
    assert_eq!(encode("hello<|end|>  ", Specials::Parse), [259, 300, 301]);
    assert_eq!(encode("  ", Specials::AsText), [301]);
    assert_eq!(encode("<|end|>", Specials::AsText).len(), 7);
}

#[test]
fn stripping_and_whole_words_follow_the_reference() {
    let mut file = tiny();
    file["added_tokens"] = json!([
        {"id": 300, "content": "<l>", "special": true, "lstrip": true},
        {"id": 301, "content": "<r>", "special": true, "rstrip": true},
        {"id": 302, "content": "cat", "special": false, "single_word": true},
    ]);
    let tokenizer = from_value(&file).unwrap();
    let encode = |text| tokenizer.encode(text, Specials::Parse).unwrap();
    let byte = |c: u8| tokenizer.token_to_id(&byte_char(c).to_string()).unwrap();
    assert_eq!(encode("a  <l> b"), [byte(b'a'), 300, byte(b' '), byte(b'b')]);
    assert_eq!(encode("a <r>  b"), [byte(b'a'), byte(b' '), 301, byte(b'b')]);
    assert_eq!(encode("cat"), [302]);
    assert_eq!(encode("(cat)").len(), 3);
    assert_eq!(encode("cats").len(), 4);
    assert_eq!(encode("<r>  <l>"), [301, 300]);
}

#[test]
fn hostile_tokenizer_files_are_refused_by_name() {
    let check = |spoil: fn(&mut Value), expected: &str| {
        let mut file = tiny();
        spoil(&mut file);
        let error = from_value(&file).map(|_| "no error".to_owned()).unwrap_or_else(|error| error);
        assert!(error.contains(expected), "`{error}` should say `{expected}`");
    };
    fn split(pattern: &str) -> Value {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})
    }
    check(|file| file["model"]["type"] = "Unigram".into(), "a `Unigram` model cannot be read");
    check(|file| file["model"]["vocab"] = json!([["a", 0.5]]), "supported: `BPE`");
    check(|file| file["model"]["vocab"]["x1"] = 0.into(), "shares 0");
    check(|file| file["model"]["vocab"]["x1"] = u32::MAX.into(), "at most 4194303");
    check(|file| file["model"]["merges"] = json!(["zz z"]), "needs the token `zz`");
    check(|file| file["model"]["merges"] = json!(["hello hello"]), "needs the token `hellohello`");
    check(|file| file["model"]["merges"] = json!(["h"]), "two tokens");
    check(|file| file["model"]["merges"] = json!([["", "h"]]), "empty");
    check(|file| file["model"]["dropout"] = json!(0.1), "dropout");
    check(|file| file["model"]["continuing_subword_prefix"] = "##".into(), "continuing_subword_prefix");
    check(|file| file["model"]["unk_token"] = "nope".into(), "unknown token `nope`");
    check(|file| file["normalizer"] = json!({"type": "BertNormalizer"}), "normalizer `BertNormalizer` is not supported");
    check(
        |file| file["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}),
        "string pattern",
    );
    check(
        |file| file["pre_tokenizer"] = json!({"type": "BertPreTokenizer"}),
        "pre-tokenizer `BertPreTokenizer` is not supported",
    );
    check(|file| file["pre_tokenizer"] = Value::Null, "`ByteLevel` or `Metaspace`");
    check(|file| file["pre_tokenizer"] = split(r"(?=a)b"), "look-around");
    check(|file| file["pre_tokenizer"] = split(r"(a)\1"), "back-references");
    check(|file| file["pre_tokenizer"] = split(r"a++b"), "possessive");
    check(|file| file["pre_tokenizer"] = split(r"\p{L}++"), "possessive");
    check(|file| file["pre_tokenizer"] = split(r"a$"), "anchors");
    check(|file| file["pre_tokenizer"] = split(r"[[:alpha:]]"), "POSIX");
    check(|file| file["pre_tokenizer"] = split(r"(((\p{L}{900}){900}){900})"), "must compile to at most");
    check(|file| file["pre_tokenizer"] = split(&"(".repeat(5000)), "regular expression");
    check(|file| file["pre_tokenizer"] = split(&"a".repeat(1 << 20)), "at most 16384 bytes");
    check(|file| file["added_tokens"][1]["id"] = 300.into(), "shares 300");
    check(|file| file["added_tokens"][0]["id"] = u32::MAX.into(), "at most 4194303");
    check(|file| file["added_tokens"][0]["id"] = json!(-1), "tokenizer.json");
    check(|file| file["added_tokens"][1]["content"] = "<|end|>".into(), "listed twice");
    for bytes in [&b""[..], b"{", b"[]", b"null", b"\xff\xfe", b"{\"model\":{}}"] {
        assert!(Tokenizer::from_json(bytes).is_err());
    }
    let deep = format!("{{\"normalizer\":{}", "{\"type\":\"Sequence\",\"normalizers\":[".repeat(100_000));
    assert!(Tokenizer::from_json(deep.as_bytes()).is_err());
}

#[test]
fn a_backtracking_pattern_runs_in_linear_time() {
    let mut file = tiny();
    let split = json!({"type": "Split", "pattern": {"Regex": r"(a|a|aa)+b|(x+x+)+y"}, "behavior": "Isolated", "invert": false});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
    file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [split, byte_level]});
    let tokenizer = from_value(&file).unwrap();
    let start = Instant::now();
    assert_eq!(tokenizer.encode(&"x".repeat(2000), Specials::AsText).unwrap().len(), 2000);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn gguf_vocabularies_that_cannot_be_read_are_refused_by_name() {
    let good = as_gguf(&golden("qwen3-pruned-tokenizer.json"), "qwen2");
    let check = |spoil: fn(&mut GgufVocabulary), expected: &str| {
        let mut vocabulary = good.clone();
        spoil(&mut vocabulary);
        let error = Tokenizer::from_gguf(&vocabulary).map(|_| "no error".to_owned()).unwrap_or_else(|error| error.to_string());
        assert!(error.contains(expected), "`{error}` should say `{expected}`");
    };
    check(|vocabulary| vocabulary.pre = Some("qwen9".into()), "`qwen9` is not supported; supported: default, gpt-2, qwen2");
    check(|vocabulary| vocabulary.model = "t5".into(), "`t5` is not supported");
    check(|vocabulary| vocabulary.token_types = vec![1; 3], "as long as `tokens`");
    check(|vocabulary| vocabulary.merges.push("nospace".into()), "a merge must be two tokens");
    check(|vocabulary| vocabulary.tokens[1] = vocabulary.tokens[0].clone(), "listed twice");
    check(|vocabulary| vocabulary.bos_token_id = Some(9_999_999), "the bos token must be one of the vocabulary");
    check(|vocabulary| vocabulary.model = "llama".into(), "scores` is missing");
}

#[test]
fn every_supported_pre_type_compiles_and_keeps_the_text() {
    let good = as_gguf(&golden("qwen3-pruned-tokenizer.json"), "qwen2");
    let text = "Hello, WORLD's 12345 caf\u{e9} 你好 \t\n\n  x=1;\r\n  \u{1F600} DON'T i'Ve Straße";
    for pre in qern_model::tokenizer::SUPPORTED_PRE_TYPES {
        let tokenizer = Tokenizer::from_gguf(&GgufVocabulary { pre: Some((*pre).into()), ..good.clone() }).unwrap();
        let ids = tokenizer.encode(text, Specials::AsText).unwrap();
        assert_eq!(String::from_utf8_lossy(&tokenizer.decode(&ids, true)), text, "{pre}");
    }
}

#[test]
fn sentencepiece_merges_by_score_and_falls_back_to_bytes() {
    let mut tokens: Vec<(String, i32, f32)> = vec![("<unk>".into(), 2, 0.0), ("<s>".into(), 3, 0.0), ("</s>".into(), 3, 0.0)];
    tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 6, 0.0)));
    let pieces = ["▁h", "el", "lo", "▁hel", "▁hello", "▁", "h", "e", "l", "o", "▁▁", "<", "s", ">", "s>"];
    tokens.extend(pieces.iter().enumerate().map(|(rank, piece)| (piece.to_string(), 1, -(rank as f32))));
    let vocabulary = GgufVocabulary {
        model: "llama".into(),
        tokens: tokens.iter().map(|(text, ..)| text.clone()).collect(),
        token_types: tokens.iter().map(|(_, kind, _)| *kind).collect(),
        scores: tokens.iter().map(|(.., score)| *score).collect(),
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        unk_token_id: Some(0),
        ..GgufVocabulary::default()
    };
    let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
    let texts = |text, specials| -> Vec<String> {
        let ids = tokenizer.encode(text, specials).unwrap();
        ids.iter().map(|&id| tokens[id as usize].0.clone()).collect()
    };
    assert_eq!(texts("hello", Specials::AsText), ["▁hello"]);
    assert_eq!(texts("hello hello", Specials::AsText), ["▁hello", "▁hello"]);
    assert_eq!(texts("é", Specials::AsText), ["▁", "<0xC3>", "<0xA9>"]);
    assert_eq!(texts("h<s>h", Specials::Parse), ["▁h", "<s>", "▁h"]);
    assert_eq!(texts("<s>", Specials::AsText), ["▁", "<", "s>"]);
    assert!(tokenizer.add_bos());
    for text in ["hello  hello", "é hello", "", "  x"] {
        let ids = tokenizer.encode(text, Specials::AsText).unwrap();
        assert_eq!(String::from_utf8_lossy(&tokenizer.decode(&ids, true)), text);
    }
}
