#!/usr/bin/env bash
# peft 0.21.2: an adapter that began as LoRA-GA answers otherwise once it is saved and loaded, and nothing says so.
#
# Where it hurts: LoRA-GA changes the base model before the first step, as PiSSA does. With PiSSA the loading computes the
# same change again, from the base model alone. For LoRA-GA it would need the gradients of the training data.
#
# Expected: the answers of the trained model, or an error that names `path_initial_model_for_weight_conversion`.
# Seen: PiSSA comes back. LoRA-GA comes back with other answers, without an error or a warning of PEFT.
#
# torch's wheels for a CPU are in an index of their own: name it in PIP_EXTRA_INDEX_URL where pip does not find them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0+cpu" transformers==5.19.0 peft==0.21.2
cd "$work"
HF_HOME="$work/home" HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import warnings

import peft
import torch
from peft import LoraConfig, LoraGAConfig, PeftModel, get_peft_model
from peft.tuners.lora.loraga import preprocess_loraga
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
LlamaForCausalLM(
    LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )
).save_pretrained("base")
ids = torch.arange(20, 60).reshape(2, 20)


def base():
    return LlamaForCausalLM.from_pretrained("base", dtype=torch.float32).eval()


def nats_after_loading(init, **more):
    """The largest difference of a log-probability between the trained model and the same one saved and loaded."""
    model = base()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=init, **more)
    if init == "lora_ga":
        preprocess_loraga(model, config, lambda: model(ids, labels=ids).loss.backward())
    trained = get_peft_model(model, config)
    optimizer = torch.optim.SGD([one for one in trained.parameters() if one.requires_grad], lr=0.1)
    trained(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    trained.save_pretrained(init)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = PeftModel.from_pretrained(base(), init)
    with torch.inference_mode():
        one, other = (made.eval()(input_ids=ids).logits.log_softmax(-1) for made in (trained, loaded))
    return (one - other).abs().max().item()


pissa, lora_ga = nats_after_loading("pissa"), nats_after_loading("lora_ga", lora_ga_config=LoraGAConfig())
assert pissa < 1e-3, pissa
assert lora_ga > 0.05, lora_ga
print(f"as described: peft {peft.__version__}, nats after loading: pissa {pissa:.1e}, lora_ga {lora_ga:.2f}")
PYTHON
