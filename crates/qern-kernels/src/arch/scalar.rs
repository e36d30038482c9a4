//! `Simd` in plain Rust: what the operations mean, and the fallback on machines without a vector implementation.

use crate::simd::{Kernel, Simd};
use half::{bf16, f16};
use std::array::from_fn;

/// The instruction set that every machine has.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type F = [f32; 16];
type I = [i32; 16];
type B = [u8; 64];

#[inline(always)]
fn zip<A: Copy, R>(a: [A; 16], b: [A; 16], f: impl Fn(A, A) -> R) -> [R; 16] {
    from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn words(b: B, f: impl Fn(u32) -> u32) -> B {
    let mut out = [0; 64];
    for i in 0..16 {
        let w = u32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]]);
        out[4 * i..4 * i + 4].copy_from_slice(&f(w).to_le_bytes());
    }
    out
}

/// Halves combined until one lane is left.
#[inline(always)]
fn tree(mut v: F, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut n = 8;
    while n > 0 {
        for i in 0..n {
            v[i] = f(v[i], v[i + n]);
        }
        n /= 2;
    }
    v[0]
}

#[inline(always)]
fn max_x86(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn min_x86(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

// SAFETY: no instruction set is needed; pointers are the caller's promise.
unsafe impl Simd for Scalar {
    type Floats = F;
    type Ints = I;
    type Bytes = B;
    const NUM_REGISTERS: usize = 0;
    const WIDE_IS_SIGNED: bool = false;

    #[inline(never)]
    unsafe fn call<K: Kernel>(kernel: K) {
        // SAFETY: the caller's promise; this function enables the instruction set.
        unsafe { kernel.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        // SAFETY: the caller's promise.
        let bits = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        bits.map(|b| f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: F) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u16; 16]>().write_unaligned(v.map(|x| f16::from_f32(x).to_bits())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        // SAFETY: the caller's promise.
        let bits = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        bits.map(|b| bf16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> F {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[i8; 16]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        zip(a, b, max_x86)
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        zip(a, b, min_x86)
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn keep_first(v: F, n: usize, fill: F) -> F {
        from_fn(|i| if i < n { v[i] } else { fill[i] })
    }
    #[inline(always)]
    unsafe fn sum_lanes(v: F) -> f32 {
        tree(v, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn max_lanes(v: F) -> f32 {
        tree(v, max_x86)
    }
    #[inline(always)]
    unsafe fn swap_pairs(v: F) -> F {
        from_fn(|i| v[i ^ 1])
    }
    #[inline(always)]
    unsafe fn pow2(n: I) -> F {
        n.map(|n| f32::from_bits((n.wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn to_floats(v: I) -> F {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn to_ints(v: F) -> I {
        v.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn store_low_bytes(p: *mut i8, v: I) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[i8; 16]>().write_unaligned(v.map(|x| x as i8)) }
    }
    #[inline(always)]
    unsafe fn splat_int(x: i32) -> I {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load_ints(p: *const i32) -> I {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<I>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_ints(p: *mut i32, v: I) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<I>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_u8_ints(p: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u8; 16]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn load_i8_ints(p: *const i8) -> I {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[i8; 16]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn sub_ints(a: I, b: I) -> I {
        zip(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    unsafe fn and_ints(a: I, b: I) -> I {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    unsafe fn or_ints(a: I, b: I) -> I {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    unsafe fn shr_ints(a: I, n: u32) -> I {
        a.map(|a| ((a as u32) >> n) as i32)
    }
    #[inline(always)]
    unsafe fn shl_ints(a: I, n: u32) -> I {
        a.map(|a| a << n)
    }
    #[inline(always)]
    unsafe fn dot_i16<const OFFSET: usize>(acc: I, w: I, a: *const u8) -> I {
        // SAFETY: the caller's promise.
        let [lo, hi] = unsafe { a.add(OFFSET).cast::<[i16; 2]>().read_unaligned() };
        from_fn(|i| acc[i] + i32::from(w[i] as i16) * i32::from(lo) + (w[i] >> 16) * i32::from(hi))
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> B {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<B>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: B) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<B>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat_byte(x: u8) -> B {
        [x; 64]
    }
    #[inline(always)]
    unsafe fn and(a: B, b: B) -> B {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn or(a: B, b: B) -> B {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn shr(a: B, n: u32) -> B {
        words(a, |w| w >> n)
    }
    #[inline(always)]
    unsafe fn shl(a: B, n: u32) -> B {
        words(a, |w| w << n)
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], index: B) -> B {
        index.map(|i| table[usize::from(i & 15)])
    }
    #[inline(always)]
    unsafe fn dot<const OFFSET: usize>(acc: I, w: B, a: *const u8) -> I {
        // SAFETY: the caller's promise.
        let a = unsafe { a.add(OFFSET).cast::<[i8; 4]>().read_unaligned() };
        from_fn(|i| acc[i] + (0..4).map(|b| i32::from(w[4 * i + b]) * i32::from(a[b])).sum::<i32>())
    }
    #[inline(always)]
    unsafe fn dot_wide<const OFFSET: usize>(acc: I, w: B, a: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe { Self::dot::<OFFSET>(acc, w, a) }
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
