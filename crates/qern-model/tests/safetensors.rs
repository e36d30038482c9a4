//! Safetensors: what well-formed files yield, and what every kind of broken one is told.

mod builders;

use std::fmt::Write;

use builders::{golden, message, safetensors, safetensors_of};
use proptest::prelude::*;
use qern_kernels::WeightFormat;
use qern_model::safetensors::{INDEX_NAME, SafetensorsFile};

const VALID: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[16,28]},
    "a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;

#[test]
fn tensors_of_a_valid_file_are_read() {
    let file = SafetensorsFile::from_bytes(safetensors(VALID, 28)).unwrap();
    assert_eq!(file.metadata("format"), Some("pt"));
    let names: Vec<_> = file.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let (a, b) = (file.tensor("a").unwrap(), file.tensor("b").unwrap());
    assert_eq!((a.format, a.rows, a.cols, a.bytes.len()), (WeightFormat::F32, 1, 4, 16));
    assert_eq!((b.format, b.rows, b.cols, b.bytes.len()), (WeightFormat::BF16, 2, 3, 12));
    assert_eq!(message(file.tensor("c")), "safetensors: the tensor `c` is missing from the file");
}

#[test]
fn broken_files_are_refused() {
    let check = |bytes: Vec<u8>, expected: &str| {
        let found = message(SafetensorsFile::from_bytes(bytes));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    };
    check(vec![], "must have at least 8 bytes; it has 0");
    check(vec![1; 7], "must have at least 8 bytes; it has 7");
    check(vec![0; 8], "the header must begin with `{`");
    check(b"version https://git-lfs.github.com/spec/v1".to_vec(), "git-lfs pointer");
    for len in [3u64, 1 << 30, 1 << 63, u64::MAX] {
        check([&len.to_le_bytes()[..], b"{}"].concat(), "the header must be at most 2 bytes long in a file of 10 bytes");
    }
    check(safetensors("[]", 0), "the header must begin with `{`");
    check(safetensors("{", 0), "the header is not valid");
    check(safetensors("{} {}", 0), "the header is not valid");
    check(safetensors(&"{\"a\":".repeat(100_000), 0), "the header is not valid");
    let mut not_utf8 = safetensors(VALID, 28);
    not_utf8[12] = 0xff;
    check(not_utf8, "the header is not valid");
    check(safetensors(VALID, 27), "must have 28 bytes of data by its header; it has 27: it is cut short");
    check(safetensors(VALID, 29), "must have 28 bytes of data by its header; it has 29");
}

