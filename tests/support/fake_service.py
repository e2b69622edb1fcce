"""A real server process on the fake engine, with an admin key, and adapter files of any size that it takes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from kills.processes import parity_items
from mindprint.local.cluster import LocalCluster
from samples import engagement, write_tensors
from weights import adapter_config

LAYER = "model.layers.0.self_attn.q_proj"
OUT, RANK = 8, 16
SETTINGS = {
    "ENGINE": "fake",
    "LOG_LEVEL": "warning",
    # Traces are accepted as they are, and a stand-in trainer has no model: see `parity_items`.
    "MIN_GAIN": "null",
    "MIN_ANCHOR": "null",
    "MIN_ANSWER_FREQUENCY": "0",
    "MIN_THINKING_WORDS": "0",
    "PREFILTER_BY_PRIOR": "false",
    "REPLAY_SHARE": "0",
    "HOLDOUT_SHARE": "0",
    "PARITY_TOLERANCE_NATS": "1000",
    "PARITY_TOLERANCE_SHARE": "1",
    "GATE": "false",
}


@dataclass(frozen=True)
class FakeService:
    """A server that runs.

    Attributes:
        url: Its address.
        key: An admin key.
        width: Width of its base model's only layer.
        http: Asks it with the admin key.
    """

    url: str
    key: str
    width: int
    http: httpx.AsyncClient

    async def store_users(self, *users: str, count: int = 3) -> None:
        """Store engagements of users."""
        items = [engagement(n, day=n % 200).model_dump(mode="json") for n in range(count)]
        for user in users:
            for at in range(0, count, 1000):
                body = {"engagements": items[at : at + 1000]}
                (await self.http.post(f"/v1/users/{user}/engagements", json=body)).raise_for_status()

    async def lease(self, user: str) -> Mapping[str, Any]:
        """Return a lease on a new trace of a user who has engagements."""
        body = {"traces": [{"engagement_id": "e000", "thinking": f"because {secrets.token_hex(4)}"}]}
        (await self.http.post(f"/v1/users/{user}/traces", json=body)).raise_for_status()
        reply = await self.http.post("/v1/leases", json={"owner": "test", "adapter": f"user/{user}", "ttl_s": 600})
        assert reply.status_code == 201, reply.text
        lease: Mapping[str, Any] = reply.json()
        return lease

    async def published(self, reply: httpx.Response) -> Mapping[str, Any]:
        """Wait until an upload that was answered so is published, and return its version."""
        assert reply.status_code == 202, reply.text
        publication = reply.json()
        async with asyncio.timeout(60):
            while publication["finished_at"] is None:
                await asyncio.sleep(0.05)
                publication = (await self.http.get(f"/v1/publications/{publication['id']}")).json()
        assert publication["state"] == "published", publication
        version: Mapping[str, Any] = publication["result"]
        return version


@asynccontextmanager
async def fake_service(folder: Path, *, width: int = 8, **settings: str) -> AsyncIterator[FakeService]:
    """Run a server.

    Args:
        folder: An existing folder for its model, log and data.
        width: Width of the base model's only layer. An adapter's weights take 64 bytes for each of it.
        settings: Further settings, by variable name without `MINDPRINT_`.
    """
    model, key = folder / "model", secrets.token_hex(20)
    model.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (model / name).write_text("{}")
    write_tensors(model / "model.safetensors", {f"{LAYER}.weight": (OUT, width)})
    with LocalCluster(folder) as cluster:
        await cluster.start_server(model, SETTINGS | {"ADMIN_KEY": key} | settings)
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=cluster.url, headers=headers, timeout=120, trust_env=False) as http:
            yield FakeService(cluster.url, key, width, http)


def upload_parts(lease: Mapping[str, Any], folder: Path, width: int) -> dict[str, Any]:
    """Return the multipart body of a lease's upload, with weights of 64 bytes for each unit of width.

    Args:
        lease: The lease.
        folder: Where the weights may be written.
        width: Width of the base model's only layer.
    """
    file = folder / f"weights-{lease['id']}"
    layer = f"base_model.model.{LAYER}"
    write_tensors(file, {f"{layer}.lora_A.weight": (RANK, width), f"{layer}.lora_B.weight": (OUT, RANK)})
    weights = file.read_bytes()
    file.unlink()
    manifest = {
        "adapter": lease["adapter"], "base_digest": lease["base_digest"],
        "weights_sha256": hashlib.sha256(weights).hexdigest(), "trace_ids": lease["trace_ids"],
        "samples": {"slow": len(lease["trace_ids"])}, "settings": {}, "losses": {}, "tokens": 1, "seconds": 0.1,
        "trainer": "stand-in", "parity_items": parity_items(),
    }  # fmt: skip
    config = adapter_config(r=RANK)
    return {"manifest": (None, json.dumps(manifest)), "config": ("c", config), "weights": ("w", weights)}
