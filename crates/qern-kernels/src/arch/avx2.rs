//! `Simd` on AVX2 with FMA and F16C: two registers a vector. With `VNNI`, dot products are AVX-VNNI's.

use crate::simd::{Kernel, Simd};
use std::arch::asm;
use std::arch::x86_64::*;

/// AVX2 with FMA and F16C; with AVX-VNNI too where `VNNI`.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>;

/// Lanes 0..8 and 8..16.
type Pair<T> = [T; 2];

macro_rules! ops {
    ($(fn $name:ident $(<const $n:ident: $nt:ty>)? ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {$(
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name $(<const $n: $nt>)? ($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the trait's contract: the CPU has the instruction set and the pointers are valid.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    )*};
}

macro_rules! both {
    ($f:path, $a:expr) => {
        [$f($a[0]), $f($a[1])]
    };
    ($f:path, $a:expr, $b:expr) => {
        [$f($a[0], $b[0]), $f($a[1], $b[1])]
    };
}

/// One AVX-VNNI instruction, in its VEX encoding (the processors that need it have no AVX-512).
macro_rules! vnni {
    ($instruction:literal, $acc:expr, $w:expr, $a:expr) => {{
        let mut acc = $acc;
        asm!(
            concat!("{{vex}} ", $instruction, " {acc}, {w}, {a}"),
            acc = inout(ymm_reg) acc, w = in(ymm_reg) $w, a = in(ymm_reg) $a,
            options(pure, nomem, nostack, preserves_flags)
        );
        acc
    }};
}

/// The word at `p + offset` in all lanes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn broadcast(p: *const u8, offset: usize) -> __m256i {
    // SAFETY: the caller's promise: four bytes are readable there.
    _mm256_set1_epi32(unsafe { p.add(offset).cast::<i32>().read_unaligned() })
}

// SAFETY: every method is compiled with the instruction set that the trait's contract promises.
unsafe impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type Floats = Pair<__m256>;
    type Ints = Pair<__m256i>;
    type Bytes = Pair<__m256i>;
    const NUM_REGISTERS: usize = 8;
    const WIDE_IS_SIGNED: bool = !VNNI;

    #[inline(never)]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn call<K: Kernel>(kernel: K) {
        // SAFETY: the caller's promise; this function enables the instruction set.
        unsafe { kernel.run::<Self>() }
    }

    ops! {
        fn splat(x: f32) -> Pair<__m256> { [_mm256_set1_ps(x); 2] }
        fn load(p: *const f32) -> Pair<__m256> { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
        fn store(p: *mut f32, v: Pair<__m256>) { _mm256_storeu_ps(p, v[0]); _mm256_storeu_ps(p.add(8), v[1]); }
        fn load_f16(p: *const u16) -> Pair<__m256> {
            [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))]
        }
        fn store_f16(p: *mut u16, v: Pair<__m256>) {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]));
        }
        fn load_bf16(p: *const u16) -> Pair<__m256> {
            let wide = [_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())), _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(8).cast()))];
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide[0])), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide[1]))]
        }
        fn load_i8(p: *const i8) -> Pair<__m256> { both!(_mm256_cvtepi32_ps, Self::load_i8_ints(p)) }
        fn add(a: Pair<__m256>, b: Pair<__m256>) -> Pair<__m256> { both!(_mm256_add_ps, a, b) }
        fn sub(a: Pair<__m256>, b: Pair<__m256>) -> Pair<__m256> { both!(_mm256_sub_ps, a, b) }
        fn mul(a: Pair<__m256>, b: Pair<__m256>) -> Pair<__m256> { both!(_mm256_mul_ps, a, b) }
        fn div(a: Pair<__m256>, b: Pair<__m256>) -> Pair<__m256> { both!(_mm256_div_ps, a, b) }
        fn fma(a: Pair<__m256>, b: Pair<__m256>, c: Pair<__m256>) -> Pair<__m256> {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        fn max(a: Pair<__m256>, b: Pair<__m256>) -> Pair<__m256> { both!(_mm256_max_ps, a, b) }
        fn min(a: Pair<__m256>, b: Pair<__m256>) -> Pair<__m256> { both!(_mm256_min_ps, a, b) }
        fn abs(a: Pair<__m256>) -> Pair<__m256> {
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
        }
        fn keep_first(v: Pair<__m256>, n: usize, fill: Pair<__m256>) -> Pair<__m256> {
            let n = _mm256_set1_epi32(n.min(16) as i32);
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let lo = _mm256_castsi256_ps(_mm256_cmpgt_epi32(n, lanes));
            let hi = _mm256_castsi256_ps(_mm256_cmpgt_epi32(n, _mm256_add_epi32(lanes, _mm256_set1_epi32(8))));
            [_mm256_blendv_ps(fill[0], v[0], lo), _mm256_blendv_ps(fill[1], v[1], hi)]
        }
        fn sum_lanes(v: Pair<__m256>) -> f32 {
            let v = _mm256_add_ps(v[0], v[1]);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
        fn max_lanes(v: Pair<__m256>) -> f32 {
            let v = _mm256_max_ps(v[0], v[1]);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
        fn swap_pairs(v: Pair<__m256>) -> Pair<__m256> {
            [_mm256_permute_ps::<0b10_11_00_01>(v[0]), _mm256_permute_ps::<0b10_11_00_01>(v[1])]
        }
        fn pow2(n: Pair<__m256i>) -> Pair<__m256> {
            let bias = _mm256_set1_epi32(127);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n[0], bias))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n[1], bias))),
            ]
        }
        fn to_floats(v: Pair<__m256i>) -> Pair<__m256> { both!(_mm256_cvtepi32_ps, v) }
        fn to_ints(v: Pair<__m256>) -> Pair<__m256i> { both!(_mm256_cvtps_epi32, v) }
        fn store_low_bytes(p: *mut i8, v: Pair<__m256i>) {
            let mut lanes = [0i32; 16];
            Self::store_ints(lanes.as_mut_ptr(), v);
            for (i, lane) in lanes.into_iter().enumerate() {
                p.add(i).write(lane as i8);
            }
        }
        fn splat_int(x: i32) -> Pair<__m256i> { [_mm256_set1_epi32(x); 2] }
        fn load_ints(p: *const i32) -> Pair<__m256i> { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())] }
        fn store_ints(p: *mut i32, v: Pair<__m256i>) {
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(8).cast(), v[1]);
        }
        fn load_u8_ints(p: *const u8) -> Pair<__m256i> {
            [_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())), _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8).cast()))]
        }
        fn load_i8_ints(p: *const i8) -> Pair<__m256i> {
            [_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())), _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast()))]
        }
        fn sub_ints(a: Pair<__m256i>, b: Pair<__m256i>) -> Pair<__m256i> { both!(_mm256_sub_epi32, a, b) }
        fn and_ints(a: Pair<__m256i>, b: Pair<__m256i>) -> Pair<__m256i> { both!(_mm256_and_si256, a, b) }
        fn or_ints(a: Pair<__m256i>, b: Pair<__m256i>) -> Pair<__m256i> { both!(_mm256_or_si256, a, b) }
        fn shr_ints(a: Pair<__m256i>, n: u32) -> Pair<__m256i> {
            let n = _mm256_set1_epi32(n as i32);
            [_mm256_srlv_epi32(a[0], n), _mm256_srlv_epi32(a[1], n)]
        }
        fn shl_ints(a: Pair<__m256i>, n: u32) -> Pair<__m256i> {
            let n = _mm256_set1_epi32(n as i32);
            [_mm256_sllv_epi32(a[0], n), _mm256_sllv_epi32(a[1], n)]
        }
        fn dot_i16<const OFFSET: usize>(acc: Pair<__m256i>, w: Pair<__m256i>, a: *const u8) -> Pair<__m256i> {
            let a = broadcast(a, OFFSET);
            if VNNI {
                return [vnni!("vpdpwssd", acc[0], w[0], a), vnni!("vpdpwssd", acc[1], w[1], a)];
            }
            [_mm256_add_epi32(acc[0], _mm256_madd_epi16(w[0], a)), _mm256_add_epi32(acc[1], _mm256_madd_epi16(w[1], a))]
        }
        fn load_bytes(p: *const u8) -> Pair<__m256i> { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
        fn store_bytes(p: *mut u8, v: Pair<__m256i>) {
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(32).cast(), v[1]);
        }
        fn splat_byte(x: u8) -> Pair<__m256i> { [_mm256_set1_epi8(x as i8); 2] }
        fn and(a: Pair<__m256i>, b: Pair<__m256i>) -> Pair<__m256i> { both!(_mm256_and_si256, a, b) }
        fn or(a: Pair<__m256i>, b: Pair<__m256i>) -> Pair<__m256i> { both!(_mm256_or_si256, a, b) }
        fn shr(a: Pair<__m256i>, n: u32) -> Pair<__m256i> { Self::shr_ints(a, n) }
        fn shl(a: Pair<__m256i>, n: u32) -> Pair<__m256i> { Self::shl_ints(a, n) }
        fn lookup(table: &[u8; 16], index: Pair<__m256i>) -> Pair<__m256i> {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [_mm256_shuffle_epi8(table, index[0]), _mm256_shuffle_epi8(table, index[1])]
        }
        // Pairs of products stay below 2 * 63 * 127 < 2^15, so the 16-bit sums of `maddubs` do not saturate.
        fn dot<const OFFSET: usize>(acc: Pair<__m256i>, w: Pair<__m256i>, a: *const u8) -> Pair<__m256i> {
            let a = broadcast(a, OFFSET);
            if VNNI {
                return [vnni!("vpdpbusd", acc[0], w[0], a), vnni!("vpdpbusd", acc[1], w[1], a)];
            }
            let ones = _mm256_set1_epi16(1);
            [
                _mm256_add_epi32(acc[0], _mm256_madd_epi16(_mm256_maddubs_epi16(w[0], a), ones)),
                _mm256_add_epi32(acc[1], _mm256_madd_epi16(_mm256_maddubs_epi16(w[1], a), ones)),
            ]
        }
        // |w - 128| <= 128 and |a| <= 127: pairs stay below 2 * 128 * 127 < 2^15.
        fn dot_wide<const OFFSET: usize>(acc: Pair<__m256i>, w: Pair<__m256i>, a: *const u8) -> Pair<__m256i> {
            if VNNI {
                return Self::dot::<OFFSET>(acc, w, a);
            }
            let a = broadcast(a, OFFSET);
            let (ones, flip) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
            let signed = [_mm256_xor_si256(w[0], flip), _mm256_xor_si256(w[1], flip)];
            let products = [
                _mm256_maddubs_epi16(_mm256_abs_epi8(signed[0]), _mm256_sign_epi8(a, signed[0])),
                _mm256_maddubs_epi16(_mm256_abs_epi8(signed[1]), _mm256_sign_epi8(a, signed[1])),
            ];
            [
                _mm256_add_epi32(acc[0], _mm256_madd_epi16(products[0], ones)),
                _mm256_add_epi32(acc[1], _mm256_madd_epi16(products[1], ones)),
            ]
        }
        fn prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
