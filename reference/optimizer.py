"""Asks PyTorch for 20 steps of AdamW with clipping, warm-up, cosine decay and LoRA+'s two rates, on a fixed sequence of gradients.

Writes goldens/training/optimizer.json: `steps` of {`rate`, `norm`, `a`, `b`}: the rate of A, the gradients' norm before clipping
and the values after the step. Gradients are a formula that the test repeats: g[i] = sin(1.7 * step + 0.9 * i) * (1 + 3 * (step % 5 == 0)),
computed in float64 and rounded to float32; i counts through A and then B.

    python optimizer.py --out goldens/training
"""

import argparse
import json
import math
from pathlib import Path

import torch
from transformers import get_cosine_schedule_with_warmup

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, required=True)
out = parser.parse_args().out

a = torch.nn.Parameter(torch.tensor([0.5 - 0.1 * i for i in range(6)], dtype=torch.float64).float())
b = torch.nn.Parameter(torch.zeros(4))
groups = [{"params": [a], "lr": 1e-2}, {"params": [b], "lr": 16e-2}]
optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05, foreach=False)
schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=3, num_training_steps=20)

steps = []
for step in range(20):
    gradient = [math.sin(1.7 * step + 0.9 * i) * (1 + 3 * (step % 5 == 0)) for i in range(10)]
    a.grad = torch.tensor(gradient[:6], dtype=torch.float64).float()
    b.grad = torch.tensor(gradient[6:], dtype=torch.float64).float()
    norm = torch.nn.utils.clip_grad_norm_([a, b], 2.0)
    rate = schedule.get_last_lr()[0]
    optimizer.step()
    schedule.step()
    steps.append({"rate": rate, "norm": norm.item(), "a": a.tolist(), "b": b.tolist()})

out.mkdir(parents=True, exist_ok=True)
made_by = f"optimizer.py, torch {torch.__version__}"
(out / "optimizer.json").write_text(json.dumps({"made_by": made_by, "steps": steps}, indent=1) + "\n")
