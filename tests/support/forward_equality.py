"""The trainer's log-probabilities and gradients beside those of transformers' own forward, for one loaded base."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mindprint_trainer.data.packing import forward_passes, pack_rows
from mindprint_trainer.data.tokenization import Segment, TokenizedSample
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.lora import LoraAdapter, LoraConfig, LoraModelView, init_adapter
from mindprint_trainer.model.module_copy import copy_modules
from mindprint_trainer.objective.batch import collate
from mindprint_trainer.objective.loss import backward

CONFIG = LoraConfig(rank=4, alpha=4, target_modules=())


def sequences() -> list[TokenizedSample]:
    """Two sequences with a common prefix, one without, and prompts of several lengths."""
    draws = torch.Generator().manual_seed(1)
    ids = [torch.randint(16, 112, (length,), generator=draws).tolist() for length in (26, 18, 22)]
    ids[1][:9] = ids[0][:9]
    return [
        TokenizedSample("fast", str(i), tuple(one), (Segment("answer", 5 + i, len(one)),)) for i, one in enumerate(ids)
    ]


def random_adapter(base: Base, targets: tuple[str, ...]) -> LoraAdapter:
    adapter = init_adapter(base.model, LoraConfig(CONFIG.rank, CONFIG.alpha, targets), 0.0, 3)
    with torch.no_grad():
        for lora_B in adapter.lora_B.values():
            lora_B.normal_(std=0.1, generator=adapter.generator)
    return adapter


def trained(base: Base, adapter: LoraAdapter) -> tuple[list[float], dict[str, Tensor]]:
    """Return the trainer's log-probabilities of all targets, and the gradient of their sum by B."""
    samples, masked = sequences(), base.path.is_masked
    rows = pack_rows(
        samples, range(len(samples)), 100, share_prefixes=base.path.shares_prefixes, masked=masked, adapter=0
    )
    view = LoraModelView(base.model, [adapter], base.path)
    found: dict[tuple[int, int], float] = {}
    view.set_training(True)
    for rows_of_pass in forward_passes(rows, 60, masked=masked):
        batch = collate(rows_of_pass, base.device, masked=masked)
        targets = list(batch.targets)
        values = backward(view, batch, [1.0] * len(targets), None, 7)
        found |= {(target.sequence, target.position): -value for target, value in zip(targets, values, strict=True)}
    gradients = {name: lora_B.grad for name, lora_B in adapter.lora_B.items() if lora_B.grad is not None}
    return [found[place] for place in sorted(found)], gradients


def transformers_own(base: Base, adapter: LoraAdapter) -> tuple[list[float], dict[str, Tensor]]:
    """Return the same by transformers' own forward, one sequence at a time, with the adapter merged into it."""
    model: Any = copy_modules(base.model)
    model.set_attn_implementation("eager")
    layers: dict[str, nn.Linear] = {name: model.get_submodule(name) for name in adapter.lora_A}
    for name, layer in layers.items():
        merged = adapter.lora_B[name] @ adapter.lora_A[name] * adapter.config.scaling
        layer.weight = nn.Parameter(layer.weight + merged.detach())
    values: list[float] = []
    for sample in sequences():
        logprobs = model(input_ids=torch.tensor([sample.ids]), use_cache=False).logits[0].float().log_softmax(-1)
        places = range(sample.segments[0].start, sample.segments[0].stop)
        chosen = torch.stack([logprobs[place - 1, sample.ids[place]] for place in places])
        (-chosen.sum()).backward()  # type: ignore[no-untyped-call]
        values += chosen.tolist()
    gradients = {
        name: layer.weight.grad @ adapter.lora_A[name].detach().T * adapter.config.scaling
        for name, layer in layers.items()
        if layer.weight.grad is not None
    }
    return values, gradients
