"""Runs the tiny GGUF files through llama.cpp and compares with the goldens that transformers made. Writes nothing.

    python check_gguf.py --models goldens/models

Needs llama-cpp-python (LLAMA_CPP_LIB_PATH may name separately built libraries). F32 weights, F32 KV, no flash attention.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from llama_cpp import Llama
from safetensors.numpy import load_file

GGML_TYPE_F32 = 0


def logits(path, input_ids):
    llm = Llama(str(path), n_ctx=128, n_threads=1, logits_all=True, flash_attn=False, type_k=GGML_TYPE_F32,
                type_v=GGML_TYPE_F32, verbose=bool(os.environ.get("VERBOSE")))
    llm.eval(input_ids)
    return llm.scores[: len(input_ids)].copy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    args = parser.parse_args()
    for path in sorted(args.models.glob("*/*.gguf")):
        if "-of-" in path.name and "00001-of" not in path.name:
            continue  # the first shard brings the others
        golden = load_file(path.parent / "golden.safetensors")
        difference = np.abs(logits(path, golden["input_ids"][0].tolist()) - golden["logits"]).max()
        relative = difference / np.abs(golden["logits"]).max()
        print(f"{path.parent.name}/{path.name}: largest difference {difference:.2e}, relative {relative:.2e}")
        assert relative < 1e-3, path


if __name__ == "__main__":
    main()
