//! Blocks of every weight format to `f32`, as ggml defines them: each value takes the same `f32` operations in the same
//! order as ggml's `dequantize_row_*` (`ggml-quants.c`), so it has the same bits. The layouts are those of the structures in
//! `ggml-common.h`; all numbers are little-endian. This is the meaning of a format; the matmul's panels are in `panel`.

use half::{bf16, f16};

use crate::format::WeightFormat;

/// Writes the values of whole blocks.
///
/// * `blocks` u8 `[num_blocks, block_bytes]`
/// * `out` f32 `[num_blocks, block_len]`
///
/// Panics when `blocks` is no whole number of blocks or `out` has not exactly their values.
pub fn dequantize(format: WeightFormat, blocks: &[u8], out: &mut [f32]) {
    let (block_bytes, block_len) = (format.block_bytes(), format.block_len());
    let num_blocks = blocks.len() / block_bytes;
    assert!(
        blocks.len().is_multiple_of(block_bytes),
        "{format} bytes must be a multiple of {block_bytes}; given {}",
        blocks.len()
    );
    assert!(
        num_blocks.checked_mul(block_len) == Some(out.len()),
        "{num_blocks} blocks of {format} hold {block_len} values each; the output has room for {}",
        out.len()
    );
    match format {
        WeightFormat::F32 => each_block(blocks, out, |block, out| *out = [f32::from_le_bytes(*block)]),
        WeightFormat::F16 => each_block(blocks, out, |block, out| *out = [f16::from_le_bytes(*block).to_f32()]),
        WeightFormat::BF16 => each_block(blocks, out, |block, out| *out = [bf16::from_le_bytes(*block).to_f32()]),
        WeightFormat::Q8_0 => each_block(blocks, out, q8_0),
        WeightFormat::Q4_0 => each_block(blocks, out, q4_0),
        WeightFormat::Q4_1 => each_block(blocks, out, q4_1),
        WeightFormat::Q5_0 => each_block(blocks, out, q5_0),
        WeightFormat::Q5_1 => each_block(blocks, out, q5_1),
        WeightFormat::Q2_K => each_block(blocks, out, q2_k),
        WeightFormat::Q3_K => each_block(blocks, out, q3_k),
        WeightFormat::Q4_K => each_block(blocks, out, q4_k),
        WeightFormat::Q5_K => each_block(blocks, out, q5_k),
        WeightFormat::Q6_K => each_block(blocks, out, q6_k),
        WeightFormat::IQ4_NL => each_block(blocks, out, iq4_nl),
        WeightFormat::IQ4_XS => each_block(blocks, out, iq4_xs),
        WeightFormat::MXFP4 => each_block(blocks, out, mxfp4),
    }
}

/// The 16 levels of IQ4_NL and IQ4_XS, to be multiplied by the scale (`kvalues_iq4nl`).
pub(crate) const IQ4_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The 16 levels of MXFP4, doubled to be whole (`kvalues_fp4`); [`e8m0_half`] halves the scale in turn. E2M1 numbers of the
/// OCP Microscaling Formats specification, 5.3.3.
pub(crate) const MXFP4_LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of 2^(exponent - 127): the scale of MXFP4, of which its doubled levels take half. 255 (a NaN in the specification)
/// gives 2^127, as in ggml.
pub(crate) fn e8m0_half(exponent: u8) -> f32 {
    // Below 2 the half is subnormal: 2^-128 and 2^-127.
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (u32::from(exponent) - 1) << 23 })
}

/// The 6-bit scale and minimum of sub-block `j` (of 8) in Q4_K and Q5_K. Bytes 0-3 hold scales 0-3 and bytes 4-7 minima 0-3
/// in their low six bits; bytes 8-11 hold the low nibbles of scales 4-7 and minima 4-7, whose upper two bits are the upper
/// two of bytes 0-3 and 4-7.
pub(crate) fn scale_min_k(scales: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        let low = scales[j + 4];
        ((low & 15) | (scales[j - 4] >> 6) << 4, (low >> 4) | (scales[j] >> 6) << 4)
    }
}

