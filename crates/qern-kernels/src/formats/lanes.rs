//! Layouts that several formats share: nibbles, single bits and bit pairs of 32 columns x 16 rows, and how they come back
//! as lanes. A row's 32 quants travel as two little-endian `u128` of 16 bytes each.

use crate::simd::Simd;

/// Every byte of a `u128` the same.
pub(super) const fn bytes(b: u8) -> u128 {
    u128::from_le_bytes([b; 16])
}

pub(super) fn u128_at(block: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(block[at..at + 16].try_into().expect("16 bytes"))
}

/// Spreads the four words of 16 bytes over four vectors: word `g` to lane `row` of vector `g`.
pub(super) fn put_words(vectors: &mut [u8], row: usize, words: u128) {
    let words = words.to_le_bytes();
    for g in 0..4 {
        vectors[64 * g + 4 * row..][..4].copy_from_slice(&words[4 * g..4 * g + 4]);
    }
}

/// Two bytes of a half float to row `row` of a vector of 16.
pub(super) fn put_half(halves: &mut [u8], row: usize, half: &[u8]) {
    halves[2 * row..2 * row + 2].copy_from_slice(half);
}

/// 4-bit quants (low nibbles of `first`, `second`) to four vectors: the low nibbles hold columns 0..16, the high 16..32.
pub(super) fn put_nibbles(vectors: &mut [u8], row: usize, first: u128, second: u128) {
    let low = bytes(0x0f);
    put_words(vectors, row, (first & low) | ((second & low) << 4));
}

/// The columns `16 half ..` of `put_nibbles`.
#[inline(always)]
pub(super) unsafe fn nibbles<S: Simd>(vectors: *const u8, half: usize) -> [S::Bytes; 4] {
    // SAFETY: the caller vouches for 256 bytes and for the instruction set.
    unsafe {
        let low = S::splat_byte(0x0f);
        let lane = |g: usize| {
            let v = S::load_bytes(vectors.add(64 * g));
            S::and(if half == 0 { v } else { S::shr(v, 4) }, low)
        };
        [lane(0), lane(1), lane(2), lane(3)]
    }
}

/// One bit per quant (bit 0 of each byte) to one vector: bit `g` of a byte belongs to column `4 g + byte`.
pub(super) fn put_bits(vector: &mut [u8], row: usize, first: u128, second: u128) {
    let one = bytes(1);
    let mut word = 0u32;
    for g in 0..4 {
        word |= (((first & one) >> (32 * g)) as u32) << g;
        word |= (((second & one) >> (32 * g)) as u32) << (g + 4);
    }
    vector[4 * row..4 * row + 4].copy_from_slice(&word.to_le_bytes());
}

/// The bits of `put_bits` for columns `16 half ..`, each moved to bit `to` (2 or 4) of its byte, others zero.
#[inline(always)]
pub(super) unsafe fn bits<S: Simd>(vector: *const u8, half: usize, to: u32) -> [S::Bytes; 4] {
    // SAFETY: the caller vouches for 64 bytes and for the instruction set.
    unsafe {
        let v = S::load_bytes(vector);
        let mask = S::splat_byte(1 << to);
        let lane = |g: u32| {
            let from = g + 4 * half as u32;
            S::and(if from <= to { S::shl(v, to - from) } else { S::shr(v, from - to) }, mask)
        };
        [lane(0), lane(1), lane(2), lane(3)]
    }
}

/// Two bits per quant (bits 0, 1 of each byte) to two vectors: vector `half`, bits `2 g, 2 g + 1` of a byte belong to
/// column `16 half + 4 g + byte`.
pub(super) fn put_pairs(vectors: &mut [u8], row: usize, first: u128, second: u128) {
    for (half, quants) in [first & bytes(3), second & bytes(3)].into_iter().enumerate() {
        let word = (0..4).fold(0u32, |word, g| word | (((quants >> (32 * g)) as u32) << (2 * g)));
        vectors[64 * half + 4 * row..][..4].copy_from_slice(&word.to_le_bytes());
    }
}

/// The pairs of `put_pairs` for columns `16 half ..`, each moved to bits `to, to + 1` (0 or 4) of its byte, others zero.
#[inline(always)]
pub(super) unsafe fn pairs<S: Simd>(vectors: *const u8, half: usize, to: u32) -> [S::Bytes; 4] {
    // SAFETY: the caller vouches for 128 bytes and for the instruction set.
    unsafe {
        let v = S::load_bytes(vectors.add(64 * half));
        let mask = S::splat_byte(3 << to);
        let lane = |g: u32| S::and(if 2 * g <= to { S::shl(v, to - 2 * g) } else { S::shr(v, 2 * g - to) }, mask);
        [lane(0), lane(1), lane(2), lane(3)]
    }
}

