//! Loops that run at the machine's limits, for `machine` to time: reading memory, 8-bit dot products, and fused
//! multiply-adds. Their results mean nothing.

use std::hint::black_box;

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::{Avx2Fma, Avx512Vnni};

/// Reads all of `bytes` (up to the last part of 512), front to back, by the widest loads of `isa`.
pub(crate) fn read(isa: Isa, bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if let (Isa::Avx512, Some(_)) = (isa, Avx512Vnni::detect()) {
        // SAFETY: the token proves the features.
        return unsafe { x86::read_512(bytes) };
    } else if let (Isa::Avx512 | Isa::Avx2, Some(_)) = (isa, Avx2Fma::detect()) {
        // SAFETY: the token proves the features.
        return unsafe { x86::read_256(bytes) };
    }
    let _ = isa;
    // Eight sums, so that additions do not wait for each other.
    let mut sums = [0u64; 8];
    for line in bytes.as_chunks::<64>().0 {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    black_box(sums);
}

/// Runs the widest 8-bit dot product of `isa` some hundred thousand times in registers; returns how many operations that
/// was (a multiply and an add each count one).
pub(crate) fn integer(isa: Isa) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if let (Isa::Avx512, Some(_)) = (isa, Avx512Vnni::detect()) {
        // SAFETY: the token proves the features.
        return unsafe { x86::dot_512() };
    } else if let (Isa::Avx512 | Isa::Avx2, Some(avx2)) = (isa, Avx2Fma::detect()) {
        if avx2.has_avx_vnni() {
            // SAFETY: the token proves AVX-VNNI as well.
            return unsafe { x86::dot_256_vnni() };
        }
        // SAFETY: the token proves the features.
        return unsafe { x86::dot_256() };
    }
    let _ = isa;
    // Arrays of 4 kB stay in the first-level cache; the compiler makes of the loop what the target allows.
    let (a, b) = (black_box([3u8; 4096]), black_box([-5i8; 4096]));
    for _ in 0..200 {
        let (a, b) = (black_box(&a), black_box(&b));
        black_box(a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum::<i32>());
    }
    200.0 * 4096.0 * 2.0
}

/// Runs the widest `f32` multiply-add of `isa` in registers, as [`integer`].
pub(crate) fn float(isa: Isa) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if let (Isa::Avx512, Some(_)) = (isa, Avx512Vnni::detect()) {
        // SAFETY: the token proves the features.
        return unsafe { x86::fma_512() };
    } else if let (Isa::Avx512 | Isa::Avx2, Some(_)) = (isa, Avx2Fma::detect()) {
        // SAFETY: the token proves the features.
        return unsafe { x86::fma_256() };
    }
    let _ = isa;
    let (a, b) = (black_box([0.999f32; 32]), black_box([0.001f32; 32]));
    let mut sums = [1f32; 32];
    for _ in 0..20_000 {
        for ((sum, a), b) in sums.iter_mut().zip(&a).zip(&b) {
            *sum = *sum * a + b;
        }
    }
    black_box(sums);
    20_000.0 * 32.0 * 2.0
}

/// The chains of each loop: the latency of the slowest such instruction (5) times the ports that take it (2), and two more.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    const CHAINS: usize = 12;
    const ROUNDS: usize = 20_000;

    /// Operations of all rounds: two for each of `lanes` products.
    fn operations(chains: usize, lanes: usize) -> f64 {
        (ROUNDS * chains * lanes * 2) as f64
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn read_512(bytes: &[u8]) {
        let mut sums = [_mm512_setzero_si512(); 8];
        for lines in bytes.as_chunks::<512>().0 {
            for (sum, line) in sums.iter_mut().zip(lines.as_chunks::<64>().0) {
                // SAFETY: `line` is 64 readable bytes, and the load needs no alignment.
                *sum = _mm512_xor_si512(*sum, unsafe { _mm512_loadu_si512(line.as_ptr().cast()) });
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn read_256(bytes: &[u8]) {
        let mut sums = [_mm256_setzero_si256(); 8];
        for lines in bytes.as_chunks::<256>().0 {
            for (sum, half) in sums.iter_mut().zip(lines.as_chunks::<32>().0) {
                // SAFETY: `half` is 32 readable bytes, and the load needs no alignment.
                *sum = _mm256_xor_si256(*sum, unsafe { _mm256_loadu_si256(half.as_ptr().cast()) });
            }
        }
        black_box(sums);
    }

    // The dot products are `asm!`, because the compiler would take those of constant operands out of the loop.

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn dot_512() -> f64 {
        let (a, b) = (_mm512_set1_epi8(3), _mm512_set1_epi8(-5));
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                // SAFETY: register arithmetic; the function enables the instruction.
                unsafe {
                    asm!("vpdpbusd {sum}, {a}, {b}", sum = inout(zmm_reg) *sum, a = in(zmm_reg) a, b = in(zmm_reg) b,
                         options(nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(sums);
        operations(CHAINS, 64)
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn dot_256_vnni() -> f64 {
        let (a, b) = (_mm256_set1_epi8(3), _mm256_set1_epi8(-5));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                // SAFETY: register arithmetic; the function enables the instruction.
                unsafe {
                    asm!("{{vex}} vpdpbusd {sum}, {a}, {b}", sum = inout(ymm_reg) *sum, a = in(ymm_reg) a, b = in(ymm_reg) b,
                         options(nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(sums);
        operations(CHAINS, 32)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn dot_256() -> f64 {
        // Only the addition is a chain, of latency 1; the other registers hold the products on their way.
        const CHAINS: usize = 8;
        let (a, b, ones) = (_mm256_set1_epi8(3), _mm256_set1_epi8(-5), _mm256_set1_epi16(1));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                // SAFETY: register arithmetic; the function enables the instructions.
                unsafe {
                    asm!("vpmaddubsw {t}, {a}, {b}", "vpmaddwd {t}, {t}, {ones}", "vpaddd {sum}, {sum}, {t}",
                         sum = inout(ymm_reg) *sum, a = in(ymm_reg) a, b = in(ymm_reg) b, ones = in(ymm_reg) ones,
                         t = out(ymm_reg) _, options(nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(sums);
        operations(CHAINS, 32)
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn fma_512() -> f64 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        operations(CHAINS, 16)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fma_256() -> f64 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut sums = [_mm256_setzero_ps(); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        operations(CHAINS, 8)
    }
}