#[test]
fn broken_tensors_are_refused() {
    let check = |tensors: &str, data_len, expected: &str| {
        let found = message(SafetensorsFile::from_bytes(safetensors(&format!("{{{tensors}}}"), data_len)));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    };
    let t = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let one = |dtype: &str, shape: &str, offsets: &str| t("t", dtype, shape, offsets);
    check(&one("F32", "[4]", "[0,15]"), 16, "`t` of shape [4] and type F32 must take 16 bytes; its offsets are 0 to 15");
    check(&one("F32", "[4]", "[0,0]"), 16, "must take 16 bytes; its offsets are 0 to 0");
    check(&one("F16", "[4]", "[0,16]"), 16, "`t` of shape [4] and type F16 must take 8 bytes; its offsets are 0 to 16");
    check(&one("F32", "[4]", "[16,0]"), 16, "its offsets are 16 to 0");
    check(&one("F32", "[4]", "[-16,0]"), 16, "the header is not valid");
    check(&one("F32", "[4]", "[0,16,16]"), 16, "the header is not valid");
    check(&one("F32", "[4.5]", "[0,16]"), 16, "the header is not valid");
    check(&one("F32", "[4]", "[0,18446744073709551616]"), 16, "the header is not valid");
    check(&one("F32", "[4]", "[18446744073709551600,18446744073709551615]"), 16, "must take 16 bytes");
    check(&one("F32", "[3]", "[18446744073709551603,18446744073709551615]"), 16, "is larger than any memory");
    check(&one("F32", "[4294967296,4294967296]", "[0,0]"), 16, "is larger than any memory");
    check(&one("F32", "[4611686018427387904]", "[0,0]"), 16, "is larger than any memory");
    check(&one("F32", "[0,4294967296,4294967296]", "[0,0]"), 0, "is larger than any memory");
    check(&one("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "must have at most 8 dimensions; given 9");
    check(&one("F33", "[4]", "[0,16]"), 16, "`t` has the type `F33`, which is unknown");
    check(&one("F4", "[3]", "[0,2]"), 2, "must take 2 bytes");
    check(r#""t":{"dtype":"F32","shape":[4]}"#, 16, "missing field `data_offsets`");
    check(r#""t":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"x":1}"#, 16, "unknown field `x`");
    check(r#""t":{"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]}"#, 16, "duplicate field `dtype`");
    let pair = |offsets: &str| format!("{},{}", one("F32", "[4]", "[0,16]"), t("u", "F32", "[4]", offsets));
    check(&pair("[8,24]"), 24, "`u` at offset 8 overlaps the one before it");
    check(&pair("[0,16]"), 16, "`u` at offset 0 overlaps the one before it");
    check(&pair("[20,36]"), 36, "`u` at offset 20 leaves a gap before it");
    check(&one("F32", "[4]", "[4,20]"), 20, "`t` at offset 4 leaves a gap before it");
    check(&format!("{0},{0}", one("F32", "[4]", "[0,16]")), 16, "`t` is listed twice");
    check(&t("", "F32", "[4]", "[0,16]"), 16, "a tensor's name must be 1 to 1024 bytes long; given 0");
    check(&t(&"n".repeat(2000), "F32", "[4]", "[0,16]"), 16, "must be 1 to 1024 bytes long; given 2000");
}

#[test]
fn what_is_valid_but_not_computed_with_is_refused_where_it_is_used() {
    let header =
        r#"{"q":{"dtype":"I32","shape":[1],"data_offsets":[0,4]},"e":{"dtype":"F32","shape":[0,4],"data_offsets":[4,4]}}"#;
    let file = SafetensorsFile::from_bytes(safetensors(header, 4)).unwrap();
    let check = |name, expected: &str| assert_eq!(message(file.tensor(name)), format!("safetensors: the tensor {expected}"));
    check("q", "`q` is stored as I32, which is not supported; use a checkpoint in F32, F16 or BF16");
    check("e", "`e` of shape [0, 4] must hold values; it is empty");
}

#[test]
fn a_hundred_thousand_entries_are_read_quickly() {
    let mut header = String::from("{");
    for i in 0..100_000 {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(header, r#"{comma}"tensor.{i}":{{"dtype":"F16","shape":[1],"data_offsets":[{},{}]}}"#, 2 * i, 2 * i + 2);
    }
    header.push('}');
    let bytes = safetensors(&header, 200_000);
    let started = std::time::Instant::now();
    assert_eq!(SafetensorsFile::from_bytes(bytes).unwrap().tensors().len(), 100_000);
    // Loose, for a busy machine.
    assert!(started.elapsed().as_millis() < 3000, "{:?}", started.elapsed());
}

/// Opens an index with this text, beside the shards `m-1.safetensors` (with `a`) and `m-2.safetensors` (with `b` and `c`).
fn open_index(text: &str) -> qern_model::Result<SafetensorsFile> {
    let folder = tempfile::tempdir().unwrap();
    let shard = |name: &str, tensors: &[&str]| {
        let tensors: Vec<_> = tensors.iter().map(|&name| (name.to_owned(), vec![2])).collect();
        std::fs::write(folder.path().join(name), safetensors_of(&tensors)).unwrap();
    };
    shard("m-1.safetensors", &["a"]);
    shard("m-2.safetensors", &["b", "c"]);
    let path = folder.path().join(INDEX_NAME);
    std::fs::write(&path, text).unwrap();
    SafetensorsFile::open(path)
}

#[test]
fn an_index_opens_all_its_shards() {
    let file = open_index(r#"{"metadata":{},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#).unwrap();
    assert_eq!(file.paths().count(), 2);
    assert!(file.tensor("a").is_ok() && file.tensor("b").is_ok());
    assert!(file.tensor_info("c").is_none(), "the index does not list it");
}

#[test]
fn broken_indexes_are_refused() {
    let check = |weight_map: &str, expected: &str| {
        let found = message(open_index(&format!(r#"{{"weight_map":{weight_map}}}"#)));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    };
    let plain = "a shard must be the plain name of a `.safetensors` file beside the index; given";
    for name in ["../m-1.safetensors", "/m-1.safetensors", "x/m-1.safetensors", "..", "c:m.safetensors", "m.bin", ".safetensors"]
    {
        check(&format!(r#"{{"a":"{name}"}}"#), &format!("{plain} `{name}`"));
    }
    check(r#"{"a":"x\\m-1.safetensors"}"#, plain);
    check(r#"{"a":"x\u0000.safetensors"}"#, plain);
    check(r#"{"a":"m-3.safetensors"}"#, "the shard `m-3.safetensors` is missing; fetch it to");
    check(r#"{"z":"m-1.safetensors"}"#, "the tensor `z` must be in the shard `m-1.safetensors`, by the index; it is not");
    check(r#"{"a":"m-2.safetensors"}"#, "the tensor `a` must be in the shard `m-2.safetensors`, by the index; it is not");
    check(r#"{"a":"m-1.safetensors","a":"m-2.safetensors"}"#, "`a` is listed twice");
    check("{}", "the index must name 1 to 10000 shards; it names 0");
    check(r#"{"a":1}"#, "the index is not valid");
    check("[]", "the index is not valid");
}

#[test]
fn pickles_are_never_opened() {
    for name in ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"] {
        let found = message(SafetensorsFile::open(name));
        assert!(found.contains("are pickles, which run code when they are loaded, and are never opened"), "{found}");
    }
}

#[test]
fn reference_files_are_read() {
    for name in ["qwen3-tiny/model.safetensors", "qwen3-bf16-tiny/model.safetensors", &format!("qwen3-sharded-tiny/{INDEX_NAME}")]
    {
        let file = SafetensorsFile::open(golden(name)).unwrap();
        for info in file.tensors() {
            assert_eq!(file.tensor(&info.name).unwrap().num_values(), info.rows() * info.cols());
        }
    }
}

/// Whatever we accept, the reference implementation accepts, and sees in the same way.
fn agrees_with_reference(bytes: &[u8]) {
    let Ok(file) = SafetensorsFile::from_bytes(bytes.to_vec()) else { return };
    let reference = ::safetensors::SafeTensors::deserialize(bytes).expect("accepted by us alone");
    assert_eq!(reference.len(), file.tensors().len());
    for info in file.tensors() {
        let theirs = reference.tensor(&info.name).unwrap();
        assert_eq!((theirs.shape(), theirs.data()), (&info.shape[..], &bytes[info.range.clone()]));
        if let Ok(tensor) = file.tensor(&info.name) {
            tensor.row(tensor.rows - 1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn corruptions_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut in any::<prop::sample::Index>(), whole: bool) {
        let mut bytes = safetensors(VALID, 28);
        for (index, byte) in edits {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        agrees_with_reference(&bytes);
    }

    #[test]
    fn digits_changed_at_random_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), b'0'..=b'9'), 1..4)) {
        let mut bytes = safetensors(VALID, 28);
        let digits: Vec<usize> = (8..8 + VALID.len()).filter(|&at| bytes[at].is_ascii_digit()).collect();
        for (index, digit) in edits {
            bytes[digits[index.index(digits.len())]] = digit;
        }
        agrees_with_reference(&bytes);
    }
}
