//! A tensor as it lies in a file: its name, format, shape and bytes, borrowed from the file's map. Nothing is decoded here;
//! packing for the kernels is theirs.

use std::ops::Range;
use std::path::Path;

use qern_kernels::WeightFormat;
use qern_kernels::mmap::MappedFile;

use crate::error::{Error, Result};

/// A tensor of a checkpoint, borrowed from its file.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The name that the file gives it.
    pub name: &'a str,
    /// How its values are stored.
    pub format: WeightFormat,
    /// Output features; 1 for a vector. Dimensions beyond the second are folded into it.
    pub rows: usize,
    /// Input features: the values that lie side by side.
    pub cols: usize,
    /// The stored values, row after row. // [rows * format.row_bytes(cols)]
    pub bytes: &'a [u8],
    file: &'a FileBytes,
    /// Where `bytes` lies in `file`.
    start: usize,
}

impl<'a> TensorView<'a> {
    /// A view of `rows * cols` values at `range` of `file`; `None` unless the range lies in the file and has that very size.
    pub(crate) fn new(
        name: &'a str,
        format: WeightFormat,
        (rows, cols): (usize, usize),
        file: &'a FileBytes,
        range: Range<usize>,
    ) -> Option<Self> {
        let bytes = file.bytes().get(range.clone())?;
        (format.row_bytes(cols)?.checked_mul(rows)? == bytes.len()).then_some(())?;
        Some(Self { name, format, rows, cols, bytes, file, start: range.start })
    }

    /// Values in the tensor.
    pub fn num_values(&self) -> usize {
        self.rows * self.cols
    }

    /// The bytes of one row.
    ///
    /// # Panics
    /// If `row` is not below `rows`.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let row_bytes = self.bytes.len() / self.rows;
        &self.bytes[row * row_bytes..(row + 1) * row_bytes]
    }

    /// Lets the memory of the file's pages under this tensor go, once its values have been copied elsewhere. The bytes stay
    /// readable: a later touch reads them from the file again.
    pub fn release(&self) {
        if let FileBytes::Mapped(map) = self.file {
            map.release(self.start..self.start + self.bytes.len());
        }
    }

    /// Asks the system to read the tensor ahead of its use.
    pub fn prefetch(&self) {
        if let FileBytes::Mapped(map) = self.file {
            map.prefetch(self.start..self.start + self.bytes.len());
        }
    }
}

/// The bytes of a whole file: mapped, or given in memory by tests and fuzzers.
#[derive(Debug)]
pub(crate) enum FileBytes {
    Mapped(MappedFile),
    Owned(Vec<u8>),
}

impl FileBytes {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        MappedFile::open(path).map(Self::Mapped).map_err(|source| Error::io(path, source))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map.bytes(),
            Self::Owned(bytes) => bytes,
        }
    }
}
