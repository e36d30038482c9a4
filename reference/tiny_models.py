"""Tiny seeded checkpoints with every feature of the transformer switched on, and what transformers computes with them.

    python tiny_models.py --out goldens/models

Each folder has config.json, model.safetensors (or shards, and GGUF conversions for some) and golden.safetensors:
    input_ids   I64 [1, T]
    hidden.0    F32 [T, hidden]   embeddings
    hidden.i    F32 [T, hidden]   output of decoder layer i - 1; the last one too is taken before the final norm
    logits      F32 [T, vocab]
computed by transformers on the reloaded folder, float32, eager attention. Metadata `f64_max_rel_diff` tells, per tensor,
the largest difference from a float64 computation of the same formulas (float64_forward.py), relative to the tensor's
largest magnitude: the noise of float32 itself. Half of the configurations use the spelling that today's checkpoints have
(`rope_theta`, `rope_scaling`, `torch_dtype`), half the newer one (`rope_parameters`, `dtype`).
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

import float64_forward
import tiny_gguf
from goldens_io import stamp, versions, write_json, write_safetensors

VOCAB = len(tiny_gguf.vocabulary())
COMMON = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-6, bos_token_id=None,
    eos_token_id=VOCAB - 1, pad_token_id=VOCAB - 3,
)
# Four query heads of 32 on a hidden size of 64: q_proj is 64 -> 128, as in Qwen3-4B (2560 -> 4096).
QWEN3 = COMMON | dict(head_dim=32, tie_word_embeddings=True, attention_bias=False)


def rope(theta=10000.0, kind="default", **more):
    return {"rope_theta": theta, "rope_type": kind, **more}


# name -> (config, seed, spelling of config.json, sequence lengths of golden.safetensors, golden_long.safetensors)
MODELS = {
    "qwen3-tiny": (Qwen3Config(**QWEN3, rope_parameters=rope(1e6)), 1, "hub", [32]),
    "qwen3-yarn-tiny": (
        Qwen3Config(**QWEN3 | {"max_position_embeddings": 64},
                    rope_parameters=rope(100.0, "yarn", factor=4.0, original_max_position_embeddings=16)),
        1, "hub", [40],
    ),
    "qwen2-tiny": (
        Qwen2Config(**COMMON | {"intermediate_size": 96}, tie_word_embeddings=False, rope_parameters=rope(1e6)), 2, "hub", [32],
    ),
    "llama-tiny": (
        LlamaConfig(**COMMON | {"rms_norm_eps": 1e-5}, tie_word_embeddings=False,
                    rope_parameters=rope(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                         original_max_position_embeddings=64)),
        3, "hub", [32],
    ),
    "llama-tied-tiny": (
        LlamaConfig(**COMMON, tie_word_embeddings=True, rope_parameters=rope(kind="linear", factor=4.0)), 4, "hub-type", [32],
    ),
    "llama-dynamic-tiny": (
        LlamaConfig(**COMMON | {"max_position_embeddings": 24}, tie_word_embeddings=False,
                    rope_parameters=rope(kind="dynamic", factor=2.0)),
        3, "new", [20, 40],
    ),
    "mistral-tiny": (
        MistralConfig(**COMMON | {"rms_norm_eps": 1e-5}, tie_word_embeddings=False, head_dim=16, sliding_window=8,
                      rope_parameters=rope(1e6)),
        5, "new", [32],
    ),
}


def randomize(model, seed):
    """Every parameter from one seeded stream, in name order: norms around 1, biases of half a unit, peaked attention."""
    rng = np.random.default_rng(seed)
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            shape = tuple(parameter.shape)
            value = rng.standard_normal(shape)
            if "norm" in name:
                # Larger q and k norms make attention choose instead of averaging.
                value = (1.5 if "q_norm" in name or "k_norm" in name else 1.0) + 0.3 * value
            elif name.endswith("bias"):
                value *= 0.5
            elif "embed_tokens" in name:
                value *= 0.4 if tied else 1.0
            elif "lm_head" in name:
                value *= 0.4
            else:
                gain = 1.5 if "q_proj" in name or "k_proj" in name else 1.0
                value *= gain / np.sqrt(shape[1])
            parameter.copy_(torch.from_numpy(value.astype(np.float32)))


def hub_spelling(config, old_type_key):
    """config.json as the hub's checkpoints of these models have it."""
    rope_parameters = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope_parameters.pop("rope_theta")
    kind = rope_parameters.pop("rope_type")
    if kind != "default":
        config["rope_scaling"] = {"type" if old_type_key else "rope_type": kind, **rope_parameters}
    else:
        config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    return config


