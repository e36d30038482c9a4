//! A weight matrix packed in panels: made losslessly from the bytes of a file, read by `matmul`, looked up by row for
//! embeddings.

use crate::activation::ActivationKind;
use crate::arena::{Arena, ArenaBytes};
use crate::disjoint::Disjoint;
use crate::format::WeightFormat;
use crate::formats::PANEL_ROWS;
use crate::formats::float::pack_panel;
use crate::formats::unpacked::dequantize_unit;
use crate::isa::Isa;
use crate::memory::OutOfMemory;
use crate::pool::Pool;
use crate::tables::{layout, tiles};
use half::{bf16, f16};

/// A matrix of `rows` outputs by `cols` inputs in one weight format, `y = W x`.
#[derive(Debug)]
pub struct PackedMatrix {
    format: WeightFormat,
    rows: usize,
    cols: usize,
    data: ArenaBytes, // [panels][units][unit bytes]
}

/// Why bytes are no matrix.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Sizes do not fit the format.
    #[error("a {format} matrix of {rows} x {cols} must have rows of whole {block}-value blocks and fit the address space")]
    Shape {
        /// The format.
        format: WeightFormat,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
        /// Values in a block of the format.
        block: usize,
    },
    /// The wrong number of bytes.
    #[error("a {format} matrix of {rows} x {cols} takes {expected} bytes; given {given}")]
    Length {
        /// The format.
        format: WeightFormat,
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// Bytes it takes.
        expected: usize,
        /// Bytes given.
        given: usize,
    },
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

impl PackedMatrix {
    /// Packs the rows of a file into a part of the arena: `bytes` is `[rows][blocks][block bytes]`.
    pub fn pack(
        pool: &Pool,
        arena: &Arena,
        format: WeightFormat,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Self, PackError> {
        let shape = || PackError::Shape { format, rows, cols, block: format.block_len() };
        let row_bytes = format.row_bytes(cols).filter(|&n| n > 0).ok_or_else(shape)?;
        let expected = row_bytes.checked_mul(rows).ok_or_else(shape)?;
        if bytes.len() != expected {
            return Err(PackError::Length { format, rows, cols, expected, given: bytes.len() });
        }
        let layout = layout(format);
        let panel_bytes = cols / layout.unit_len * layout.unit_bytes;
        let total = rows.div_ceil(PANEL_ROWS).checked_mul(panel_bytes).ok_or_else(shape)?;
        let mut data = arena.take(total)?;
        let panels = Disjoint::new(&mut data);
        pool.for_chunks(rows.div_ceil(PANEL_ROWS), 4, &|range| {
            for panel in range {
                // SAFETY: panels are disjoint.
                let out = unsafe { panels.part(panel * panel_bytes..(panel + 1) * panel_bytes) };
                let first = panel * PANEL_ROWS;
                let rows = bytes[first * row_bytes..(first + PANEL_ROWS).min(rows) * row_bytes].chunks_exact(row_bytes);
                let Some(pack) = layout.pack else {
                    pack_panel(format.block_bytes(), rows, out);
                    continue;
                };
                for (r, row) in rows.enumerate() {
                    for (block, unit) in row.chunks_exact(format.block_bytes()).zip(out.chunks_exact_mut(layout.unit_bytes)) {
                        pack(block, r, unit);
                    }
                }
            }
        });
        Ok(Self { format, rows, cols, data })
    }

    /// The format of the weights.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of memory, and bytes that one product with it reads.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// What the matrix multiplies with.
    pub fn activation_kind(&self) -> ActivationKind {
        layout(self.format).kind
    }

    pub(crate) fn num_panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    pub(crate) fn panel_bytes(&self) -> usize {
        self.data.len() / self.num_panels().max(1)
    }

    pub(crate) fn panel(&self, panel: usize) -> &[u8] {
        &self.data[panel * self.panel_bytes()..(panel + 1) * self.panel_bytes()]
    }

    /// Dequantizes one row, as ggml defines the format. `out` is `[cols]`.
    pub fn dequantize_row(&self, isa: Isa, row: usize, out: &mut [f32]) {
        isa.assert_available();
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}, {} of {} values", self.rows, out.len(), self.cols);
        let (panel, r) = (self.panel(row / PANEL_ROWS), row % PANEL_ROWS);
        let layout = layout(self.format);
        let Some(unpack) = tiles(self.format, isa).unpack else {
            return self.copy_float_row(panel, r, out);
        };
        let mut unpacked = vec![0u8; layout.unpacked_unit_bytes];
        for (unit, out) in panel.chunks_exact(layout.unit_bytes).zip(out.chunks_exact_mut(layout.unit_len)) {
            // SAFETY: the unit and the buffer have the sizes of the layout; the instruction set was asserted.
            unsafe { unpack(unit.as_ptr(), unpacked.as_mut_ptr()) };
            dequantize_unit(layout.kind, &unpacked, r, out);
        }
    }

    /// Dequantizes several rows in parallel. `out` is `[rows.len(), cols]`.
    pub fn dequantize_rows(&self, pool: &Pool, isa: Isa, rows: &[usize], out: &mut [f32]) {
        assert_eq!(out.len(), rows.len() * self.cols, "the output must be [rows, cols]");
        let out = Disjoint::new(out);
        pool.for_chunks(rows.len(), 1, &|range| {
            for i in range {
                // SAFETY: rows of the output are disjoint.
                self.dequantize_row(isa, rows[i], unsafe { out.part(i * self.cols..(i + 1) * self.cols) });
            }
        });
    }

    fn copy_float_row(&self, panel: &[u8], r: usize, out: &mut [f32]) {
        let size = self.format.block_bytes();
        for (column, out) in panel.chunks_exact(size * PANEL_ROWS).zip(out) {
            let element = &column[size * r..size * (r + 1)];
            *out = match self.format {
                WeightFormat::F32 => f32::from_le_bytes(element.try_into().expect("4 bytes")),
                WeightFormat::F16 => f16::from_le_bytes(element.try_into().expect("2 bytes")).to_f32(),
                _ => bf16::from_le_bytes(element.try_into().expect("2 bytes")).to_f32(),
            };
        }
    }
}
