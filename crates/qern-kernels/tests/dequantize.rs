//! Every weight format against what ggml makes of the same blocks, bit for bit.

use qern_kernels::dequantize::dequantize;
use qern_kernels::format::WeightFormat;
use safetensors::{Dtype, SafeTensors};

/// Blocks of quantized gaussians and of random bits with extreme scales; `reference/formats.py` made them.
fn check(format: WeightFormat) {
    let path = format!("{}/../../reference/goldens/formats/{format}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let (blocks, values) = (tensors.tensor("blocks").unwrap(), tensors.tensor("values").unwrap());
    assert_eq!((blocks.dtype(), values.dtype()), (Dtype::U8, Dtype::F32));
    assert_eq!(blocks.shape()[1], format.block_bytes());
    assert_eq!(values.shape(), [blocks.shape()[0], format.block_len()]);

    let expect: Vec<f32> = values.data().as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
    let mut out = vec![f32::NAN; expect.len()];
    dequantize(format, blocks.data(), &mut out);
    for (i, (got, expect)) in out.iter().zip(&expect).enumerate() {
        let (block, at) = (i / format.block_len(), i % format.block_len());
        assert!(got.to_bits() == expect.to_bits(), "{format} block {block} value {at}: {got:e}, not {expect:e}");
    }
}

#[test]
fn every_format_has_the_bits_of_ggml() {
    // F32 has no golden: it is a copy, checked below.
    WeightFormat::ALL.into_iter().filter(|&format| format != WeightFormat::F32).for_each(check);
}

#[test]
fn f32_is_a_copy() {
    let values = [0.0, -1.5, f32::MIN_POSITIVE / 8.0, f32::MAX, f32::INFINITY];
    let bytes: Vec<u8> = values.iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
    let mut out = [0.0; 5];
    dequantize(WeightFormat::F32, &bytes, &mut out);
    assert_eq!(out, values);
}

#[test]
fn nothing_in_gives_nothing_out() {
    WeightFormat::ALL.into_iter().for_each(|format| dequantize(format, &[], &mut []));
}

#[test]
#[should_panic(expected = "Q4_K bytes must be a multiple of 144; given 143")]
fn part_of_a_block_is_refused() {
    dequantize(WeightFormat::Q4_K, &[0; 143], &mut [0.0; 256]);
}

#[test]
#[should_panic(expected = "2 blocks of Q8_0 hold 32 values each; the output has room for 63")]
fn an_output_of_another_length_is_refused() {
    dequantize(WeightFormat::Q8_0, &[0; 68], &mut [0.0; 63]);
}