/// Bytes to eight vectors, columns in order.
pub(super) fn put_bytes(vectors: &mut [u8], row: usize, first: u128, second: u128) {
    put_words(&mut vectors[..256], row, first);
    put_words(&mut vectors[256..], row, second);
}

#[inline(always)]
pub(super) unsafe fn or4<S: Simd>(a: [S::Bytes; 4], b: [S::Bytes; 4]) -> [S::Bytes; 4] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { [S::or(a[0], b[0]), S::or(a[1], b[1]), S::or(a[2], b[2]), S::or(a[3], b[3])] }
}

#[inline(always)]
pub(super) unsafe fn lookup4<S: Simd>(table: &[u8; 16], index: [S::Bytes; 4]) -> [S::Bytes; 4] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { [S::lookup(table, index[0]), S::lookup(table, index[1]), S::lookup(table, index[2]), S::lookup(table, index[3])] }
}

/// Minima of two neighbouring sub-blocks of each row as the two halves of its lane.
#[inline(always)]
pub(super) unsafe fn pair_up<S: Simd>(even: S::Ints, odd: S::Ints) -> S::Ints {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { S::or_ints(even, S::shl_ints(odd, 16)) }
}

/// A table of signed levels as unsigned lanes.
pub(super) const fn lanes_of(levels: [i8; 16], offset: i8) -> [u8; 16] {
    let mut lanes = [0; 16];
    let mut i = 0;
    while i < 16 {
        lanes[i] = levels[i].wrapping_add(offset) as u8;
        i += 1;
    }
    lanes
}

/// The levels of the non-linear 4-bit formats, plus 128.
pub(super) const IQ4_LANES: [u8; 16] = lanes_of(crate::dequantize::IQ4_LEVELS, -128);

/// The 6-bit scales and minima of Q4_K and Q5_K, kept in six bits: three vectors of one word a row. Word 0 holds the low
/// nibbles of the eight scales, word 1 of the eight minima, word 2 the high bit pairs of the scales, then of the minima.
pub(super) mod six_bits {
    use super::Simd;
    use crate::dequantize::scale_min_k;

    /// Bytes of the three vectors.
    pub const BYTES: usize = 192;

    /// `packed` is the 12-byte field of the block.
    pub fn put(vectors: &mut [u8], row: usize, packed: &[u8; 12]) {
        let mut words = [0u32; 3];
        for j in 0..8 {
            let (scale, min) = scale_min_k(packed, j);
            words[0] |= u32::from(scale & 15) << (4 * j);
            words[1] |= u32::from(min & 15) << (4 * j);
            words[2] |= u32::from(scale >> 4) << (2 * j) | u32::from(min >> 4) << (2 * j + 16);
        }
        for (i, word) in words.into_iter().enumerate() {
            vectors[64 * i + 4 * row..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }

    #[inline(always)]
    unsafe fn get<S: Simd>(vectors: *const u8, word: usize, j: usize) -> S::Ints {
        // SAFETY: the caller vouches for `BYTES` bytes and for the instruction set.
        unsafe {
            let low = S::shr_ints(S::load_ints(vectors.add(64 * word).cast()), 4 * j as u32);
            let high = S::shr_ints(S::load_ints(vectors.add(128).cast()), (2 * j + 16 * word) as u32);
            let high = S::shl_ints(S::and_ints(high, S::splat_int(3)), 4);
            S::or_ints(S::and_ints(low, S::splat_int(15)), high)
        }
    }

    /// Scales of sub-block `j` of the 16 rows.
    #[inline(always)]
    pub unsafe fn scale<S: Simd>(vectors: *const u8, j: usize) -> S::Ints {
        // SAFETY: the caller's promise.
        unsafe { get::<S>(vectors, 0, j) }
    }

    /// Minima of sub-block `j` of the 16 rows.
    #[inline(always)]
    pub unsafe fn min<S: Simd>(vectors: *const u8, j: usize) -> S::Ints {
        // SAFETY: the caller's promise.
        unsafe { get::<S>(vectors, 1, j) }
    }
}
