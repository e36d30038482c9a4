//! The register tiles: a panel of 16 rows against `T` tokens, written once over instruction sets and formats.
//! Every tile accumulates an output element over blocks in the same order with the same operations, so the tile's shape
//! never shows in the bits. Which tile runs where is decided in `matmul`.
//!
//! Activations of a tile are one contiguous stream (see `activation`): per block `[4-column group][token]` words, then the
//! accumulators' starting values, sums and scales of the tokens.

// Tiles are indexed as in the formulas.
#![allow(clippy::needless_range_loop)]

use crate::formats::float::FloatPanel;
use crate::formats::{BlockPanel, PANEL_ROWS, Pack, SuperPanel};
use crate::simd::Simd;

/// What a tile works on.
pub(crate) struct TileArgs {
    /// The panel.
    pub panel: *const u8,
    /// The tile's activation stream.
    pub activations: *const u8,
    /// Blocks (columns, for float formats) in a row.
    pub num_units: usize,
    /// `[token][16]`
    pub out: *mut f32,
}

/// Bytes ahead of its stream that a tile of several tokens asks for. One token reads so steadily that the processor's own
/// prefetching is better (by up to 40%, measured).
const PREFETCH: usize = 8192;

/// Runs the body for `TOKEN` = 0, 1, ... below the tile's number of tokens, unrolled: each is a constant.
macro_rules! each_token {
    ($num:ident, $token:ident, $body:block) => {
        each_token!(@ $num, $token, $body, 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    (@ $num:ident, $token:ident, $body:block, $($t:literal)*) => {$(
        if $t < $num {
            const $token: usize = $t;
            $body
        }
    )*};
}

/// Adds the products of one 4-column group to the accumulators of `T` tokens.
#[inline(always)]
unsafe fn dot_group<S: Simd, F: Pack, const T: usize>(acc: &mut [S::Ints; T], w: S::Bytes, a: *const u8) {
    each_token!(T, TOKEN, {
        // SAFETY: `TOKEN < T`, the caller vouches for `4 T` bytes at `a` and for the instruction set.
        unsafe {
            let acc = acc.get_unchecked_mut(TOKEN);
            *acc = if F::WIDE { S::dot_wide::<{ 4 * TOKEN }>(*acc, w, a) } else { S::dot::<{ 4 * TOKEN }>(*acc, w, a) };
        }
    });
}

/// Adds the products of 16 columns (four groups) to the accumulators of `T` tokens.
#[inline(always)]
unsafe fn dot_half<S: Simd, F: Pack, const T: usize>(acc: &mut [S::Ints; T], lanes: [S::Bytes; 4], a: *const u8) {
    // SAFETY: the caller's promise, for `16 T` bytes at `a`.
    unsafe {
        dot_group::<S, F, T>(acc, lanes[0], a);
        dot_group::<S, F, T>(acc, lanes[1], a.add(4 * T));
        dot_group::<S, F, T>(acc, lanes[2], a.add(8 * T));
        dot_group::<S, F, T>(acc, lanes[3], a.add(12 * T));
    }
}

/// Starting values of the accumulators: the offset's share, `-OFFSET * sum(a)`, made with the activations; zero with minima.
#[inline(always)]
unsafe fn start<S: Simd, F: Pack, const T: usize>(starts: *const i32) -> [S::Ints; T] {
    // SAFETY: the caller vouches for `T` words at `starts` where there are no minima, and for the instruction set.
    std::array::from_fn(|t| unsafe { S::splat_int(if F::MIN { 0 } else { *starts.add(t) }) })
}

/// Asks for the unit that lies `PREFETCH` bytes ahead.
#[inline(always)]
unsafe fn prefetch_unit<S: Simd, const T: usize>(unit: *const u8, unit_bytes: usize) {
    if T == 1 {
        return;
    }
    let mut line = 0;
    while line < unit_bytes {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { S::prefetch(unit.wrapping_add(PREFETCH + line)) };
        line += 64;
    }
}

/// Bytes of one 32-value block of a tile's activation stream, per token: quants, start, scale, sum times scale.
pub(crate) const BLOCK_STREAM_BYTES: usize = 32 + 3 * 4;

/// A panel of a 32-value format against `T` tokens.
///
/// # Safety
/// `args` describes valid memory for the format and `T`; the CPU has the instruction set `S`.
#[inline(always)]
pub(crate) unsafe fn block_tile<S: Simd, F: BlockPanel, const T: usize>(args: &TileArgs) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut total: [S::Floats; T] = [S::splat(0.0); T];
        let mut a = args.activations;
        for u in 0..args.num_units {
            let starts = a.add(32 * T).cast::<i32>();
            let scales = starts.add(T).cast::<f32>();
            let sums = scales.add(T);
            let unit = args.panel.add(u * F::UNIT_BYTES);
            prefetch_unit::<S, T>(unit, F::UNIT_BYTES);
            let mut acc = start::<S, F, T>(starts);
            dot_half::<S, F, T>(&mut acc, F::lanes::<S>(unit, 0), a);
            dot_half::<S, F, T>(&mut acc, F::lanes::<S>(unit, 1), a.add(16 * T));
            let scale = F::scale::<S>(unit);
            for t in 0..T {
                let scale = S::mul(scale, S::splat(*scales.add(t)));
                total[t] = S::fma(S::to_floats(acc[t]), scale, total[t]);
            }
            if F::MIN {
                let min = F::min::<S>(unit);
                for t in 0..T {
                    total[t] = S::fma(min, S::splat(*sums.add(t)), total[t]);
                }
            }
            a = a.add(BLOCK_STREAM_BYTES * T);
        }
        store::<S, T>(args, &total);
    }
}

