//! The instruction sets that the kernels exist in, and the proof that this machine has one. Decides nothing else: which
//! kernel an instruction set gets is the business of each dispatching function.

use std::sync::OnceLock;

use thiserror::Error;

/// One of the instruction sets that every kernel is written for, from the slowest to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust: the fallback of every machine and the oracle of every test.
    Scalar,
    /// 256-bit integers and floats with fused multiply-add; AVX-VNNI dot products where present. See [`Avx2Fma`].
    Avx2,
    /// 512-bit integers and floats with 8-bit dot products. See [`Avx512Vnni`].
    Avx512,
}

impl Isa {
    /// Every instruction set, from the slowest to the fastest.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// The instruction set in use: the one that `QERN_ISA` names if it can be used, else the best this machine has.
    /// Decided once. A program that wants to refuse a wrong `QERN_ISA` calls [`Isa::from_env`] when it starts.
    pub fn active() -> Self {
        static ACTIVE: OnceLock<Isa> = OnceLock::new();
        *ACTIVE.get_or_init(|| Self::from_env().unwrap_or_else(|_| Self::best()))
    }

    /// The instruction set that `QERN_ISA` (`scalar`, `avx2` or `avx512`) asks for, or the best one when it is unset or
    /// empty. Errors when the value is no such name, or names what this machine lacks.
    pub fn from_env() -> Result<Self, IsaError> {
        match std::env::var_os("QERN_ISA") {
            None => Ok(Self::best()),
            Some(value) => Self::parse(&value.to_string_lossy()),
        }
    }

    /// The instruction sets this machine has, from the slowest to the fastest. Never empty.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this machine has the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Avx2 => Avx2Fma::detect().is_some(),
            Self::Avx512 => Avx512Vnni::detect().is_some(),
        }
    }

    /// Panics on a machine without the instruction set: what every safe function that takes one begins with.
    pub(crate) fn assert_available(self) {
        assert!(self.is_available(), "this machine has no {}", self.name());
    }

    /// The name that `QERN_ISA` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    fn best() -> Self {
        Self::available().pop().unwrap_or(Self::Scalar)
    }

    fn parse(value: &str) -> Result<Self, IsaError> {
        let value = value.trim();
        if value.is_empty() {
            return Ok(Self::best());
        }
        let isa = Self::ALL.into_iter().find(|isa| value.eq_ignore_ascii_case(isa.name()));
        match isa {
            None => Err(IsaError::Unknown { value: value.to_string() }),
            Some(isa) if !isa.is_available() => Err(IsaError::Unavailable { isa, available: Self::available_names() }),
            Some(isa) => Ok(isa),
        }
    }

    fn available_names() -> String {
        Self::available().into_iter().map(Self::name).collect::<Vec<_>>().join(", ")
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::Avx2 if Avx2Fma::detect().is_some_and(Avx2Fma::has_avx_vnni) => "AVX2 with AVX-VNNI",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512 VNNI",
        })
    }
}

/// Why the instruction set that `QERN_ISA` asks for cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IsaError {
    /// No instruction set has that name.
    #[error("`QERN_ISA` must be scalar, avx2 or avx512; given `{value}`; unset it to use the best this machine has")]
    Unknown {
        /// What the variable holds.
        value: String,
    },
    /// This machine lacks it.
    #[error("`QERN_ISA` must name an instruction set of this machine ({available}); given `{}`; unset it to use the best", isa.name())]
    Unavailable {
        /// What the variable asks for.
        isa: Isa,
        /// The names that would do.
        available: String,
    },
}

/// Proof that this machine has AVX-512 F, BW, VL, DQ and VNNI, AVX2, FMA and F16C: a kernel that takes it by value may
/// enable those features.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Vnni(());

impl Avx512Vnni {
    /// The proof, where the machine (and its operating system) has the features. Cheap: the answer is cached.
    #[inline]
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            return Some(Self(()));
        }
        None
    }
}

/// Proof that this machine has AVX2, FMA and F16C: a kernel that takes it by value may enable those features, and AVX-VNNI
/// where [`Avx2Fma::has_avx_vnni`] says so.
#[derive(Clone, Copy, Debug)]
pub struct Avx2Fma {
    has_avx_vnni: bool,
}

impl Avx2Fma {
    /// The proof, where the machine (and its operating system) has the features. Cheap: the answer is cached.
    #[inline]
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            return Some(Self { has_avx_vnni: is_x86_feature_detected!("avxvnni") });
        }
        None
    }

    /// Whether the 8-bit dot products of AVX-VNNI (256-bit `vpdpbusd` without AVX-512) may be used as well.
    #[inline]
    pub fn has_avx_vnni(self) -> bool {
        self.has_avx_vnni
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_is_always_available_and_the_best_comes_last() {
        let available = Isa::available();
        assert_eq!(available.first(), Some(&Isa::Scalar));
        assert_eq!(available.last(), Some(&Isa::best()));
        assert!(available.is_sorted());
        assert!(available.contains(&Isa::active()));
    }

    #[test]
    fn the_variable_names_an_instruction_set() {
        let check = |value: &str, expect: Result<Isa, &str>| {
            assert_eq!(Isa::parse(value).map_err(|e| e.to_string()), expect.map_err(str::to_string), "{value:?}");
        };
        check("scalar", Ok(Isa::Scalar));
        check(" Scalar\n", Ok(Isa::Scalar));
        check("", Ok(Isa::best()));
        let rule = "`QERN_ISA` must be scalar, avx2 or avx512; given `sse9`; unset it to use the best this machine has";
        check("sse9", Err(rule));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            check(isa.name(), Ok(isa));
        }
        for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
            let names = Isa::available_names();
            check(
                isa.name(),
                Err(&format!(
                    "`QERN_ISA` must name an instruction set of this machine ({names}); given `{}`; unset it to use the best",
                    isa.name()
                )),
            );
        }
    }
}
