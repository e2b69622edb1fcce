"""Versions on the real engine: made adapters, taken the true way."""

from __future__ import annotations

import shutil
from pathlib import Path

from mindprint.types import BatchRequest, Lease, LeaseRequest, Manifest, ParityItem, Version
from mindprint_server.adapters.validation import sha256
from mindprint_server.wiring import Services
from samples import engagement
from tiny import logprobs
from uploads import hand_over


async def live_version(services: Services, adapter: Path, tmp_path: Path, number: int) -> Version:
    """Take a made adapter through the real steps: lease, upload, parity check on the engine, publication."""
    # Ever older engagements, so that the memory of a question asked now stays the same.
    news = [engagement(n, day=-n) for n in range(8 * number - 8, 8 * number)]
    await services.store.engagements.add("ann", news)
    batch, _ = await services.batches.submit(BatchRequest(seed=number))
    async for state in services.batches.watch(batch.id):
        assert state.state != "failed", state.error
    lease: Lease | None = await services.leases.claim(LeaseRequest(owner="test", adapter="user/ann"))
    assert lease is not None
    base = Path(services.engine.info().model_path)
    prompt, target = services.engine.tokenizer.encode("A canary sings. "), services.engine.tokenizer.encode("yes")
    rows = {which: logprobs(base, prompt + target, adapter=which) for which in (adapter, None)}
    values = {which: [row[len(prompt) + i - 1][token] for i, token in enumerate(target)] for which, row in rows.items()}
    weights = Path(shutil.copy(adapter / "adapter_model.safetensors", tmp_path / f"weights-{number}"))
    manifest = Manifest(
        adapter=lease.adapter,
        base_digest=lease.base_digest,
        weights_sha256=sha256(weights),
        trace_ids=lease.trace_ids,
        samples={},
        settings={},
        losses={},
        tokens=0,
        seconds=0,
        trainer="test",
        parity_items=[
            ParityItem(prompt_ids=prompt, target_ids=target, logprobs=values[adapter], base_logprobs=values[None])
        ],
    )
    return await hand_over(services, lease.id, manifest, config_of(adapter), weights)


def config_of(adapter: Path) -> bytes:
    return (adapter / "adapter_config.json").read_bytes()
