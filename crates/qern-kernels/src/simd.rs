//! The vector operations that kernels are written in, once, for every instruction set: sixteen lanes of f32 or i32, and
//! sixty-four bytes seen as sixteen lanes of four. Not here: what the operations are used for.
//!
//! Every implementation rounds alike (fused multiply-add, round to nearest even), so a kernel that uses only these
//! operations gives the same bits on every instruction set. `Scalar` is the oracle of the others' tests.

/// Sixteen-lane vector operations of one instruction set.
///
/// # Safety
/// Every method requires that the CPU has the instruction set of the implementation, and that pointers are valid for
/// the bytes named. Methods are meant to be inlined into a function that enables the instruction set.
#[allow(clippy::missing_safety_doc, missing_docs)]
pub(crate) unsafe trait Simd: Copy + 'static {
    /// 16 x f32.
    type Floats: Copy;
    /// 16 x i32.
    type Ints: Copy;
    /// 64 x u8: lane `i` holds bytes `4 i .. 4 i + 4`.
    type Bytes: Copy;

    /// Vectors that fit the registers of the instruction set; 0 where there are none.
    const NUM_REGISTERS: usize;
    /// Whether `dot_wide` reads its weights as signed (`w - 128`), as an instruction set without a saturation-free
    /// unsigned dot product must. Where false, the kernel starts its accumulator at `-128 * sum(a)` instead.
    const WIDE_IS_SIGNED: bool;

    // Floats.
    unsafe fn splat(x: f32) -> Self::Floats;
    /// Reads 64 bytes.
    unsafe fn load(p: *const f32) -> Self::Floats;
    /// Writes 64 bytes.
    unsafe fn store(p: *mut f32, v: Self::Floats);
    /// Reads 16 IEEE half floats (32 bytes).
    unsafe fn load_f16(p: *const u16) -> Self::Floats;
    /// Writes 16 IEEE half floats, rounded to nearest even (32 bytes).
    unsafe fn store_f16(p: *mut u16, v: Self::Floats);
    /// Reads 16 bfloat16 (32 bytes).
    unsafe fn load_bf16(p: *const u16) -> Self::Floats;
    /// Reads 16 signed bytes as floats (16 bytes).
    unsafe fn load_i8(p: *const i8) -> Self::Floats;
    unsafe fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    unsafe fn sub(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    unsafe fn div(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The larger of each pair; the second operand where one is NaN (as the x86 instruction does).
    unsafe fn max(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    unsafe fn min(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    unsafe fn abs(a: Self::Floats) -> Self::Floats;
    /// `v` in lanes below `n`, `fill` in the others.
    unsafe fn keep_first(v: Self::Floats, n: usize, fill: Self::Floats) -> Self::Floats;
    /// Sum of all lanes, as a tree: halves added until one is left (lanes i and i + 8, then i and i + 4, ...).
    unsafe fn sum_lanes(v: Self::Floats) -> f32;
    unsafe fn max_lanes(v: Self::Floats) -> f32;
    /// Lanes 2i and 2i + 1 exchanged.
    unsafe fn swap_pairs(v: Self::Floats) -> Self::Floats;
    /// `2^n` for each lane, `n` in -126..=127; 0 for -127.
    unsafe fn pow2(n: Self::Ints) -> Self::Floats;

    // Conversions.
    unsafe fn to_floats(v: Self::Ints) -> Self::Floats;
    /// Nearest integer, ties to even.
    unsafe fn to_ints(v: Self::Floats) -> Self::Ints;
    /// Writes the low byte of each lane (16 bytes).
    unsafe fn store_low_bytes(p: *mut i8, v: Self::Ints);

    // Integers.
    unsafe fn splat_int(x: i32) -> Self::Ints;
    /// Reads 64 bytes.
    unsafe fn load_ints(p: *const i32) -> Self::Ints;
    unsafe fn store_ints(p: *mut i32, v: Self::Ints);
    /// Reads 16 unsigned bytes, one a lane (16 bytes).
    unsafe fn load_u8_ints(p: *const u8) -> Self::Ints;
    /// Reads 16 signed bytes, one a lane (16 bytes).
    unsafe fn load_i8_ints(p: *const i8) -> Self::Ints;
    unsafe fn sub_ints(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    unsafe fn and_ints(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    unsafe fn or_ints(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Logical shift of each lane.
    unsafe fn shr_ints(a: Self::Ints, n: u32) -> Self::Ints;
    unsafe fn shl_ints(a: Self::Ints, n: u32) -> Self::Ints;
    /// Per lane: `acc + w.lo16 * a.lo16 + w.hi16 * a.hi16` (signed), `a` one word for all lanes read at byte `OFFSET`.
    unsafe fn dot_i16<const OFFSET: usize>(acc: Self::Ints, w: Self::Ints, a: *const u8) -> Self::Ints;

    // Bytes.
    /// Reads 64 bytes.
    unsafe fn load_bytes(p: *const u8) -> Self::Bytes;
    unsafe fn store_bytes(p: *mut u8, v: Self::Bytes);
    unsafe fn splat_byte(x: u8) -> Self::Bytes;
    unsafe fn and(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Logical shift of each 32-bit lane (bits cross bytes: mask afterwards).
    unsafe fn shr(a: Self::Bytes, n: u32) -> Self::Bytes;
    unsafe fn shl(a: Self::Bytes, n: u32) -> Self::Bytes;
    /// Each byte (0..16) replaced by that entry of a 16-byte table.
    unsafe fn lookup(table: &[u8; 16], index: Self::Bytes) -> Self::Bytes;
    /// Per lane: `acc + sum over 4 bytes of w (unsigned) * a (signed)`; `a` is one word for all lanes, read at byte
    /// `OFFSET`. Weights below 64 (no implementation saturates).
    unsafe fn dot<const OFFSET: usize>(acc: Self::Ints, w: Self::Bytes, a: *const u8) -> Self::Ints;
    /// The same for weights of the whole byte range; see `WIDE_IS_SIGNED`. Activations are in -127..=127.
    unsafe fn dot_wide<const OFFSET: usize>(acc: Self::Ints, w: Self::Bytes, a: *const u8) -> Self::Ints;

    /// Asks for the cache line at `p` (any address).
    unsafe fn prefetch(p: *const u8);

    /// Runs a kernel in a function of its own that enables the instruction set. Where one job uses many small kernels, this keeps
    /// them from being inlined into a single function that takes minutes to compile.
    unsafe fn call<K: Kernel>(kernel: K);

    /// Reads `n` floats (at most 16); the other lanes are 0. For the tails of rows: slower than `load`.
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self::Floats {
        let mut lanes = [0.0f32; 16];
        // SAFETY: the caller's promise for `p`; `lanes` holds 16 floats.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n.min(16));
            Self::load(lanes.as_ptr())
        }
    }

    /// Writes the first `n` lanes (at most 16). For the tails of rows: slower than `store`.
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: Self::Floats, n: usize) {
        let mut lanes = [0.0f32; 16];
        // SAFETY: as in `load_first`.
        unsafe {
            Self::store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n.min(16));
        }
    }
}

/// A kernel as a value: its arguments, and its body for any instruction set. See [`Simd::call`].
pub(crate) trait Kernel {
    /// # Safety
    /// The contract of [`Simd`], and the kernel's own. Implementations are `#[inline(always)]`.
    unsafe fn run<S: Simd>(self);
}

/// Runs a kernel body under the active instruction set. `$body` is a generic `#[inline(always)] unsafe fn` with the
/// `Simd` type as its first parameter; the call is compiled once per instruction set.
///
/// `dispatch!(isa, body::<S, (other), (generics)>(args))` is spelt `dispatch!(isa, body [generics] (args))`.
macro_rules! dispatch {
    ($isa:expr, $body:ident [$($generic:tt)*] ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)?) => {{
        match $isa {
            $crate::isa::Isa::Scalar => {
                // SAFETY: the scalar operations need no instruction set; the caller vouches for the pointers.
                unsafe { $body::<$crate::arch::scalar::Scalar, $($generic)*>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Isa::Avx2 => {
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: this function enables the instruction set; the caller vouches for the pointers.
                    unsafe { $body::<$crate::arch::avx2::Avx2<false>, $($generic)*>($($arg),*) }
                }
                // SAFETY: `Isa::Avx2` is only made where the CPU has AVX2, FMA and F16C.
                unsafe { avx2($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Isa::Avx512 => {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
                unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: this function enables the instruction set; the caller vouches for the pointers.
                    unsafe { $body::<$crate::arch::avx512::Avx512, $($generic)*>($($arg),*) }
                }
                // SAFETY: `Isa::Avx512` is only made where the CPU has AVX-512 F, BW, VL, DQ and VNNI.
                unsafe { avx512($($arg),*) }
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("vector instruction sets are only detected on x86-64"),
        }
    }};
}
pub(crate) use dispatch;
