"""The same transformer in numpy float64, written from the papers, to measure how far float32 itself is off.

It also proves that transformers computes what Qern means to compute: formulas are written out here, not borrowed.
"""

import math

import numpy as np


def rope_frequencies(config, seq_len):
    """inv_freq [head_dim / 2] and the factor on cos and sin. config is a config.json in either spelling."""
    rope = config.get("rope_parameters") or {**(config.get("rope_scaling") or {}), "rope_theta": config["rope_theta"]}
    kind = rope.get("rope_type", rope.get("type", "default"))
    dim, theta, limit = head_dim(config), float(rope["rope_theta"]), config["max_position_embeddings"]
    steps = np.arange(0, dim, 2, dtype=np.float64) / dim
    if kind == "default":
        return theta**-steps, 1.0
    factor = rope["factor"]
    if kind == "linear":
        return theta**-steps / factor, 1.0
    if kind == "dynamic":
        # Only sequences longer than the limit change theta, and then for every position of the sequence.
        stretch = factor * max(seq_len, limit) / limit - (factor - 1)
        return (theta * stretch ** (dim / (dim - 2))) ** -steps, 1.0
    original = rope["original_max_position_embeddings"]
    if kind == "llama3":
        freqs = theta**-steps
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = np.clip((original * freqs / (2 * math.pi) - low) / (high - low), 0, 1)
        return (1 - smooth) * freqs / factor + smooth * freqs, 1.0
    if kind == "yarn":
        def correction_dim(rotations):
            return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

        low = max(math.floor(correction_dim(rope.get("beta_fast", 32))), 0)
        high = min(math.ceil(correction_dim(rope.get("beta_slow", 1))), dim - 1)
        ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0, 1)
        freqs = theta**-steps
        return freqs / factor * ramp + freqs * (1 - ramp), 0.1 * math.log(factor) + 1.0
    raise ValueError(kind)


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def forward(config, weights, input_ids):
    """Returns [hidden.0, ..., hidden.num_layers] and logits, all float64 [T, ...]. weights: numpy arrays by name."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    T, D = len(input_ids), head_dim(config)
    H, KV = config["num_attention_heads"], config["num_key_value_heads"]
    window = config.get("sliding_window") if config["model_type"] == "mistral" else None

    inv_freq, mscale = rope_frequencies(config, T)
    angles = np.arange(T)[:, None] * inv_freq  # [T, D / 2]
    cos, sin = np.cos(angles)[:, None] * mscale, np.sin(angles)[:, None] * mscale

    def norm(x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * weight

    def rotate(x):  # [T, heads, D], half-split pairs (i, i + D / 2)
        a, b = x[..., : D // 2], x[..., D // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def linear(x, name):
        y = x @ w[name + ".weight"].T
        return y + w[name + ".bias"] if name + ".bias" in w else y

    q_pos, k_pos = np.arange(T)[:, None], np.arange(T)[None]
    visible = k_pos <= q_pos
    if window:
        visible &= k_pos > q_pos - window

    x = w["model.embed_tokens.weight"][input_ids]
    hidden = [x]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        h = norm(x, w[layer + "input_layernorm.weight"])
        q = linear(h, layer + "self_attn.q_proj").reshape(T, H, D)
        k = linear(h, layer + "self_attn.k_proj").reshape(T, KV, D)
        v = linear(h, layer + "self_attn.v_proj").reshape(T, KV, D)
        if layer + "self_attn.q_norm.weight" in w:
            q = norm(q, w[layer + "self_attn.q_norm.weight"])
            k = norm(k, w[layer + "self_attn.k_norm.weight"])
        q, k = rotate(q), rotate(k)
        k, v = np.repeat(k, H // KV, 1), np.repeat(v, H // KV, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(D)
        scores = np.where(visible, scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        attended = np.einsum("hqk,khd->qhd", scores, v).reshape(T, H * D)
        x = x + linear(attended, layer + "self_attn.o_proj")
        h = norm(x, w[layer + "post_attention_layernorm.weight"])
        gate = linear(h, layer + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, layer + "mlp.up_proj"), layer + "mlp.down_proj")
        hidden.append(x)
    head = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    return hidden, norm(x, w["model.norm.weight"]) @ w[head + ".weight"].T
