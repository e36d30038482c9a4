//! The tensor types that a GGUF file can name. Those that Qern computes with are `WeightFormat`s; the others are known well
//! enough to check their extents and to be refused by name.

use qern_kernels::WeightFormat;

/// A tensor type of ggml (`ggml.h`, `enum ggml_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorType {
    /// A format that the kernels read.
    Weights(WeightFormat),
    /// A type that they do not.
    Unsupported(UnsupportedType),
}

/// A type that ggml defines and Qern does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsupportedType {
    id: u32,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
}

/// (id, name, values per block, bytes per block), from `gguf-py/gguf/constants.py`.
const UNSUPPORTED: [(u32, &str, usize, usize); 18] = [
    (9, "Q8_1", 32, 40),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
];

impl TensorType {
    /// The type with this number in a file.
    pub fn from_id(id: u32) -> Option<Self> {
        let unsupported = || {
            let &(id, name, block_len, block_bytes) = UNSUPPORTED.iter().find(|row| row.0 == id)?;
            Some(Self::Unsupported(UnsupportedType { id, name, block_len, block_bytes }))
        };
        WeightFormat::from_ggml_id(id).map(Self::Weights).or_else(unsupported)
    }

    /// The name of the type, as in `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weights(format) => format.name(),
            Self::Unsupported(other) => other.name,
        }
    }

    /// Values in one block.
    pub fn block_len(self) -> usize {
        match self {
            Self::Weights(format) => format.block_len(),
            Self::Unsupported(other) => other.block_len,
        }
    }

    /// Bytes of a row of `cols` values, or `None` when that is no whole number of blocks or overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        match self {
            Self::Weights(format) => format.row_bytes(cols),
            Self::Unsupported(other) if cols.is_multiple_of(other.block_len) => {
                (cols / other.block_len).checked_mul(other.block_bytes)
            }
            Self::Unsupported(_) => None,
        }
    }

    /// What to do about a type that is not read.
    pub(crate) fn advice(self) -> &'static str {
        match self.name() {
            "IQ1_S" | "IQ1_M" | "TQ1_0" | "TQ2_0" | "Q1_0" | "IQ2_XXS" | "IQ2_XS" | "IQ2_S" => {
                "use a Q2_K or Q3_K_M file of the model"
            }
            "IQ3_XXS" | "IQ3_S" => "use a Q3_K_M or IQ4_XS file of the model",
            "NVFP4" => "use an MXFP4 or Q4_K_M file of the model",
            _ => "quantize the model again, to Q8_0 or Q4_K_M",
        }
    }
}