/// The 16 signed scales of Q3_K, stored as 6 bits + 32. The low nibbles of scales 0-7 are the low nibbles of bytes 0-7,
/// those of scales 8-15 the high ones; bytes 8-11 hold the upper two bits: byte 8 + j % 4, bits 2 (j / 4).
pub(crate) fn scales_q3_k(scales: &[u8; 12]) -> [i8; 16] {
    std::array::from_fn(|j| {
        let low = (scales[j % 8] >> (4 * (j / 8))) & 15;
        let high = (scales[8 + j % 4] >> (2 * (j / 4))) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// `f` on every block of `BYTES` bytes and `LEN` values.
fn each_block<const BYTES: usize, const LEN: usize>(blocks: &[u8], out: &mut [f32], f: impl Fn(&[u8; BYTES], &mut [f32; LEN])) {
    let ((blocks, []), (out, [])) = (blocks.as_chunks(), out.as_chunks_mut()) else {
        unreachable!("the lengths were checked against the geometry of the format")
    };
    blocks.iter().zip(out).for_each(|(block, out)| f(block, out));
}

/// The half-precision number at byte `at`.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `N` bytes from byte `at` on.
fn bytes_at<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("the field lies inside the block")
}

/// `block_q8_0`: d f16, qs i8[32]. Value: q d.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (value, &q) in out.iter_mut().zip(&block[2..]) {
        *value = f32::from(q as i8) * d;
    }
}

/// `block_q4_0`: d f16, qs u8[16]. Byte j holds value j in its low nibble, value 16 + j in its high one. Value: (q - 8) d.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (j, &q) in block[2..].iter().enumerate() {
        out[j] = f32::from((q & 15) as i8 - 8) * d;
        out[j + 16] = f32::from((q >> 4) as i8 - 8) * d;
    }
}

/// `block_q4_1`: d f16, m f16, qs u8[16], nibbles as in Q4_0. Value: q d + m.
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (j, &q) in block[4..].iter().enumerate() {
        out[j] = f32::from(q & 15) * d + m;
        out[j + 16] = f32::from(q >> 4) * d + m;
    }
}

/// `block_q5_0`: d f16, qh u32, qs u8[16], nibbles as in Q4_0; bit j of `qh` is the fifth bit of value j.
/// Value: (q - 16) d.
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let qh = u32::from_le_bytes(*bytes_at(block, 2));
    for (j, &q) in block[6..].iter().enumerate() {
        out[j] = f32::from(with_fifth_bit(q & 15, qh, j) as i8 - 16) * d;
        out[j + 16] = f32::from(with_fifth_bit(q >> 4, qh, j + 16) as i8 - 16) * d;
    }
}

/// `block_q5_1`: d f16, m f16, qh u32, qs u8[16], bits as in Q5_0. Value: q d + m.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let qh = u32::from_le_bytes(*bytes_at(block, 4));
    for (j, &q) in block[8..].iter().enumerate() {
        out[j] = f32::from(with_fifth_bit(q & 15, qh, j)) * d + m;
        out[j + 16] = f32::from(with_fifth_bit(q >> 4, qh, j + 16)) * d + m;
    }
}

fn with_fifth_bit(nibble: u8, qh: u32, j: usize) -> u8 {
    nibble | ((qh >> j & 1) as u8) << 4
}

/// `block_q2_K`: scales u8[16], qs u8[64], d f16, dmin f16. Sub-block j (16 values) has its scale in the low nibble of
/// `scales[j]`, its minimum in the high one. Value 128 h + 32 s + l is in byte 32 h + l, bits 2 s. Value: (d scale) q -
/// (dmin min).
fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, qs) = (bytes_at::<16>(block, 0), bytes_at::<64>(block, 16));
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(scales[j] & 15), dmin * f32::from(scales[j] >> 4));
        let (half, shift, first) = (j / 8, j / 2 % 4 * 2, j % 2 * 16);
        for (value, q) in out.iter_mut().zip(&qs[32 * half + first..]) {
            *value = scale * f32::from(q >> shift & 3) - min;
        }
    }
}

/// `block_q3_K`: hmask u8[32], qs u8[64], scales u8[12] (see [`scales_q3_k`]), d f16. The low two bits are as in Q2_K; the
/// third bit of value 32 g + l is bit g of `hmask[l]`. Value: (d scale) (q - 4).
fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (hmask, qs, scales) = (bytes_at::<32>(block, 0), bytes_at::<64>(block, 32), scales_q3_k(bytes_at(block, 96)));
    let d = half_at(block, 108);
    for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[j]);
        let (half, shift, first) = (j / 8, j / 2 % 4 * 2, j % 2 * 16);
        for ((value, q), high) in out.iter_mut().zip(&qs[32 * half + first..]).zip(&hmask[first..]) {
            let q = (q >> shift & 3) | (high >> (j / 2) & 1) << 2;
            *value = scale * f32::from(q as i8 - 4);
        }
    }
}