/// Bytes of one 256-value block of a tile's activation stream, per token.
pub(crate) const fn super_stream_bytes(sub: usize, min: bool) -> usize {
    256 + if min { 256 / sub / 2 * 4 } else { 256 / sub * 4 } + 4
}

/// A panel of a 256-value format against `T` tokens.
///
/// # Safety
/// `args` describes valid memory for the format and `T`; the CPU has the instruction set `S`.
#[inline(always)]
pub(crate) unsafe fn super_tile<S: Simd, F: SuperPanel, const T: usize>(args: &TileArgs) {
    // SAFETY: the caller's promise.
    unsafe {
        let num_subs = 256 / F::SUB;
        // Totals live in the output: registers are for the sub-blocks.
        store::<S, T>(args, &[S::splat(0.0); T]);
        let mut a = args.activations;
        for u in 0..args.num_units {
            // Starts of the sub-blocks, or (with minima) pairs of their sums; then the scales.
            let words = a.add(256 * T);
            let scales = a.add((super_stream_bytes(F::SUB, F::MIN) - 4) * T).cast::<f32>();
            let unit = args.panel.add(u * F::UNIT_BYTES);
            let mut block: [S::Floats; T] = [S::splat(0.0); T];
            for sub in 0..8 {
                let part = F::UNIT_BYTES.div_ceil(8 * 64) * 64;
                prefetch_unit::<S, T>(unit.wrapping_add(sub * part), part);
                if F::SUB == 32 {
                    sub_block::<S, F, T, 32>(unit, a, words, sub, 0, &mut block);
                } else {
                    sub_block::<S, F, T, 16>(unit, a, words, sub, 0, &mut block);
                    sub_block::<S, F, T, 16>(unit, a, words, sub, 1, &mut block);
                }
            }
            let d = F::d::<S>(unit);
            let totals = args.out;
            for t in 0..T {
                let total = totals.add(t * PANEL_ROWS);
                S::store(total, S::fma(block[t], S::mul(d, S::splat(*scales.add(t))), S::load(total)));
            }
            if F::MIN {
                let mut sums: [S::Ints; T] = [S::splat_int(0); T];
                for pair in 0..num_subs / 2 {
                    dot_pairs::<S, T>(&mut sums, F::min_pair::<S>(unit, pair), words.add(4 * T * pair));
                }
                let dmin = F::dmin::<S>(unit);
                for t in 0..T {
                    let scale = S::mul(dmin, S::splat(-*scales.add(t)));
                    let total = totals.add(t * PANEL_ROWS);
                    S::store(total, S::fma(S::to_floats(sums[t]), scale, S::load(total)));
                }
            }
            a = a.add(super_stream_bytes(F::SUB, F::MIN) * T);
        }
    }
}