def run(folder, input_ids):
    """transformers, float32, eager, on the folder as it lies on disk: {hidden.i, logits}."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    taken = {}

    def take(index):
        def hook(_module, _inputs, output):
            taken[f"hidden.{index}"] = (output[0] if isinstance(output, tuple) else output).squeeze(0).numpy().copy()
        return hook

    model.model.embed_tokens.register_forward_hook(take(0))
    for i, layer in enumerate(model.model.layers):
        layer.register_forward_hook(take(i + 1))
    with torch.no_grad():
        taken["logits"] = model(torch.from_numpy(input_ids)).logits.squeeze(0).numpy()
    return taken


def load_weights(folder):
    """All tensors of the folder as float32 arrays (torch widens bfloat16, which numpy does not know)."""
    from safetensors.torch import load_file as load_torch

    weights = {}
    for path in sorted(folder.glob("model*.safetensors")):
        weights |= {name: value.float().numpy() for name, value in load_torch(path).items()}
    return weights


def write_golden(folder, lengths, seed):
    config = json.loads((folder / "config.json").read_text())
    weights = load_weights(folder)
    for length, name in zip(lengths, ["golden", "golden_long"]):
        input_ids = np.random.default_rng(100 + seed).integers(0, VOCAB, (1, length))
        tensors = run(folder, input_ids)
        hidden64, logits64 = float64_forward.forward(config, weights, input_ids[0])
        exact = {f"hidden.{i}": h for i, h in enumerate(hidden64)} | {"logits": logits64}
        assert exact.keys() == tensors.keys()
        noise = {k: float(np.abs(exact[k] - tensors[k]).max() / np.abs(exact[k]).max()) for k in sorted(tensors)}
        assert max(noise.values()) < 1e-5, (folder, noise)
        metadata = stamp("reference/tiny_models.py", versions("torch", "transformers", "numpy", "safetensors")) | {
            "f64_max_rel_diff": json.dumps({k: float(f"{v:.3g}") for k, v in noise.items()}),
            "attn_implementation": "eager",
            "compute_dtype": "float32",
        }
        write_safetensors(folder / f"{name}.safetensors", {"input_ids": input_ids} | tensors, metadata)
        logits = tensors["logits"]
        print(f"{folder.name:20} {name:12} T={length} logits std {logits.std():.2f} noise {max(noise.values()):.1e}")


def make(out, name, config, seed, spelling, lengths, dtype=torch.float32, **save):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomize(model, seed)
    model.to(dtype).save_pretrained(folder, **save)
    (folder / "generation_config.json").unlink(missing_ok=True)
    saved = json.loads((folder / "config.json").read_text())
    if spelling != "new":
        saved = hub_spelling(saved, spelling == "hub-type")
    saved.pop("transformers_version")  # recorded in the goldens; a config must not change with it
    write_json(folder / "config.json", saved)
    write_golden(folder, lengths, seed)
    return folder


def write_gguf(folder, split=False):
    config = json.loads((folder / "config.json").read_text())
    weights = load_weights(folder)
    tiny_gguf.write(folder / "model.gguf", config, weights)
    if split:
        tiny_gguf.write(folder / "model.gguf", config, weights, split_max_tensors=(len(weights) + 1) // 2)
    # Read back: names map one to one, values are those of the checkpoint, q and k of Llama only permuted.
    from gguf import GGUFReader

    paths = sorted(folder.glob("*.gguf"))
    whole = [p for p in paths if p.name == "model.gguf"]
    shards = [p for p in paths if p.name != "model.gguf"]
    for group in [whole, shards] if split else [whole]:
        tensors = [t for p in group for t in GGUFReader(p).tensors if t.name != "rope_freqs.weight"]
        assert len(tensors) == len(weights), (len(tensors), len(weights))
        # float64 sums by sorted value are equal whatever the order of rows
        total = lambda arrays: sorted(float(np.sort(a.ravel()).astype(np.float64).sum()) for a in arrays)
        assert total([t.data for t in tensors]) == total(weights.values())


def write_tokenizer(folder):
    """tokenizer.json over the vocabulary of the GGUF, split as Qwen's is: file-level tests need one."""
    tokens = tiny_gguf.vocabulary()
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    write_json(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": tokens.index(t), "content": t, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for t in tiny_gguf.SPECIALS
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {t: i for i, t in enumerate(tokens) if t not in tiny_gguf.SPECIALS},
            "merges": tiny_gguf.MERGES,
        },
    })
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "chat_template": tiny_gguf.CHAT_TEMPLATE, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    })
    write_json(folder / "generation_config.json", {
        "do_sample": True, "eos_token_id": [tokens.index("<|im_end|>"), tokens.index("<|endoftext|>")],
        "pad_token_id": tokens.index("<|endoftext|>"), "temperature": 0.7, "top_k": 20, "top_p": 0.8,
    })
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "In the hall, the 12 owls are 你好 \n\n    on.<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one order of summation: the same bits on every run

    for name, (config, seed, spelling, lengths) in MODELS.items():
        make(args.out, name, config, seed, spelling, lengths)
    config, seed, _, lengths = MODELS["qwen3-tiny"]
    # What save_pretrained leaves behind today: the new spelling, and an index of shards.
    make(args.out, "qwen3-sharded-tiny", config, seed, "new", lengths, max_shard_size="200KB")
    make(args.out, "qwen3-bf16-tiny", config, seed, "hub", lengths, dtype=torch.bfloat16)
    make(args.out, "qwen3-f16-tiny", config, seed, "hub", lengths, dtype=torch.float16)
    write_gguf(args.out / "qwen3-tiny", split=True)
    write_tokenizer(args.out / "qwen3-tiny")
    write_gguf(args.out / "llama-tiny")

    whole = load_file(args.out / "qwen3-tiny/golden.safetensors")
    sharded = load_file(args.out / "qwen3-sharded-tiny/golden.safetensors")
    assert all(np.array_equal(whole[k], sharded[k]) for k in whole)


if __name__ == "__main__":
    main()
