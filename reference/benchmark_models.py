#!/usr/bin/env python3
"""Writes a random-weight Qwen3 in its exact shape, as a Hugging Face folder (BF16) and a BF16 GGUF.

usage: benchmark_models.py {0.6b,4b} OUT --tokenizer DIR

OUT/qwen3-SIZE-rand/ and OUT/qwen3-SIZE-rand-bf16.gguf. Weights are N(0, 0.02), norms are one; seed 1234, so two runs agree.
The tokenizer folder holds Qwen3's tokenizer.json and tokenizer_config.json.
"""
import argparse
import json
import pathlib
import shutil
import struct

import gguf
import ml_dtypes
import numpy as np

VOCAB, HEAD_DIM, EPS = 151936, 128, 1e-6
SHAPES = {
    "0.6b": dict(hidden=1024, layers=28, heads=16, kv_heads=8, ffn=3072, theta=1e6, context=40960),
    "4b": dict(hidden=2560, layers=36, heads=32, kv_heads=8, ffn=9728, theta=5e6, context=262144),
}


def tensors(s):
    """(checkpoint name, GGUF name, shape) of every tensor, in file order."""
    h, q, kv, f = s["hidden"], s["heads"] * HEAD_DIM, s["kv_heads"] * HEAD_DIM, s["ffn"]
    yield "model.embed_tokens.weight", "token_embd.weight", (VOCAB, h)
    for i in range(s["layers"]):
        for name, short, shape in [
            ("input_layernorm", "attn_norm", (h,)),
            ("self_attn.q_proj", "attn_q", (q, h)),
            ("self_attn.k_proj", "attn_k", (kv, h)),
            ("self_attn.v_proj", "attn_v", (kv, h)),
            ("self_attn.o_proj", "attn_output", (h, q)),
            ("self_attn.q_norm", "attn_q_norm", (HEAD_DIM,)),
            ("self_attn.k_norm", "attn_k_norm", (HEAD_DIM,)),
            ("post_attention_layernorm", "ffn_norm", (h,)),
            ("mlp.gate_proj", "ffn_gate", (f, h)),
            ("mlp.up_proj", "ffn_up", (f, h)),
            ("mlp.down_proj", "ffn_down", (h, f)),
        ]:
            yield f"model.layers.{i}.{name}.weight", f"blk.{i}.{short}.weight", shape
    yield "model.norm.weight", "output_norm.weight", (h,)


def config(s):
    return dict(
        architectures=["Qwen3ForCausalLM"], model_type="qwen3", attention_bias=False, attention_dropout=0.0, bos_token_id=151643,
        eos_token_id=151645, head_dim=HEAD_DIM, hidden_act="silu", hidden_size=s["hidden"], initializer_range=0.02,
        intermediate_size=s["ffn"], max_position_embeddings=s["context"], num_attention_heads=s["heads"],
        num_hidden_layers=s["layers"], num_key_value_heads=s["kv_heads"], rms_norm_eps=EPS, rope_scaling=None,
        rope_theta=s["theta"], sliding_window=None, use_sliding_window=False, tie_word_embeddings=True,
        torch_dtype="bfloat16", use_cache=True, vocab_size=VOCAB,
    )


def gguf_header(path, size, s, tokenizer):
    w = gguf.GGUFWriter(str(path), "qwen3", use_temp_file=False)
    w.add_name(f"qwen3-{size}-rand")
    w.add_context_length(s["context"])
    w.add_embedding_length(s["hidden"])
    w.add_block_count(s["layers"])
    w.add_feed_forward_length(s["ffn"])
    w.add_head_count(s["heads"])
    w.add_head_count_kv(s["kv_heads"])
    w.add_key_length(HEAD_DIM)
    w.add_value_length(HEAD_DIM)
    w.add_rope_freq_base(s["theta"])
    w.add_layer_norm_rms_eps(EPS)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    data = json.loads((tokenizer / "tokenizer.json").read_text())
    template = json.loads((tokenizer / "tokenizer_config.json").read_text())["chat_template"]
    tokens, kinds = [f"[PAD{i}]" for i in range(VOCAB)], [int(gguf.TokenType.UNUSED)] * VOCAB
    for token, i in data["model"]["vocab"].items():
        tokens[i], kinds[i] = token, int(gguf.TokenType.NORMAL)
    for t in data["added_tokens"]:
        tokens[t["id"]] = t["content"]
        kinds[t["id"]] = int(gguf.TokenType.CONTROL if t["special"] else gguf.TokenType.USER_DEFINED)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]])
    w.add_eos_token_id(151645)
    w.add_bos_token_id(151643)
    w.add_pad_token_id(151643)
    w.add_add_bos_token(False)
    w.add_chat_template(template)
    for _, name, shape in tensors(s):
        if len(shape) == 1:
            w.add_tensor_info(name, list(shape), np.dtype("float32"), shape[0] * 4, raw_dtype=gguf.GGMLQuantizationType.F32)
        else:
            w.add_tensor_info(name, [shape[0], shape[1] * 2], np.dtype("uint8"), shape[0] * shape[1] * 2, raw_dtype=gguf.GGMLQuantizationType.BF16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    return w


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("size", choices=SHAPES)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--tokenizer", type=pathlib.Path, required=True)
    o = p.parse_args()
    s = SHAPES[o.size]
    folder = o.out / f"qwen3-{o.size}-rand"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(s), indent=1))
    (folder / "generation_config.json").write_text(json.dumps(dict(bos_token_id=151643, eos_token_id=[151645, 151643], pad_token_id=151643, do_sample=False)))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(o.tokenizer / name, folder)

    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, _, shape in tensors(s):
        size = 2 * int(np.prod(shape))
        header[name] = dict(dtype="BF16", shape=list(shape), data_offsets=[offset, offset + size])
        offset += size
    blob = json.dumps(header).encode()
    blob += b" " * (-len(blob) % 8)

    rng = np.random.default_rng(1234)
    writer = gguf_header(o.out / f"qwen3-{o.size}-rand-bf16.gguf", o.size, s, o.tokenizer)
    with open(folder / "model.safetensors", "wb") as st:
        st.write(struct.pack("<Q", len(blob)) + blob)
        for _, _, shape in tensors(s):
            if len(shape) == 1:
                ones = np.ones(shape, np.float32)
                st.write(ones.astype(ml_dtypes.bfloat16).tobytes())
                writer.write_tensor_data(ones)
            else:
                x = (rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)).astype(ml_dtypes.bfloat16)
                raw = x.view(np.uint8).reshape(shape[0], shape[1] * 2)
                st.write(raw.tobytes())
                writer.write_tensor_data(raw)
    writer.close()
    print(f"{folder}: {offset // 2:,} parameters")


main()
