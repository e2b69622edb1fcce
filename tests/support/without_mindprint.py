"""A process of its own: loads an exported adapter with `peft` and `vllm`, where no Mindprint can be imported.

Arguments: the base's folder, the adapter's folder, a prompt's ids as JSON, how many tokens. Prints both continuations.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def by_peft(base: str, adapter: str, prompt: list[int], count: int) -> list[int]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, adapter).eval()
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def by_vllm(base: str, adapter: str, prompt: list[int], count: int) -> list[int]:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    llm = LLM(model=base, enable_lora=True, max_lora_rank=16, dtype="float32", enforce_eager=True, max_model_len=512)
    sampling = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
    [reply] = llm.generate(
        [{"prompt_token_ids": prompt}], sampling, lora_request=LoRARequest("exported", 1, adapter), use_tqdm=False
    )
    return list(reply.outputs[0].token_ids)


if __name__ == "__main__":
    for name in ("mindprint", "mindprint_server", "mindprint_trainer"):
        sys.modules[name] = None  # type: ignore[assignment]
    base, adapter, prompt, count = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
    print(json.dumps({"peft": by_peft(base, adapter, prompt, count), "vllm": by_vllm(base, adapter, prompt, count)}))
