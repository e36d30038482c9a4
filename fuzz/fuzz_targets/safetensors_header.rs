//! Any bytes as a safetensors file, and as the header of one: whatever is accepted, the reference implementation accepts
//! and sees in the same way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qern_model::safetensors::SafetensorsFile;
use safetensors::SafeTensors;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // With a length that fits, and as many bytes of data as the header asks for, up to a bound.
    let mut file = [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat();
    if let Err(error) = SafetensorsFile::from_bytes(file.clone()) {
        let message = error.to_string();
        let wanted = message.split_once("must have ").and_then(|(_, rest)| rest.split_once(" bytes of data"));
        if let Some(len) = wanted.and_then(|(len, _)| len.parse::<usize>().ok()).filter(|&len| len < 1 << 16) {
            file.resize(file.len() + len, 0);
        }
    }
    check(&file);
});

fn check(bytes: &[u8]) {
    let Ok(file) = SafetensorsFile::from_bytes(bytes.to_vec()) else { return };
    let reference = SafeTensors::deserialize(bytes).expect("accepted by qern alone");
    assert_eq!(reference.len(), file.tensors().len());
    for info in file.tensors() {
        let theirs = reference.tensor(&info.name).expect("seen by qern alone");
        assert_eq!((theirs.shape(), theirs.data()), (&info.shape[..], &bytes[info.range.clone()]));
        if let Ok(tensor) = file.tensor(&info.name) {
            tensor.row(tensor.rows - 1);
        }
    }
}
