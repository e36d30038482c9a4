"""Goldens of the weight formats: blocks as files hold them, and the values that ggml gives them.

    python formats.py --out goldens/formats [--ggml-lib-dir DIR]

One file per format, NAME.safetensors, with
    blocks  U8  [num_blocks, block_bytes]
    values  F32 [num_blocks, block_len]
The first `num_quantized` blocks (metadata) come from quantizing seeded gaussians of widely different scale; the rest are random
bytes whose scale fields were overwritten by finite values: zeros, negatives, subnormals and extremes. F16 and BF16 have
blocks of one value. With --ggml-lib-dir (the folder of libggml-base.so) ggml and gguf-py must agree bit for bit.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from ggml_lib import Ggml
from goldens_io import stamp, versions, write_safetensors

# Where the f16 scale fields stand in a block (bytes), from ggml-common.h.
F16_FIELDS = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
}
FLOATS = ["F16", "BF16"]

# f16 bit patterns: 0, -0, smallest subnormal, largest subnormal (negative), smallest normal, +-65504, and ordinary ones.
F16_EXTREMES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00, 0xBC00, 0x1A35, 0x9E4B, 0x2481]
# MXFP4's scale is one E8M0 byte. 0 and 1 are subnormal in ggml's half-scale; from 253 on values would overflow to infinity.
E8M0_EXTREMES = [0, 1, 2, 3, 64, 119, 127, 128, 135, 200, 251, 252]


def gaussians(rng, num_blocks, block_len):
    """Blocks of std 1e-3 .. 1e2; one with an outlier, one all zero, one constant."""
    std = np.logspace(-3, 2, num_blocks)[:, None]
    rows = (rng.standard_normal((num_blocks, block_len)) * std).astype(np.float32)
    rows[1, block_len // 3] *= 50
    rows[2] = 0
    rows[3] = -0.37
    return rows


def quantize(rows, qtype, ggml):
    try:
        blocks = quants.quantize(rows, qtype)
    except NotImplementedError:  # gguf-py has no K-quant and no IQ4 encoder
        return ggml.quantize(rows, qtype) if ggml else None
    return blocks.reshape(len(rows), -1)


def random_blocks(rng, name, num_blocks, block_bytes):
    blocks = rng.integers(0, 256, (num_blocks, block_bytes), dtype=np.uint8)
    fields = F16_FIELDS[name]
    for number, at in enumerate(fields):
        # The second field walks the list at another stride, so that the two meet in different pairs.
        picks = [F16_EXTREMES[(i * (1 + 4 * number) + 3 * number) % len(F16_EXTREMES)] for i in range(num_blocks)]
        blocks[:, at : at + 2] = np.array(picks, np.uint16).view(np.uint8).reshape(num_blocks, 2)
    if name == "MXFP4":
        blocks[:, 0] = [E8M0_EXTREMES[i % len(E8M0_EXTREMES)] for i in range(num_blocks)]
    return blocks


def float_blocks(rng, name):
    """Blocks of one value: specials, then 1,000 random finite patterns. Infinities are in, NaN is not."""
    one, inf = {"F16": (0x3C00, 0x7C00), "BF16": (0x3F80, 0x7F80)}[name]
    edges = [0, 1, one, inf - 1, inf, (inf >> 5), 0x03FF, 0x0400, 0x007F, 0x0080]
    patterns = np.array(edges + [e | 0x8000 for e in edges], np.uint16)
    drawn = rng.integers(0, 1 << 16, 1100).astype(np.uint16)
    drawn = drawn[(drawn & 0x7FFF) < inf][:1000]
    patterns = np.concatenate([patterns, drawn])
    return patterns.view(np.uint8).reshape(-1, 2)


def make(name, seed, ggml):
    qtype = GGMLQuantizationType[name]
    block_len, block_bytes = GGML_QUANT_SIZES[qtype]
    rng = np.random.default_rng(seed)
    if name in FLOATS:
        blocks, num_quantized = float_blocks(rng, name), 0
    else:
        half = 12 if block_len == 32 else 6
        quantized = quantize(gaussians(rng, half, block_len), qtype, ggml)
        num_quantized = 0 if quantized is None else half
        # The random half of a 256-wide format still meets all twelve extreme scales.
        parts = [random_blocks(rng, name, 12, block_bytes)]
        blocks = np.concatenate(([] if quantized is None else [quantized]) + parts)
    with np.errstate(over="ignore", invalid="ignore"):
        values = quants.dequantize(blocks, qtype).reshape(len(blocks), block_len)
    assert not np.isnan(values).any()
    assert name in FLOATS or np.isfinite(values).all(), name
    used = "gguf-py"
    if ggml:
        theirs = ggml.dequantize(blocks, qtype)
        same = theirs.view(np.uint32) == values.view(np.uint32)
        assert same.all(), (name, np.argwhere(~same)[:5], theirs[~same][:5], values[~same][:5])
        used = "gguf-py and ggml, equal bit for bit"
    return blocks, values, num_quantized, used


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ggml-lib-dir", type=Path)
    args = parser.parse_args()
    ggml = Ggml(args.ggml_lib_dir) if args.ggml_lib_dir else None
    for seed, name in enumerate([*F16_FIELDS, *FLOATS]):
        blocks, values, num_quantized, used = make(name, seed, ggml)
        found = versions("gguf", "numpy", ggml=ggml and ggml.version)
        metadata = stamp("reference/formats.py", found) | {
            "format": name, "seed": str(seed), "num_quantized": str(num_quantized), "values_from": used,
        }
        write_safetensors(args.out / f"{name}.safetensors", {"blocks": blocks, "values": values}, metadata)
        print(json.dumps({"format": name, "blocks": blocks.shape, "values": values.shape, "from": used}))


if __name__ == "__main__":
    main()
