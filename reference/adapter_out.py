"""Loads an adapter that Qern wrote with PEFT, unchanged, and says what PEFT made of it.

Writes goldens/training/peft-tensors.json: `tensors`, the names and shapes of the adapter's state in PEFT, and `scaling` of every
module. Fails when PEFT misses a tensor, knows one that is not used, or holds other values than the file.

    QERN_TRAIN_PEFT_OUT=DIR cargo test -p qern-train --release --test peft
    python adapter_out.py --base goldens/models/llama-tiny --adapter DIR --out goldens/training
"""

import argparse
import json
import warnings
from pathlib import Path

import peft
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
for name in ("base", "adapter", "out"):
    parser.add_argument(f"--{name}", type=Path, required=True)
args = parser.parse_args()

base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
with warnings.catch_warnings():
    # PEFT says that it does not know `qern_base`; anything else is wrong.
    warnings.simplefilter("error", UserWarning)
    warnings.filterwarnings("ignore", message=".*qern_base.*")
    model = PeftModel.from_pretrained(base, args.adapter)
state = get_peft_model_state_dict(model, save_embedding_layers=False)
stored = load_file(args.adapter / "adapter_model.safetensors")
assert state.keys() == stored.keys(), state.keys() ^ stored.keys()
for name, values in stored.items():
    assert torch.equal(state[name], values), name
scaling = {name: module.scaling["default"] for name, module in model.named_modules() if hasattr(module, "lora_A")}
golden = {
    "made_by": f"adapter_out.py, peft {peft.__version__}, torch {torch.__version__}",
    "tensors": {name: list(values.shape) for name, values in sorted(state.items())},
    "scaling": {name.removeprefix("base_model.model."): value for name, value in sorted(scaling.items())},
}
(args.out / "peft-tensors.json").write_text(json.dumps(golden, indent=1) + "\n")
