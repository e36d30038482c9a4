//! `Simd` on AVX-512 (F, BW, VL, DQ) with VNNI: one register a vector.
//!
//! The dot products are `asm!` so that their order is kept: left to itself, LLVM re-orders an unrolled tile into long
//! dependent chains.

use crate::simd::{Kernel, Simd};
use std::arch::asm;
use std::arch::x86_64::*;

/// AVX-512 with VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// One VNNI instruction with `a + OFFSET` broadcast from memory.
macro_rules! vnni {
    ($instruction:literal, $acc:expr, $w:expr, $a:expr, $offset:ident) => {{
        let mut acc = $acc;
        asm!(
            concat!($instruction, " {acc}, {w}, dword ptr [{a} + {offset}]{{1to16}}"),
            acc = inout(zmm_reg) acc, w = in(zmm_reg) $w, a = in(reg) $a, offset = const $offset,
            options(nostack, preserves_flags, readonly)
        );
        acc
    }};
}

macro_rules! ops {
    ($($(#[$doc:meta])* fn $name:ident $(<const $n:ident: $nt:ty>)? ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        unsafe fn $name $(<const $n: $nt>)? ($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the trait's contract: the CPU has the instruction set and the pointers are valid.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    )*};
}

// SAFETY: every method is compiled with the instruction set that the trait's contract promises.
unsafe impl Simd for Avx512 {
    type Floats = __m512;
    type Ints = __m512i;
    type Bytes = __m512i;
    const NUM_REGISTERS: usize = 32;
    const WIDE_IS_SIGNED: bool = false;

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn call<K: Kernel>(kernel: K) {
        // SAFETY: the caller's promise; this function enables the instruction set.
        unsafe { kernel.run::<Self>() }
    }

    ops! {
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(p: *const f32) -> __m512 { _mm512_loadu_ps(p) }
        fn store(p: *mut f32, v: __m512) { _mm512_storeu_ps(p, v) }
        fn load_f16(p: *const u16) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        fn store_f16(p: *mut u16, v: __m512) { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
        fn load_bf16(p: *const u16) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
        }
        fn load_i8(p: *const i8) -> __m512 { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn abs(a: __m512) -> __m512 { _mm512_abs_ps(a) }
        fn keep_first(v: __m512, n: usize, fill: __m512) -> __m512 {
            let mask = if n >= 16 { u16::MAX } else { (1u16 << n) - 1 };
            _mm512_mask_blend_ps(mask, fill, v)
        }
        fn sum_lanes(v: __m512) -> f32 {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
        fn max_lanes(v: __m512) -> f32 {
            let v = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
        fn swap_pairs(v: __m512) -> __m512 { _mm512_permute_ps::<0b10_11_00_01>(v) }
        fn pow2(n: __m512i) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(n, _mm512_set1_epi32(127))))
        }
        fn to_floats(v: __m512i) -> __m512 { _mm512_cvtepi32_ps(v) }
        fn to_ints(v: __m512) -> __m512i { _mm512_cvtps_epi32(v) }
        fn store_low_bytes(p: *mut i8, v: __m512i) { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v)) }
        fn splat_int(x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn load_ints(p: *const i32) -> __m512i { _mm512_loadu_si512(p.cast()) }
        fn store_ints(p: *mut i32, v: __m512i) { _mm512_storeu_si512(p.cast(), v) }
        fn load_u8_ints(p: *const u8) -> __m512i { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
        fn load_i8_ints(p: *const i8) -> __m512i { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
        fn sub_ints(a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
        fn and_ints(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or_ints(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn shr_ints(a: __m512i, n: u32) -> __m512i { _mm512_srlv_epi32(a, _mm512_set1_epi32(n as i32)) }
        fn shl_ints(a: __m512i, n: u32) -> __m512i { _mm512_sllv_epi32(a, _mm512_set1_epi32(n as i32)) }
        fn load_bytes(p: *const u8) -> __m512i { _mm512_loadu_si512(p.cast()) }
        fn store_bytes(p: *mut u8, v: __m512i) { _mm512_storeu_si512(p.cast(), v) }
        fn splat_byte(x: u8) -> __m512i { _mm512_set1_epi8(x as i8) }
        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn shr(a: __m512i, n: u32) -> __m512i { _mm512_srlv_epi32(a, _mm512_set1_epi32(n as i32)) }
        fn shl(a: __m512i, n: u32) -> __m512i { _mm512_sllv_epi32(a, _mm512_set1_epi32(n as i32)) }
        fn lookup(table: &[u8; 16], index: __m512i) -> __m512i {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, index)
        }
        fn prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        fn dot<const OFFSET: usize>(acc: __m512i, w: __m512i, a: *const u8) -> __m512i {
            vnni!("vpdpbusd", acc, w, a, OFFSET)
        }
        fn dot_wide<const OFFSET: usize>(acc: __m512i, w: __m512i, a: *const u8) -> __m512i {
            Self::dot::<OFFSET>(acc, w, a)
        }
        fn dot_i16<const OFFSET: usize>(acc: __m512i, w: __m512i, a: *const u8) -> __m512i {
            vnni!("vpdpwssd", acc, w, a, OFFSET)
        }
    }
}
