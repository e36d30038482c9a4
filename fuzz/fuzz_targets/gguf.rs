//! Any bytes as a GGUF file: whatever is accepted can be read whole, and neither panics nor takes memory beyond its size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qern_model::config::ModelConfig;
use qern_model::generation::GenerationDefaults;
use qern_model::gguf::{GgufFile, Value};
use qern_model::vocabulary::GgufVocabulary;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = GgufFile::from_bytes(bytes.to_vec()) else { return };
    for (key, value) in file.metadata().iter() {
        if let Value::Array(array) = value {
            array.iter().for_each(drop);
        }
        let _ = (file.metadata().count(key), file.metadata().strings(key), file.metadata().i32s(key), file.metadata().f32s(key));
    }
    for info in file.tensors() {
        if let Ok(tensor) = file.tensor(&info.name) {
            assert_eq!(tensor.row(0).len() * tensor.rows, tensor.bytes.len());
            tensor.row(tensor.rows - 1);
        }
    }
    let _ = (ModelConfig::from_gguf(&file), GenerationDefaults::from_gguf(&file), GgufVocabulary::from_gguf(&file));
});
