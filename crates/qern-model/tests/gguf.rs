//! GGUF: what well-formed files yield, and what every kind of broken one is told.

mod builders;

use builders::{Gguf, array, golden, message, string};
use proptest::prelude::*;
use qern_kernels::WeightFormat;
use qern_model::gguf::{GgufFile, Value};

fn valid() -> Gguf {
    Gguf::default()
        .str("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .f32("eps", 1e-5)
        .bool("flag", true)
        .strings("tokens", &["a", "", "ж"])
        .i32s("types", &[1, -3])
        .zeros("vector", &[3])
        .tensor("matrix", &[32, 2], 8, (0..68).collect())
}

#[test]
fn values_and_tensors_of_a_valid_file_are_read() {
    for version in [2, 3] {
        let mut gguf = valid();
        gguf.head[4] = version;
        let file = GgufFile::from_bytes(gguf.bytes()).unwrap();
        assert_eq!(file.version(), u32::from(version));
        let metadata = file.metadata();
        assert_eq!(metadata.len(), 6);
        assert_eq!(metadata.iter().next(), Some(("general.architecture", Value::String("llama"))));
        assert_eq!(metadata.str("general.architecture").unwrap(), Some("llama"));
        assert_eq!(metadata.count("llama.block_count").unwrap(), Some(2));
        assert_eq!(metadata.f32("eps").unwrap(), Some(1e-5));
        assert_eq!(metadata.bool("flag").unwrap(), Some(true));
        assert_eq!(metadata.strings("tokens").unwrap().unwrap(), ["a", "", "ж"]);
        assert_eq!(metadata.i32s("types").unwrap().unwrap(), [1, -3]);
        assert_eq!(metadata.count("absent").unwrap(), None);
        let matrix = file.tensor("matrix").unwrap();
        assert_eq!((matrix.format, matrix.rows, matrix.cols), (WeightFormat::Q8_0, 2, 32));
        assert_eq!(matrix.bytes, (0..68).collect::<Vec<u8>>());
        assert_eq!(matrix.row(1), &matrix.bytes[34..]);
        let vector = file.tensor("vector").unwrap();
        assert_eq!((vector.rows, vector.cols, vector.num_values()), (1, 3, 3));
        assert_eq!(file.tensors().len(), 2);
    }
}

#[test]
fn lookups_name_the_key_what_it_must_be_and_what_it_is() {
    let file = GgufFile::from_bytes(valid().entry("n", 5, &(-1i32).to_le_bytes()).bytes()).unwrap();
    let metadata = file.metadata();
    let check = |found: String, expected: &str| assert_eq!(found, format!("gguf: {expected}"));
    check(message(metadata.count("eps")), "`eps` must be an integer that is not negative; it is the f32 0.00001");
    check(message(metadata.count("n")), "`n` must be an integer that is not negative; it is the i32 -1");
    check(message(metadata.str("flag")), "`flag` must be a string; it is the bool true");
    check(message(metadata.bool("tokens")), "`tokens` must be a bool; it is an array of string");
    check(message(metadata.i32s("tokens")), "`tokens` must be an array of i32; it is an array of string");
    check(message(metadata.f32("general.architecture")), "`general.architecture` must be a number; it is the string `llama`");
    check(message(file.tensor("lm_head")), "the tensor `lm_head` is missing from the file");
}

#[test]
fn broken_headers_are_refused() {
    let check = |bytes: &[u8], expected: &str| {
        let found = message(GgufFile::from_bytes(bytes.to_vec()));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    };
    let head = |head: &[u8]| Gguf { head: head.to_vec(), ..valid() }.bytes();
    check(b"", "ends within the magic bytes `GGUF`: it has 0 bytes");
    check(b"GGU", "ends within the magic bytes");
    check(b"GGUF", "ends within the version");
    check(b"PK\x03\x04rest", "zip archive");
    check(b"version https://git-lfs.github.com/spec/v1", "git-lfs pointer");
    check(b"tjgg\x03\x00\x00\x00", "format before gguf");
    check(b"<html>", "this is no gguf file");
    check(&head(b"GGUF\x01\0\0\0"), "version 1 is not supported");
    check(&head(b"GGUF\x04\0\0\0"), "the version must be 2 or 3; given 4");
    check(&head(b"GGUF\0\0\0\x03"), "big-endian (version 3)");
    check(&head(b"GGUF\0\0\0\0"), "the version must be 2 or 3; given 0");
    for count in [1000, 1 << 20, 1 << 40, u64::MAX / 8, u64::MAX] {
        let claims = "must be at most";
        check(&Gguf { num_tensors: Some(count), ..Gguf::default() }.bytes(), claims);
        check(&Gguf { num_entries: Some(count), ..Gguf::default() }.bytes(), claims);
    }
    // One more than there are: the reader runs into what follows.
    assert!(GgufFile::from_bytes(Gguf { num_tensors: Some(3), ..valid() }.bytes()).is_err());
    assert!(GgufFile::from_bytes(Gguf { num_entries: Some(7), ..valid() }.bytes()).is_err());
}

#[test]
fn every_truncation_is_refused() {
    let bytes = valid().bytes();
    for len in 0..bytes.len() {
        assert!(GgufFile::from_bytes(bytes[..len].to_vec()).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn broken_metadata_is_refused() {
    let check = |gguf: Gguf, expected: &str| {
        let found = message(GgufFile::from_bytes(gguf.bytes()));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    };
    let new = Gguf::default;
    check(new().u32("a", 1).u32("a", 1), "the key `a` must be given once");
    check(new().entry("a", 13, &[0; 8]), "the type of `a` must be a number from 0 to 12; given 13");
    check(new().entry("a", 7, &[2]), "a bool of `a` must be 0 or 1; given 2");
    check(new().entry("a", 9, &array(7, 2, &[0, 9])), "a bool of `a` must be 0 or 1; given 9");
    check(new().entry("a", 8, &1000u64.to_le_bytes()), "the value of `a` runs past the end");
    check(new().entry("a", 8, &u64::MAX.to_le_bytes()), "the value of `a` runs past the end");
    check(new().entry("a", 8, &[&1u64.to_le_bytes()[..], b"\xff"].concat()), "the string `a` must be valid utf-8");
    check(new().entry("a", 9, &array(9, 1, &array(0, 1, &[0]))), "`a` is an array of arrays");
    check(new().entry("a", 9, &array(4, u64::MAX, &[])), "`a` claims 18446744073709551615 items");
    check(new().entry("a", 9, &array(4, 1 << 62, &[])), "`a` claims 4611686018427387904 items");
    check(new().entry("a", 9, &array(8, 1 << 40, &[0; 64])), "`a` claims 1099511627776 items");
    check(new().entry("a", 9, &array(8, 3, &[string("x"), vec![255; 40]].concat())), "the value of `a` runs past the end");
    check(new().entry("a", 9, &array(77, 1, &[0; 8])), "the type of `a` must be a number from 0 to 12; given 77");
    check(new().u32("", 1), "the key of a metadata entry (number 0) must be 1 to 65535 bytes long; given 0");
    check(new().u32(&"k".repeat(70_000), 1), "must be 1 to 65535 bytes long; given 70000");
}

#[test]
fn a_broken_alignment_is_refused() {
    let check = |gguf: Gguf, expected: &str| {
        let found = message(GgufFile::from_bytes(gguf.zeros("t", &[4]).bytes()));
        assert_eq!(found, format!("gguf: general.alignment must be {expected}"));
    };
    let of = |value| Gguf::default().u32("general.alignment", value);
    check(of(0), "a power of two, at most 65536; given 0");
    check(of(33), "a power of two, at most 65536; given 33");
    check(of(1 << 17), "a power of two, at most 65536; given 131072");
    check(of(u32::MAX), "a power of two, at most 65536; given 4294967295");
    check(Gguf::default().str("general.alignment", "32"), "a u32; it is a string");
    check(Gguf::default().entry("general.alignment", 10, &32u64.to_le_bytes()), "a u32; it is a u64");
    check(Gguf::default().i32s("general.alignment", &[32]), "a u32; it is an array");
    let file = Gguf { alignment: 256, ..of(256) }.zeros("t", &[4]).zeros("u", &[4]);
    assert!(GgufFile::from_bytes(file.bytes()).is_ok());
}

#[test]
fn broken_tensors_are_refused() {
    let check = |gguf: Gguf, expected: &str| {
        let found = message(GgufFile::from_bytes(gguf.bytes()));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    };
    let new = Gguf::default;
    let of = |dims: &[u64], type_id| new().tensor("t", dims, type_id, vec![0; 1024]);
    check(new().zeros("t", &[1]).zeros("t", &[1]), "the tensor `t` must be listed once");
    check(of(&[], 0), "must have 1 to 4 dimensions; given 0");
    check(of(&[1; 5], 0), "must have 1 to 4 dimensions; given 5");
    check(of(&[4, 0], 0), "every dimension of the tensor `t` must be at least 1; given [4, 0]");
    check(of(&[4, 4], 5), "the tensor `t` has type 5, which is unknown");
    check(of(&[4, 4], u32::MAX), "the tensor `t` has type 4294967295, which is unknown");
    check(of(&[33], 8), "must be a multiple of 32, the block of Q8_0; given 33");
    check(of(&[128], 12), "must be a multiple of 256, the block of Q4_K; given 128");
    // Products that wrap to something small.
    check(of(&[1 << 32, 1 << 32], 0), "is larger than any memory");
    check(of(&[1 << 62, 4], 0), "is larger than any memory");
    check(of(&[1 << 62, 1], 0), "is larger than any memory");
    check(of(&[u64::MAX], 0), "is larger than any memory");
    check(of(&[1 << 16; 4], 0), "is larger than any memory");
    check(of(&[32, 1 << 59], 8), "is larger than any memory");
    check(of(&[257], 0), "the tensor `t` takes 1028 bytes from 0; the file has 1024 bytes of data");
    check(of(&[4], 0).at(1024), "takes 16 bytes from 1024; the file has 1024");
    check(of(&[4], 0).at(u64::MAX - 31), "the file has 1024 bytes of data");
    check(of(&[4], 0).at(16), "the offset of the tensor `t` must be a multiple of the alignment 32; given 16");
    check(new().zeros("a", &[64]).zeros("b", &[64]).at(128), "tensors must not overlap; `a` and `b` do");
    check(new().zeros("a", &[64]).zeros("b", &[64]).at(0), "tensors must not overlap");
    check(new().zeros("", &[1]), "the name of a tensor (number 0) must be 1 to 64 bytes long; given 0");
    check(new().zeros(&"n".repeat(65), &[1]), "must be 1 to 64 bytes long; given 65");
    let mut not_utf8 = new().zeros("t", &[1]);
    not_utf8.tensors[0].name = vec![0xff];
    check(not_utf8, "must be valid utf-8");
}

#[test]
fn a_type_that_is_not_read_is_known_by_name() {
    let check = |type_id, block_bytes, expected: &str| {
        let file = GgufFile::from_bytes(Gguf::default().tensor("t", &[256], type_id, vec![0; block_bytes]).bytes()).unwrap();
        let found = message(file.tensor("t"));
        assert_eq!(found, format!("gguf: the tensor `t` is stored as {expected}"));
    };
    check(16, 66, "IQ2_XXS, which is not supported; use a Q2_K or Q3_K_M file of the model");
    check(18, 98, "IQ3_XXS, which is not supported; use a Q3_K_M or IQ4_XS file of the model");
    check(34, 54, "TQ1_0, which is not supported; use a Q2_K or Q3_K_M file of the model");
    check(40, 144, "NVFP4, which is not supported; use an MXFP4 or Q4_K_M file of the model");
    check(28, 2048, "F64, which is not supported; quantize the model again, to Q8_0 or Q4_K_M");
}

/// The parts of a split model, each a file in a fresh folder. `None` leaves a part out.
fn split(parts: &[Option<Gguf>]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = |part: usize| folder.path().join(format!("m-{:05}-of-{:05}.gguf", part + 1, parts.len()));
    for (index, part) in parts.iter().enumerate() {
        if let Some(part) = part {
            std::fs::write(path(index), part.bytes()).unwrap();
        }
    }
    let first = parts.iter().position(Option::is_some).unwrap();
    let first = path(first);
    (folder, first)
}

fn part(no: u16, count: u16, num_tensors: i32) -> Gguf {
    let gguf = if no == 0 { Gguf::default().str("general.architecture", "llama") } else { Gguf::default() };
    gguf.entry("split.no", 2, &no.to_le_bytes()).entry("split.count", 2, &count.to_le_bytes()).entry(
        "split.tensors.count",
        5,
        &num_tensors.to_le_bytes(),
    )
}

#[test]
fn any_part_of_a_split_model_opens_all_of_it() {
    let parts = [Some(part(0, 3, 2)), Some(part(1, 3, 2).zeros("a", &[2])), Some(part(2, 3, 2).zeros("b", &[3]))];
    let (folder, _) = split(&parts);
    for index in 1..=3 {
        let file = GgufFile::open(folder.path().join(format!("m-0000{index}-of-00003.gguf"))).unwrap();
        assert_eq!(file.metadata().str("general.architecture").unwrap(), Some("llama"));
        assert_eq!((file.tensors().len(), file.paths().count()), (2, 3));
        assert_eq!((file.tensor("a").unwrap().cols, file.tensor("b").unwrap().cols), (2, 3));
        file.tensor("a").unwrap().release();
        assert_eq!(file.tensor("a").unwrap().bytes, [0; 8]);
    }
}

#[test]
fn split_models_that_do_not_fit_together_are_refused() {
    let check = |parts: &[Option<Gguf>], expected: &str| {
        let (_folder, path) = split(parts);
        let found = message(GgufFile::open(path));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    };
    let (a, b) = (|| part(0, 2, 2).zeros("a", &[2]), || part(1, 2, 2).zeros("b", &[3]));
    check(&[Some(a()), None], "part 2 of 2 is missing; put it at");
    check(&[None, Some(b())], "part 1 of 2 is missing; put it at");
    check(&[Some(a()), Some(part(1, 2, 2))], "the parts must have 2 tensors together, by split.tensors.count; they have 1");
    check(&[Some(a()), Some(part(1, 2, 2).zeros("a", &[2]))], "the tensor `a` must be in one part; it is in two");
    check(&[Some(a()), Some(a())], "must be part 2 of 2; it is part 1 of 2");
    check(&[Some(a()), Some(Gguf::default())], "must be part 2 of 2; it is a whole model");
    check(&[Some(a()), Some(part(1, 3, 2))], "must be part 2 of 2; it is part 2 of 3");
    check(&[Some(part(0, 3, 2)), None], "part 1 of 3 must be named `NAME-00001-of-00003.gguf`");
    check(&[Some(part(2, 2, 2)), None], "split.no must be below split.count 2; given 2");
    check(&[Some(part(0, u16::MAX, 2)), None], "split.count must be at most 10000; given 65535");
}

#[test]
fn a_missing_file_is_named() {
    let found = message(GgufFile::open("no/such/model.gguf"));
    assert!(found.starts_with("cannot read `no/such/model.gguf`: "), "{found}");
}

#[test]
fn reference_files_are_read() {
    for name in ["qwen3-tiny/model.gguf", "qwen3-tiny/model-00002-of-00002.gguf", "llama-tiny/model.gguf"] {
        let file = GgufFile::open(golden(name)).unwrap();
        assert!(file.metadata().str("general.architecture").unwrap().is_some());
        for info in file.tensors() {
            assert_eq!(file.tensor(&info.name).unwrap().num_values(), info.rows() * info.cols());
        }
    }
}

/// A vocabulary of the size of Qwen's costs a few milliseconds, so that opening a model is never about its metadata.
#[test]
fn a_large_vocabulary_is_read_quickly() {
    let tokens: Vec<String> = (0..151_936).map(|id| format!("Ġtoken{id}")).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let bytes = Gguf::default().strings("tokens", &tokens).strings("merges", &tokens).bytes();
    let started = std::time::Instant::now();
    let file = GgufFile::from_bytes(bytes).unwrap();
    assert_eq!(file.metadata().strings("tokens").unwrap().unwrap().len(), tokens.len());
    // Loose, for a busy machine; about 10 ms in a quiet one.
    assert!(started.elapsed().as_millis() < 1000, "{:?}", started.elapsed());
}

/// Reads everything that an accepted file offers.
fn exercise(bytes: Vec<u8>) {
    let Ok(file) = GgufFile::from_bytes(bytes) else { return };
    for (_, value) in file.metadata().iter() {
        if let Value::Array(array) = value {
            array.iter().for_each(drop);
        }
    }
    for info in file.tensors() {
        if let Ok(tensor) = file.tensor(&info.name) {
            tensor.row(tensor.rows - 1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn corruptions_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>(), whole: bool) {
        let mut bytes = valid().bytes();
        for (index, byte) in edits {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        exercise(bytes);
    }

    #[test]
    fn noise_after_the_magic_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        exercise([&b"GGUF\x03\0\0\0"[..], &noise].concat());
    }
}
