"""LoRA adapters on the tiny checkpoints, and what transformers with PEFT computes with them.

    python lora.py --models goldens/models --out goldens/adapters --convert-lora-to-gguf SRC/convert_lora_to_gguf.py

Each folder has adapter_config.json and adapter_model.safetensors as PEFT saves them, and golden.safetensors:
    input_ids   I64 [1, T]
    logits      F32 [T, vocab]
computed by PEFT on the reloaded adapter, float32, eager attention. Metadata `base` names the checkpoint; `base_difference` is how
far the base's logits are from the adapter's, relative to the largest: what a reader that ignored the adapter would be off by.
Some folders have adapter.gguf too, written by llama.cpp's own converter; with --check-llama-cpp, llama.cpp runs it on the base's
model.gguf and must agree.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # PEFT asks the hub for the base's config, and waits

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import tiny_gguf
from goldens_io import stamp, versions, write_json, write_safetensors

VOCAB = len(tiny_gguf.vocabulary())
LENGTH = 16
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEARS = ATTENTION + ["gate_proj", "up_proj", "down_proj"]

# name -> (base, dtype of the file, arguments of LoraConfig, whether a GGUF is made too)
ADAPTERS = {
    "qwen3-plain": ("qwen3-tiny", torch.float32, dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]), True),
    "qwen3-rslora-bf16": (
        "qwen3-tiny", torch.bfloat16, dict(r=4, lora_alpha=2, target_modules=LINEARS, use_rslora=True), False,
    ),
    "qwen3-patterns": (
        "qwen3-tiny", torch.float32,
        dict(r=2, lora_alpha=4, target_modules=LINEARS,
             rank_pattern={r"layers\.1\.mlp\.down_proj": 5, "q_proj": 3, "1.self_attn.k_proj": 1, r"[02]\.mlp\.down_proj": 4},
             alpha_pattern={"^.*gate_proj": 3, r"model\.layers\.[02]\.self_attn\.o_proj": 7.5}),
        False,
    ),
    "qwen3-some-layers-f16": (
        "qwen3-tiny", torch.float16,
        dict(r=20, lora_alpha=10, target_modules=r".*\.[12]\..*(up_proj|k_proj)"), False,
    ),
    "qwen3-layer-1": ("qwen3-tiny", torch.float32, dict(r=2, target_modules=LINEARS, layers_to_transform=[1]), False),
    "qwen3-dora": ("qwen3-tiny", torch.float32, dict(r=3, lora_alpha=6, target_modules=LINEARS, use_dora=True), False),
    "qwen2-dora-head": (
        "qwen2-tiny", torch.float32,
        dict(r=2, lora_alpha=6, target_modules=LINEARS + ["lm_head"], use_dora=True, use_rslora=True), False,
    ),
    "qwen3-tied-new-head": (
        "qwen3-tiny", torch.float32, dict(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]), False,
    ),
    "llama-all": ("llama-tiny", torch.float32, dict(r=4, lora_alpha=6, target_modules=LINEARS), True),
    "llama-dora": ("llama-tiny", torch.float32, dict(r=2, target_modules=ATTENTION, use_dora=True), False),
    "llama-embedding": (
        "llama-tiny", torch.float32, dict(r=4, lora_alpha=16, target_modules=["embed_tokens", "lm_head", "k_proj"]), True,
    ),
    "llama-new-embedding-f16": (
        "llama-tiny", torch.float16, dict(r=2, target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"]), False,
    ),
}


def load_base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def randomize(model, seed):
    """Every trained parameter from one seeded stream, in name order: additions of about a third of the base's outputs."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            value = rng.standard_normal(tuple(parameter.shape))
            if "magnitude" in name:
                parameter.mul_(torch.from_numpy((1 + 0.3 * value).astype(np.float32)))
            elif "modules_to_save" in name:
                parameter.add_(torch.from_numpy((0.2 * value).astype(np.float32)))
            elif "lora_embedding_A" in name:
                parameter.copy_(torch.from_numpy((0.3 * value).astype(np.float32)))
            elif "lora_A" in name:
                parameter.copy_(torch.from_numpy((value / np.sqrt(parameter.shape[1])).astype(np.float32)))
            elif "lora_B" in name or "lora_embedding_B" in name:
                parameter.copy_(torch.from_numpy((0.3 * value).astype(np.float32)))


def logits_of(model, input_ids):
    with torch.no_grad():
        return model(torch.from_numpy(input_ids)).logits.squeeze(0).numpy()


def make(models, out, name, base, dtype, arguments, seed):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(seed)
    model = get_peft_model(load_base(models / base), LoraConfig(task_type="CAUSAL_LM", **arguments))
    randomize(model, seed)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    # A set of Python in an order of its own.
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    write_json(folder / "adapter_config.json", config)
    path = folder / "adapter_model.safetensors"
    tensors = {key: value.to(dtype).contiguous() for key, value in sorted(load_file(path).items())}
    save_file(tensors, path, metadata={"format": "pt"})

    input_ids = np.random.default_rng(200 + seed).integers(0, VOCAB, (1, LENGTH))
    model = PeftModel.from_pretrained(load_base(models / base), folder).eval()
    logits, plain = logits_of(model, input_ids), logits_of(load_base(models / base), input_ids)
    difference = float(np.abs(logits - plain).max() / np.abs(logits).max())
    assert difference > 0.05, (name, difference)
    metadata = stamp("reference/lora.py", versions("torch", "transformers", "peft", "numpy", "safetensors")) | {
        "base": base, "base_difference": f"{difference:.2g}", "attn_implementation": "eager", "compute_dtype": "float32",
    }
    write_safetensors(folder / "golden.safetensors", {"input_ids": input_ids, "logits": logits}, metadata)
    print(f"{name:26} {base:12} {len(tensors):3} tensors, logits off without it {difference:.2f}")
    return input_ids, logits


def convert(script, models, folder, base):
    """llama.cpp's own converter; it wants the base's config alone."""
    with tempfile.TemporaryDirectory() as bare:
        shutil.copy(models / base / "config.json", bare)
        config = Path(bare) / "config.json"
        hf = json.loads(config.read_text())
        config.write_text(json.dumps(hf))
        command = [sys.executable, script, "--base", bare, "--outfile", folder / "adapter.gguf", "--outtype", "f32", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def check_llama_cpp(models, folder, base, input_ids, logits):
    import llama_cpp

    f32 = 0
    llm = llama_cpp.Llama(str(models / base / "model.gguf"), lora_path=str(folder / "adapter.gguf"), logits_all=True, n_ctx=64,
                          n_threads=1, flash_attn=False, type_k=f32, type_v=f32, verbose=False)
    llm.eval(input_ids[0].tolist())
    found = np.array(llm.scores[:LENGTH])
    difference = np.abs(found - logits).max() / np.abs(logits).max()
    print(f"{folder.name:26} llama.cpp differs by {difference:.1e}")
    assert difference < 1e-3, difference


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--convert-lora-to-gguf", type=Path, required=True)
    parser.add_argument("--check-llama-cpp", action="store_true")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # one order of summation: the same bits on every run
    for seed, (name, (base, dtype, arguments, gguf)) in enumerate(ADAPTERS.items()):
        golden = make(args.models, args.out, name, base, dtype, arguments, seed)
        if gguf:
            convert(args.convert_lora_to_gguf, args.models, args.out / name, base)
            if args.check_llama_cpp:
                check_llama_cpp(args.models, args.out / name, base, *golden)


if __name__ == "__main__":
    main()
