//! Which compiled tile serves which format, instruction set and number of tokens. The only place where the generic kernels
//! meet concrete instruction sets.

use crate::activation::ActivationKind;
use crate::format::WeightFormat;
use crate::formats::unpacked::{block_unit_bytes, super_unit_bytes, unpack_block, unpack_super};
use crate::formats::{self, BlockPanel, PANEL_ROWS, Pack, SuperPanel, float};
#[cfg(target_arch = "x86_64")]
use crate::isa::Avx2Fma;
use crate::isa::Isa;
use crate::simd::Simd;
use crate::tile::{TileArgs, block_tile, float_tile, super_tile};

/// A compiled tile.
pub(crate) type Tile = unsafe fn(&TileArgs);

/// Writes (a file block, as row, of a unit).
pub(crate) type PackBlock = fn(&[u8], usize, &mut [u8]);

/// Everything about a format that does not depend on the instruction set.
pub(crate) struct Layout {
    /// Bytes of a unit: one file block of each of the panel's rows.
    pub unit_bytes: usize,
    /// Columns of a unit.
    pub unit_len: usize,
    /// What the format multiplies with.
    pub kind: ActivationKind,
    /// Writes a file block as a row of a unit; `None` for float formats.
    pub pack: Option<PackBlock>,
    /// Bytes of an unpacked unit; 0 for float formats.
    pub unpacked_unit_bytes: usize,
}

/// The tiles of one format on one instruction set.
pub(crate) struct Tiles {
    /// By number of tokens less one.
    pub tiles: &'static [Tile],
    /// Unpacks a unit to plain lanes and floats: (unit, out). `None` for float formats.
    pub unpack: Option<unsafe fn(*const u8, *mut u8)>,
    /// `Simd::WIDE_IS_SIGNED`.
    wide_is_signed: bool,
}

/// Tokens of the largest tile of any instruction set.
pub(crate) const MAX_TILE: usize = 12;

/// Tokens of the instruction set's largest tile.
pub(crate) fn max_tile(isa: Isa) -> usize {
    tiles(WeightFormat::Q4_0, isa).tiles.len()
}

/// Whether wide lanes are read as signed, so that accumulators start without their offset.
pub(crate) fn wide_is_signed(isa: Isa) -> bool {
    tiles(WeightFormat::Q8_0, isa).wide_is_signed
}

macro_rules! by_format {
    ($format:expr, $block:ident, $super:ident, $float:ident $(, $arg:expr)*) => {
        match $format {
            WeightFormat::F32 => $float::<float::F32>($($arg),*),
            WeightFormat::F16 => $float::<float::F16>($($arg),*),
            WeightFormat::BF16 => $float::<float::Bf16>($($arg),*),
            WeightFormat::Q8_0 => $block::<formats::Q8_0>($($arg),*),
            WeightFormat::Q4_0 => $block::<formats::Q4_0>($($arg),*),
            WeightFormat::Q4_1 => $block::<formats::Q4_1>($($arg),*),
            WeightFormat::Q5_0 => $block::<formats::Q5_0>($($arg),*),
            WeightFormat::Q5_1 => $block::<formats::Q5_1>($($arg),*),
            WeightFormat::IQ4_NL => $block::<formats::Iq4Nl>($($arg),*),
            WeightFormat::MXFP4 => $block::<formats::Mxfp4>($($arg),*),
            WeightFormat::Q2_K => $super::<formats::Q2K>($($arg),*),
            WeightFormat::Q3_K => $super::<formats::Q3K>($($arg),*),
            WeightFormat::Q4_K => $super::<formats::Q4K>($($arg),*),
            WeightFormat::Q5_K => $super::<formats::Q5K>($($arg),*),
            WeightFormat::Q6_K => $super::<formats::Q6K>($($arg),*),
            WeightFormat::IQ4_XS => $super::<formats::Iq4Xs>($($arg),*),
        }
    };
}

/// The layout of a format.
pub(crate) fn layout(format: WeightFormat) -> Layout {
    by_format!(format, block_layout, super_layout, float_layout)
}

fn block_layout<F: BlockPanel + Pack>() -> Layout {
    Layout {
        unit_bytes: F::UNIT_BYTES,
        unit_len: 32,
        kind: ActivationKind::Block { offset: F::OFFSET },
        pack: Some(F::pack),
        unpacked_unit_bytes: block_unit_bytes(F::MIN),
    }
}

fn super_layout<F: SuperPanel + Pack>() -> Layout {
    Layout {
        unit_bytes: F::UNIT_BYTES,
        unit_len: 256,
        kind: ActivationKind::Super { sub: F::SUB, offset: F::OFFSET, min: F::MIN },
        pack: Some(F::pack),
        unpacked_unit_bytes: super_unit_bytes(F::SUB, F::MIN),
    }
}

fn float_layout<F: float::FloatPanel>() -> Layout {
    let unit_bytes = F::ELEMENT_BYTES * PANEL_ROWS;
    Layout { unit_bytes, unit_len: 1, kind: ActivationKind::Float, pack: None, unpacked_unit_bytes: 0 }
}

