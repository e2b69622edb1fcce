#!/usr/bin/env bash
# transformers 5.19.0: `get_decoder()` returns the vocabulary head of a ModernBERT decoder, not its decoder.
#
# Where it hurts: trainers call `model.get_decoder()` to get hidden states without computing the logits of a whole
# vocabulary. Here the call succeeds and returns a Linear layer. Given token ids it fails far from the cause, and given
# hidden states it returns logits without a word.
#
# Expected: the part of the model that turns token ids into hidden states, as for a Llama.
# Seen: LlamaForCausalLM: LlamaModel. ModernBertDecoderForCausalLM: a Linear with as many outputs as the vocabulary has
#   tokens; it is the same object as `get_output_embeddings()`. The hidden states come from `base_model`.
#
# torch's wheels for a CPU are in an index of their own: name it in PIP_EXTRA_INDEX_URL where pip does not find them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0+cpu" transformers==5.19.0
HF_HOME="$work/home" HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=100,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
llama = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES))
modern = AutoModelForCausalLM.from_config(
    AutoConfig.for_model("modernbert-decoder", **SIZES, cls_token_id=1, sep_token_id=2)
)
assert type(llama.get_decoder()).__name__ == "LlamaModel"

decoder = modern.get_decoder()
assert isinstance(decoder, torch.nn.Linear), type(decoder)
assert decoder is modern.get_output_embeddings()
assert decoder.out_features == SIZES["vocab_size"]

ids = torch.arange(5)[None] + 10
states = modern.base_model(ids).last_hidden_state
assert states.shape == (1, 5, SIZES["hidden_size"])
assert decoder(states).shape == (1, 5, SIZES["vocab_size"])
print("as described: transformers", transformers.__version__)
PYTHON
