#!/usr/bin/env bash
# transformers 5.19.0: a checkpoint of NVIDIA's ModelOpt in float8 is loaded without its scales, and computes.
#
# Where it hurts: ModelOpt writes float8 weights and one scale a layer (`weight_scale`), and vLLM serves such folders.
# A trainer that loads the same folder with transformers gets a model that runs, and trains against other weights.
#
# Expected: the weights times their scales, or an error that names the quantization that transformers does not know.
# Seen: a warning. The layer holds the raw float8 numbers, here up to 448 instead of 0.5, and the model answers.
#
# torch's wheels for a CPU are in an index of their own: name it in PIP_EXTRA_INDEX_URL where pip does not find them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0+cpu" transformers==5.19.0
cd "$work"
HF_HOME="$work/home" HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
plain = LlamaForCausalLM(
    LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )
)
plain.save_pretrained("float8")
tensors, largest = load_file("float8/model.safetensors"), torch.finfo(torch.float8_e4m3fn).max
for name in [name for name in tensors if name.endswith("_proj.weight")]:
    scale = tensors[name].abs().max() / largest
    tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
    tensors[f"{name}_scale"] = scale.float()
save_file(tensors, "float8/model.safetensors", metadata={"format": "pt"})
config = json.loads(Path("float8/config.json").read_text())
config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}
Path("float8/config.json").write_text(json.dumps(config))

loaded = AutoModelForCausalLM.from_pretrained("float8", dtype=torch.float32)
name = "model.layers.0.self_attn.q_proj.weight"
ours = loaded.get_parameter(name).float()
assert ours.abs().max() == largest, ours.abs().max()
assert torch.equal(ours, tensors[name].float()), "the raw numbers"
assert plain.get_parameter(name).abs().max() < 1
print("as described: transformers", transformers.__version__)
PYTHON