/// One sub-block of `SUB` columns: its dot product (exact in f32: at most 32 * 255 * 127 < 2^24), times
/// its integer scale, added to the block's sum.
#[inline(always)]
unsafe fn sub_block<S: Simd, F: SuperPanel, const T: usize, const SUB: usize>(
    unit: *const u8,
    a: *const u8,
    starts: *const u8,
    sub: usize,
    half: usize,
    block: &mut [S::Floats; T],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let index = sub * (32 / SUB) + half;
        let starts = starts.cast::<i32>().add(if F::MIN { 0 } else { index * T });
        let mut acc = start::<S, F, T>(starts);
        let a = a.add(32 * T * sub + 16 * T * half);
        dot_half::<S, F, T>(&mut acc, F::lanes::<S>(unit, sub, half), a);
        if SUB == 32 {
            dot_half::<S, F, T>(&mut acc, F::lanes::<S>(unit, sub, 1), a.add(16 * T));
        }
        let scale = F::scale::<S>(unit, index);
        for t in 0..T {
            block[t] = S::fma(S::to_floats(acc[t]), scale, block[t]);
        }
    }
}

/// Adds minima times sums of one pair of sub-blocks.
#[inline(always)]
unsafe fn dot_pairs<S: Simd, const T: usize>(acc: &mut [S::Ints; T], minima: S::Ints, sums: *const u8) {
    each_token!(T, TOKEN, {
        // SAFETY: `TOKEN < T`, the caller vouches for `4 T` bytes at `sums` and for the instruction set.
        unsafe {
            let acc = acc.get_unchecked_mut(TOKEN);
            *acc = S::dot_i16::<{ 4 * TOKEN }>(*acc, minima, sums);
        }
    });
}

/// Columns summed before they join the total of a float product: keeps the rounding error of long rows small.
const FLOAT_RUN: usize = 128;

/// A panel of a float format against `T` tokens; activations are `[column][token]` floats.
///
/// # Safety
/// `args` describes valid memory for the format and `T`; the CPU has the instruction set `S`.
#[inline(always)]
pub(crate) unsafe fn float_tile<S: Simd, F: FloatPanel, const T: usize>(args: &TileArgs) {
    // SAFETY: the caller's promise.
    unsafe {
        let column_bytes = F::ELEMENT_BYTES * PANEL_ROWS;
        let mut total: [S::Floats; T] = [S::splat(0.0); T];
        let mut from = 0;
        while from < args.num_units {
            let to = (from + FLOAT_RUN).min(args.num_units);
            let mut run: [S::Floats; T] = [S::splat(0.0); T];
            for k in from..to {
                let a = args.activations.cast::<f32>().add(k * T);
                let column = args.panel.add(k * column_bytes);
                prefetch_unit::<S, T>(column, column_bytes);
                let w = F::column::<S>(column);
                for t in 0..T {
                    run[t] = S::fma(w, S::splat(*a.add(t)), run[t]);
                }
            }
            for t in 0..T {
                total[t] = S::add(total[t], run[t]);
            }
            from = to;
        }
        store::<S, T>(args, &total);
    }
}

#[inline(always)]
unsafe fn store<S: Simd, const T: usize>(args: &TileArgs, total: &[S::Floats; T]) {
    // SAFETY: the caller vouches for the output and for the instruction set.
    unsafe {
        for (t, row) in total.iter().enumerate() {
            S::store(args.out.add(t * PANEL_ROWS), *row);
        }
    }
}
