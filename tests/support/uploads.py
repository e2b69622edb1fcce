"""Versions on the fake engine, from an accepted trace to the upload, without a trainer."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mindprint.types import Lease, LeaseRequest, Manifest, ParityItem, Provenance, Trace, Version
from mindprint_server.engine import AdapterRef, Priority
from mindprint_server.exceptions import Conflict, Invalid
from mindprint_server.store import ClaimPolicy, new_id
from mindprint_server.wiring import Services
from samples import engagement, write_tensors

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
_number = itertools.count()


async def accepted(services: Services, user: str = "ann") -> Trace:
    """A new engagement of the user's, with an accepted trace that waits."""
    number = next(_number)
    # Of the past, however many there are: no test is about their times.
    event = engagement(number, day=number % 200)
    await services.store.engagements.add(user, [event])
    made = Provenance(
        model="base", adapter_digest=None, base_digest="b", prompt_version="1", mode="personal", sampling={}, seed=1,
        engine="fake 1",
    )  # fmt: skip
    trace = Trace(
        id=new_id(), user_id=user, engagement_id=event.id, mode="personal", query=event.prompt, thinking="because",
        answer="yes", verdict="accepted", state="waiting", provenance=made, created_at=datetime.now(UTC),
    )  # fmt: skip
    return await services.store.traces.add(trace)


async def leased(services: Services, key: str = "user/ann", *, user: str | None = None) -> Lease:
    """A lease on at least one new trace."""
    await accepted(services, user or key.partition("/")[2])
    lease = await services.store.leases.claim(
        LeaseRequest(owner="t", adapter=key, max_traces=9), ClaimPolicy(max_attempts=3, cohort_min_traces=1)
    )
    assert lease is not None
    return lease


async def upload(
    services: Services,
    lease: Lease,
    folder: Path,
    *,
    mark: int = 0,
    number: int | None = None,
    peft_folder: Path | None = None,
    **changes: Any,
) -> Version:
    """What a trainer does at the end. `mark` makes other weights; `changes` are of the manifest.

    `number` is the version's, where it is not the one after the newest. `peft_folder` holds a real adapter.
    """
    weights = folder / f"upload-{next(_number)}"
    config = json.dumps({"peft_type": "LORA", "r": 4 + mark, "lora_alpha": 8, "target_modules": ["q_proj"]}).encode()
    if peft_folder is None:
        write_tensors(weights, {f"{LAYER}.lora_A.weight": (4 + mark, 8), f"{LAYER}.lora_B.weight": (8, 4 + mark)})
    else:
        shutil.copy(peft_folder / "adapter_model.safetensors", weights)
        config = (peft_folder / "adapter_config.json").read_bytes()
    encode = services.engine.tokenizer.encode
    prompt, target = encode("a prompt"), encode(" yes, it is so")
    # What the fake engine answers depends on the version's name, which is not given out yet.
    versions = [one.version for each in await services.store.adapters.list_page() if each.key == lease.adapter
                for one in each.versions]  # fmt: skip
    ref = AdapterRef(lease.adapter, number or max(versions, default=0) + 1, "", 99, folder)

    async def logprobs(which: AdapterRef | None) -> list[float]:
        one_by_one = [
            services.engine.next_logprobs(
                [*prompt, *target[:n]], [token], adapter=which, priority=Priority.PARITY_CHECK
            )
            for n, token in enumerate(target)
        ]
        return [value for [value] in await asyncio.gather(*one_by_one)]

    ours, base = await logprobs(ref), await logprobs(None)
    item = ParityItem(prompt_ids=prompt, target_ids=target, logprobs=ours, base_logprobs=base)
    digest = await asyncio.to_thread(lambda: hashlib.sha256(weights.read_bytes()).hexdigest())
    manifest = Manifest(
        adapter=lease.adapter, base_digest=services.info().base_digest, weights_sha256=digest,
        trace_ids=lease.trace_ids, samples={}, settings={}, losses={}, tokens=1, seconds=1, trainer="t",
        parity_items=[item],
    )  # fmt: skip
    return await hand_over(services, lease.id, manifest.model_copy(update=changes), config, weights)


async def published(services: Services, folder: Path, key: str = "user/ann", *, user: str | None = None) -> Version:
    """The next version of an adapter, taken into service."""
    return await upload(services, await leased(services, key, user=user), folder)


async def hand_over(services: Services, lease_id: str, manifest: Manifest, config: bytes, weights: Path) -> Version:
    """Upload, wait until the server has checked it, and return the version, or raise why there is none."""
    publication = await services.publications.accept(lease_id, manifest, config, weights)
    return await ended(services, publication.id)


async def ended(services: Services, publication_id: str) -> Version:
    """Wait until a publication has ended, and return its version, or raise why there is none."""
    async with asyncio.timeout(60):
        while await _is_running(services, publication_id):  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0.005)
    publication = await services.publications.get(publication_id)
    if publication.result is not None:
        return publication.result
    kind = Invalid if publication.state == "refused" else Conflict
    raise kind(publication.code or "", publication.message or "")


async def _is_running(services: Services, publication_id: str) -> bool:
    if (await services.publications.get(publication_id)).finished_at is None:
        return True
    return publication_id in services.publications._running  # it still follows the pointers
