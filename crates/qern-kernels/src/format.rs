//! The weight formats: their names, ids and block geometry. How blocks become numbers is in `dequantize`, how they are
//! packed and multiplied is in `panel`.

/// How the numbers of a weight matrix are stored. Block formats are those of ggml (`ggml-common.h`); a row is a whole
/// number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, non_camel_case_types)]
pub enum WeightFormat {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

use WeightFormat::*;

impl WeightFormat {
    /// Every format, in the order of the enum.
    pub const ALL: [Self; 16] =
        [F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4];

    /// (name, ggml type id, values per block, bytes per block).
    const fn geometry(self) -> (&'static str, u32, usize, usize) {
        match self {
            F32 => ("F32", 0, 1, 4),
            F16 => ("F16", 1, 1, 2),
            Q4_0 => ("Q4_0", 2, 32, 18),
            Q4_1 => ("Q4_1", 3, 32, 20),
            Q5_0 => ("Q5_0", 6, 32, 22),
            Q5_1 => ("Q5_1", 7, 32, 24),
            Q8_0 => ("Q8_0", 8, 32, 34),
            Q2_K => ("Q2_K", 10, 256, 84),
            Q3_K => ("Q3_K", 11, 256, 110),
            Q4_K => ("Q4_K", 12, 256, 144),
            Q5_K => ("Q5_K", 13, 256, 176),
            Q6_K => ("Q6_K", 14, 256, 210),
            IQ4_NL => ("IQ4_NL", 20, 32, 18),
            IQ4_XS => ("IQ4_XS", 23, 256, 136),
            BF16 => ("BF16", 30, 1, 2),
            MXFP4 => ("MXFP4", 39, 32, 17),
        }
    }

    /// The name that people and files use, as in `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.geometry().0
    }

    /// The id of the type in a GGUF file.
    pub const fn ggml_id(self) -> u32 {
        self.geometry().1
    }

    /// The format of a GGUF type id, if Qern reads it.
    pub fn from_ggml_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.ggml_id() == id)
    }

    /// Values in one block (1 for the float formats).
    pub const fn block_len(self) -> usize {
        self.geometry().2
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        self.geometry().3
    }

    /// Bytes of a row of `num_values` values, or `None` when that is no whole number of blocks or overflows.
    pub fn row_bytes(self, num_values: usize) -> Option<usize> {
        if !num_values.is_multiple_of(self.block_len()) {
            return None;
        }
        (num_values / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether the values are plain floats, multiplied by float activations.
    pub const fn is_float(self) -> bool {
        matches!(self, F32 | F16 | BF16)
    }
}

impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