/// The tiles of a format on an instruction set.
pub(crate) fn tiles(format: WeightFormat, isa: Isa) -> &'static Tiles {
    match isa {
        Isa::Scalar => by_format!(format, block_scalar, super_scalar, float_scalar),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if Avx2Fma::detect().is_some_and(Avx2Fma::has_avx_vnni) => {
            by_format!(format, block_avx2_vnni, super_avx2_vnni, float_avx2_vnni)
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => by_format!(format, block_avx2, super_avx2, float_avx2),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => by_format!(format, block_avx512, super_avx512, float_avx512),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("vector instruction sets are only detected on x86-64"),
    }
}

/// The functions of one instruction set: each kernel inside a function that enables the set, and the tables of them.
macro_rules! instruction_set {
    ($name:ident, $simd:ty, [$($feature:meta)?], tiles: $tiles:tt,
     $block:ident, $super:ident, $float:ident) => {
        mod $name {
            use super::*;

            $(#[$feature])?
            unsafe fn block<F: BlockPanel, const T: usize>(args: &TileArgs) {
                // SAFETY: the caller's promise; this function enables the instruction set.
                unsafe { block_tile::<$simd, F, T>(args) }
            }
            $(#[$feature])?
            unsafe fn sup<F: SuperPanel, const T: usize>(args: &TileArgs) {
                // SAFETY: the caller's promise; this function enables the instruction set.
                unsafe { super_tile::<$simd, F, T>(args) }
            }
            $(#[$feature])?
            unsafe fn float<F: float::FloatPanel, const T: usize>(args: &TileArgs) {
                // SAFETY: the caller's promise; this function enables the instruction set.
                unsafe { float_tile::<$simd, F, T>(args) }
            }
            $(#[$feature])?
            unsafe fn unpack_block_unit<F: BlockPanel>(unit: *const u8, out: *mut u8) {
                // SAFETY: the caller's promise; this function enables the instruction set.
                unsafe { unpack_block::<$simd, F>(unit, out) }
            }
            $(#[$feature])?
            unsafe fn unpack_super_unit<F: SuperPanel>(unit: *const u8, out: *mut u8) {
                // SAFETY: the caller's promise; this function enables the instruction set.
                unsafe { unpack_super::<$simd, F>(unit, out) }
            }

            struct Block<F>(F);
            impl<F: BlockPanel> Block<F> {
                const TILES: Tiles = Tiles {
                    tiles: instruction_set!(@list block, F, $tiles),
                    unpack: Some(unpack_block_unit::<F>),
                    wide_is_signed: <$simd as Simd>::WIDE_IS_SIGNED,
                };
            }
            struct Super<F>(F);
            impl<F: SuperPanel> Super<F> {
                const TILES: Tiles = Tiles {
                    tiles: instruction_set!(@list sup, F, $tiles),
                    unpack: Some(unpack_super_unit::<F>),
                    wide_is_signed: <$simd as Simd>::WIDE_IS_SIGNED,
                };
            }
            struct Float<F>(F);
            impl<F: float::FloatPanel> Float<F> {
                const TILES: Tiles = Tiles {
                    tiles: instruction_set!(@list float, F, $tiles),
                    unpack: None,
                    wide_is_signed: <$simd as Simd>::WIDE_IS_SIGNED,
                };
            }

            pub(super) fn $block<F: BlockPanel>() -> &'static Tiles {
                &Block::<F>::TILES
            }
            pub(super) fn $super<F: SuperPanel>() -> &'static Tiles {
                &Super::<F>::TILES
            }
            pub(super) fn $float<F: float::FloatPanel>() -> &'static Tiles {
                &Float::<F>::TILES
            }
        }
        use $name::{$block, $super, $float};
    };
    (@list $kernel:ident, $format:ty, [$($t:literal)*]) => {
        &[$($kernel::<$format, $t>),*]
    };
}

instruction_set!(scalar, crate::arch::scalar::Scalar, [], tiles: [1 2],
    block_scalar, super_scalar, float_scalar);
#[cfg(target_arch = "x86_64")]
instruction_set!(avx2, crate::arch::avx2::Avx2<false>, [target_feature(enable = "avx2,fma,f16c")],
    tiles: [1 2 3], block_avx2, super_avx2, float_avx2);
#[cfg(target_arch = "x86_64")]
instruction_set!(avx2_vnni, crate::arch::avx2::Avx2<true>, [target_feature(enable = "avx2,fma,f16c")],
    tiles: [1 2 3], block_avx2_vnni, super_avx2_vnni, float_avx2_vnni);
#[cfg(target_arch = "x86_64")]
instruction_set!(avx512, crate::arch::avx512::Avx512,
    [target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")],
    tiles: [1 2 3 4 5 6 7 8 9 10 11 12], block_avx512, super_avx512, float_avx512);
