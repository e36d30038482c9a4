"""ggml's own quantize and dequantize functions by ctypes, from a folder with its shared libraries. No models here."""

import ctypes
from pathlib import Path

import numpy as np

TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class TypeTraits(ctypes.Structure):
    """struct ggml_type_traits of ggml.h."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", TO_FLOAT),
        ("from_float_ref", ctypes.c_void_p),
    ]


class Ggml:
    def __init__(self, lib_dir):
        self.lib = ctypes.CDLL(str(Path(lib_dir) / "libggml-base.so"))
        self.lib.ggml_version.restype = ctypes.c_char_p
        self.lib.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
        self.lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
        ]
        self.version = self.lib.ggml_version().decode()

    def traits(self, qtype):
        return self.lib.ggml_get_type_traits(int(qtype)).contents

    def dequantize(self, blocks, qtype):
        """blocks: uint8 [num_blocks, block_bytes] -> float32 [num_blocks, block_len]."""
        traits = self.traits(qtype)
        assert blocks.shape[1] == traits.type_size, (blocks.shape, traits.type_size)
        blocks = np.ascontiguousarray(blocks)
        values = np.empty((len(blocks), traits.blck_size), np.float32)
        traits.to_float(blocks.ctypes.data, values.ctypes.data, values.size)
        return values

    def quantize(self, rows, qtype):
        """rows: float32 [num_blocks, block_len] -> uint8 [num_blocks, block_bytes], without an importance matrix."""
        traits = self.traits(qtype)
        rows = np.ascontiguousarray(rows, np.float32)
        assert rows.shape[1] == traits.blck_size
        blocks = np.empty((len(rows), traits.type_size), np.uint8)
        # A row of one block each: K-quants choose their scales per block, so row length does not matter.
        size = self.lib.ggml_quantize_chunk(
            int(qtype), rows.ctypes.data, blocks.ctypes.data, 0, len(rows), rows.shape[1], None
        )
        assert size == blocks.size
        return blocks
