//! The tokenizer against the whole pipeline of the `tokenizers` crate, on random texts of awkward pieces: every kind of
//! pre-tokenizer and every behavior of a split.

use std::path::PathBuf;

use proptest::prelude::*;
use qern_model::tokenizer::{Specials, Tokenizer};
use serde_json::{Value, json};

const PIECES: &[&str] = &[
    "a",
    "A",
    "hello",
    "HeLLo",
    "'s",
    "'S",
    "'ſ",
    "don't",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u{a0}",
    "\u{2003}",
    "\u{3000}",
    "\u{85}",
    "1",
    "12",
    "1234567",
    "٣",
    "Ⅷ",
    "½",
    "é",
    "e\u{301}",
    "\u{301}",
    "ß",
    "Ǆ",
    "ǅ",
    "你好",
    "ひらがな",
    "한국어",
    "नमस्ते",
    "ไทย",
    "😀",
    "👩\u{200d}👩",
    "!",
    "?!",
    "...",
    "/",
    "//\n",
    "_",
    "$",
    "€",
    "<|im_end|>",
    "<|im_",
    "<s>",
    "</s>",
    "▁",
    "\u{200b}",
    "\u{feff}",
    "\0",
];

fn text() -> impl Strategy<Value = String> {
    let piece =
        prop_oneof![9 => proptest::sample::select(PIECES).prop_map(String::from), 1 => any::<char>().prop_map(String::from)];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn check(name: &str, file: &Value, texts: &[String]) {
    let bytes = serde_json::to_vec(file).unwrap();
    let ours = Tokenizer::from_json(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    let reference = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
    let mut plain = file.clone();
    plain["added_tokens"] = json!([]);
    let plain = tokenizers::Tokenizer::from_bytes(serde_json::to_vec(&plain).unwrap()).unwrap();
    for text in texts {
        for (specials, reference) in [(Specials::Parse, &reference), (Specials::AsText, &plain)] {
            let expected = reference.encode(text.as_str(), false).unwrap();
            assert_eq!(ours.encode(text, specials).unwrap(), expected.get_ids(), "{name}, {specials:?}: {text:?}");
        }
    }
}

fn qwen3() -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens/tokenization/qwen3-pruned-tokenizer.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Qwen3's vocabulary behind other pre-tokenizers.
fn byte_level(pretokenizers: &[Value], use_regex: bool) -> Value {
    let mut file = qwen3();
    let mut parts = pretokenizers.to_vec();
    parts.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex}));
    file["normalizer"] = Value::Null;
    file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": parts});
    file
}

fn split(pattern: &str, behavior: &str, invert: bool) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert})
}

fn sentencepiece(normalizer: Value, pretokenizer: Value) -> Value {
    let mut vocab: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    vocab.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let pieces = ["▁", "h", "e", "l", "o", "a", "ll", "he", "hell", "hello", "▁hello", "▁▁", "▁a", "é", "s", "1", "▁1"];
    vocab.extend(pieces.map(String::from));
    let vocab: serde_json::Map<String, Value> = vocab.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let merges = json!(["l l", "h e", "he ll", "hell o", "▁ hello", "▁ ▁", "▁ a", "▁ 1"]);
    let added = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    json!({
        "version": "1.0",
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": normalizer,
        "pre_tokenizer": pretokenizer,
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges,
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn every_pipeline_gives_the_ids_of_the_reference(texts in proptest::collection::vec(text(), 32)) {
        check("qwen3", &qwen3(), &texts);
        check("gpt2", &byte_level(&[], true), &texts);
        check("digits", &byte_level(&[json!({"type": "Digits", "individual_digits": true})], true), &texts);
        check("whole digits", &byte_level(&[json!({"type": "Digits", "individual_digits": false})], true), &texts);
        for behavior in ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"] {
            for invert in [false, true] {
                check(behavior, &byte_level(&[split(r"\p{L}|[0-9]{2}", behavior, invert)], false), &texts);
            }
        }
        let tekken = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let mut file = byte_level(&[split(tekken, "Isolated", false)], false);
        file["model"]["ignore_merges"] = json!(true);
        check("tekken", &file, &texts);
        let deepseek = [split(r"\p{N}{1,3}", "Isolated", false), split("[一-龥぀-ゟ゠-ヿ]+", "Isolated", false)];
        check("deepseek", &byte_level(&deepseek, true), &texts);
        check("whitespace", &byte_level(&[split(r"\s+(?!\S)|\s+", "Isolated", false)], false), &texts);
        for normalizer in ["NFD", "NFKC", "NFKD"] {
            let mut file = qwen3();
            file["normalizer"] = json!({"type": normalizer});
            check(normalizer, &file, &texts);
        }
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let legacy = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]});
        check("sentencepiece", &sentencepiece(legacy, Value::Null), &texts);
        for scheme in ["always", "first", "never"] {
            for split in [true, false] {
                let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
                check("metaspace", &sentencepiece(Value::Null, metaspace), &texts);
            }
        }
    }
}
