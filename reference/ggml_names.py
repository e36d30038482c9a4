"""A GGUF of the Llama architecture back into checkpoint names and float32, q and k rows in half-split order again."""

import numpy as np
from gguf import quants

LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def llama_unpermute(weight, num_heads):
    """Inverse of tiny_gguf.llama_permute: rows of each head from interleaved to half-split order."""
    rows = weight.shape[0] // num_heads
    return weight.reshape(num_heads, rows // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def checkpoint_weights(reader, config):
    weights = {}
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        value = np.ascontiguousarray(quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape), np.float32)
        parts = tensor.name.removesuffix(".weight").split(".")
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{LAYER[parts[2]]}.weight"
            if parts[2] == "attn_q":
                value = llama_unpermute(value, config.num_attention_heads)
            if parts[2] == "attn_k":
                value = llama_unpermute(value, config.num_key_value_heads)
        else:
            name = TOP[parts[0]] + ".weight"
        weights[name] = np.array(value)  # a copy: the file stays mapped read-only
    return weights