/// `block_q4_K`: d f16, dmin f16, scales u8[12] (see [`scale_min_k`]), qs u8[128]. Value 64 g + l is the low nibble of byte
/// 32 g + l, value 64 g + 32 + l its high one. Value: (d scale) q - (dmin min).
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin, scales, qs) = (half_at(block, 0), half_at(block, 2), bytes_at(block, 4), bytes_at::<128>(block, 16));
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min_k(scales, j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (value, q) in out.iter_mut().zip(&qs[j / 2 * 32..]) {
            *value = scale * f32::from(q >> (j % 2 * 4) & 15) - min;
        }
    }
}

/// `block_q5_K`: d f16, dmin f16, scales u8[12] (see [`scale_min_k`]), qh u8[32], qs u8[128]. Nibbles are as in Q4_K; the
/// fifth bit of value 32 j + l is bit j of `qh[l]`. Value: (d scale) q - (dmin min).
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin, scales) = (half_at(block, 0), half_at(block, 2), bytes_at(block, 4));
    let (qh, qs) = (bytes_at::<32>(block, 16), bytes_at::<128>(block, 48));
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min_k(scales, j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for ((value, q), high) in out.iter_mut().zip(&qs[j / 2 * 32..]).zip(qh) {
            let q = (q >> (j % 2 * 4) & 15) | (high >> j & 1) << 4;
            *value = scale * f32::from(q) - min;
        }
    }
}

/// `block_q6_K`: ql u8[128], qh u8[64], scales i8[16], d f16. In each half of 128 values, group g of 32: the low nibbles of
/// groups 0 and 1 are the low nibbles of `ql[l]` and `ql[32 + l]`, those of groups 2 and 3 the high ones; the upper two bits
/// of group g are bits 2 g of `qh[l]`. Value: (d scale) (q - 32), one scale per 16.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (ql, qh, scales) = (bytes_at::<128>(block, 0), bytes_at::<64>(block, 128), bytes_at::<16>(block, 192));
    let d = half_at(block, 208);
    for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[j] as i8);
        let (half, group, first) = (j / 8, j / 2 % 4, j % 2 * 16);
        let (low, high) = (&ql[64 * half + group % 2 * 32 + first..], &qh[32 * half + first..]);
        for ((value, low), high) in out.iter_mut().zip(low).zip(high) {
            let q = (low >> (group / 2 * 4) & 15) | (high >> (2 * group) & 3) << 4;
            *value = scale * f32::from(q as i8 - 32);
        }
    }
}

/// `block_iq4_nl`: d f16, qs u8[16], nibbles as in Q4_0. Value: d level(q).
fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    levels_of_nibbles(half_at(block, 0), &IQ4_LEVELS, bytes_at(block, 2), out);
}

/// `block_iq4_xs`: d f16, scales_h u16, scales_l u8[4], qs u8[128]. Sub-block j (32 values) has the low four bits of its
/// scale in nibble j of `scales_l`, the upper two in bits 2 j of `scales_h`; its nibbles are as in Q4_0.
/// Value: (d (scale - 32)) level(q).
fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let (d, scales_h, scales_l) = (half_at(block, 0), u16::from_le_bytes([block[2], block[3]]), bytes_at::<4>(block, 4));
    for (j, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let scale = (scales_l[j / 2] >> (j % 2 * 4) & 15) | ((scales_h >> (2 * j) & 3) as u8) << 4;
        levels_of_nibbles(d * f32::from(scale as i8 - 32), &IQ4_LEVELS, bytes_at(block, 8 + 16 * j), out);
    }
}

/// `block_mxfp4`: e u8 (E8M0), qs u8[16], nibbles as in Q4_0. Value: level(q) 2^(e - 127).
fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    levels_of_nibbles(e8m0_half(block[0]), &MXFP4_LEVELS, bytes_at(block, 1), out);
}

/// Value j from the low nibble of byte j, value 16 + j from the high one.
fn levels_of_nibbles(scale: f32, levels: &[i8; 16], qs: &[u8; 16], out: &mut [f32; 32]) {
    for (j, &q) in qs.iter().enumerate() {
        out[j] = scale * f32::from(levels[usize::from(q & 15)]);
        out[j + 16] = scale * f32::from(levels[usize::from(q >> 4)]);
    }
}
