"""Batches, leases and uploads of made-up users."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mindprint.types import Batch, BatchRequest, Lease, LeaseRequest, Manifest, ParityItem, Version
from mindprint_server.engine import AdapterRef, Priority, Sampling
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.wiring import Services
from samples import engagement, write_tensors
from uploads import hand_over

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


async def fill(services: Services, user: str = "ann", count: int = 12) -> None:
    await services.store.engagements.add(user, [engagement(n) for n in range(count)])


async def finished(services: Services, request: BatchRequest) -> Batch:
    batch, _ = await services.batches.submit(request)
    async for state in services.batches.watch(batch.id):
        batch = state
    return batch


async def leased(services: Services, user: str = "ann") -> Lease:
    await fill(services, user)
    await finished(services, BatchRequest(users=[user]))
    lease = await services.leases.claim(LeaseRequest(owner="t", adapter=f"user/{user}"))
    assert lease is not None
    return lease


async def upload(services: Services, lease: Lease, folder: Path, *, mark: int = 0, honest: bool = True) -> Version:
    """What a trainer does: weights, config and a parity item that holds if `honest`."""
    weights = folder / f"upload-{lease.id}-{mark}"
    write_tensors(weights, {f"{LAYER}.lora_A.weight": (4 + mark, 8), f"{LAYER}.lora_B.weight": (8, 4 + mark)})
    prompt, target = services.engine.tokenizer.encode("a prompt"), services.engine.tokenizer.encode(" yes")
    # The fake engine's answer depends on the version's name, which is the next number.
    newest = max((v.version for a in await services.store.adapters.list_page() for v in a.versions), default=0)
    ref = AdapterRef(lease.adapter, newest + 1, "", 99, folder)

    async def logprobs(adapter: AdapterRef | None) -> list[float]:
        return await services.engine.next_logprobs(prompt, target, adapter=adapter, priority=Priority.PARITY_CHECK)

    ours, base = await logprobs(ref), await logprobs(None)
    item = ParityItem(
        prompt_ids=prompt,
        target_ids=target,
        logprobs=ours if honest else [value - 1 for value in ours],
        base_logprobs=base,
    )
    manifest = Manifest(
        adapter=lease.adapter,
        base_digest=lease.base_digest,
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        trace_ids=lease.trace_ids,
        samples={"slow": 1, "fast": 1},
        settings={},
        losses={},
        tokens=1,
        seconds=1,
        trainer="test",
        parity_items=[item],
    )
    config = json.dumps({"peft_type": "LORA", "r": 4 + mark, "lora_alpha": 8, "target_modules": ["q_proj"]}).encode()
    return await hand_over(services, lease.id, manifest, config, weights)


class Slow(FakeEngine):
    def __init__(self, folder: Path) -> None:
        super().__init__(model_path=folder, delay_s=0.02)


class Broken(FakeEngine):
    async def generate(self, prompt_ids, sampling: Sampling, *, adapter, priority):  # type: ignore[no-untyped-def]
        if sampling.temperature > 0:
            raise RuntimeError("no luck")
        return await super().generate(prompt_ids, sampling, adapter=adapter, priority=priority)


async def second_version(services: Services, folder: Path) -> None:
    await services.store.engagements.add("ann", [engagement(n) for n in range(12, 24)])
    await finished(services, BatchRequest(seed=5))
    lease = await services.leases.claim(LeaseRequest(owner="t", adapter="user/ann"))
    assert lease is not None
    assert lease.parent == 1
    await upload(services, lease, folder, mark=1)
