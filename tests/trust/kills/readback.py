"""Reads back what a server and the disks hold, for the checker."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx

from kills.checker import Observed
from kills.facts import Claimed, Facts, Published, VersionKey
from mindprint.types import Adapter, ApiKey, Batch, Engagement, Trace
from mindprint_server.adapters.artifact_folders import PARTIAL, is_digest

PAGE = 1000
WEIGHTS = "adapter_model.safetensors"


def read_journal(path: Path, facts: Facts) -> None:
    """Add what a trainer noted to the facts."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if "claimed" in entry:
            facts.leases[entry["claimed"]] = Claimed(entry["adapter"], tuple(entry["trace_ids"]))
        elif "published" in entry:
            key = entry["adapter"], entry["published"]
            facts.versions[key] = Published(entry["digest"], tuple(entry["trace_ids"]))
        else:
            facts.answers[entry["answer"]] += 1
            if "unexpected" in entry:
                facts.unexpected.append(entry["unexpected"])


async def observe(client: httpx.AsyncClient, facts: Facts, data_dirs: Iterable[Path], artifacts: Path) -> Observed:
    """Read everything back.

    Args:
        client: Calls a server that runs, with a key of the scope `admin`.
        facts: Names the leases that are looked at: they have no list.
        data_dirs: Data folders of all replicas.
        artifacts: The artifact store that they share.
    """
    observed = Observed()
    async for user in pages(client, "/v1/users", "users"):
        async for one in pages(client, f"/v1/users/{user['id']}/engagements", "engagements"):
            observed.engagements[user["id"], one["id"]] = Engagement.model_validate(one)
    async for one in pages(client, "/v1/traces", "traces"):
        observed.traces[one["id"]] = Trace.model_validate(one)
    async for one in pages(client, "/v1/batches", "batches"):
        observed.batches[one["id"]] = Batch.model_validate(one)
    observed.adapters = [Adapter.model_validate(one) async for one in pages(client, "/v1/adapters", "adapters")]
    for adapter in observed.adapters:
        for version in adapter.versions:
            await _read_version(client, observed, (adapter.key, version.version), version.files)
    for lease in facts.leases:
        response = await client.get(f"/v1/leases/{lease}")
        if response.is_success:
            observed.leases[lease] = response.json()["adapter"]
    cohorts = pages(client, "/v1/cohorts", "cohorts")
    observed.cohorts = {one["name"]: one["description"] async for one in cohorts}
    observed.keys = {one["id"]: ApiKey.model_validate(one) async for one in pages(client, "/v1/keys", "keys")}
    observed.artifacts, unfinished = list_artifacts(artifacts)
    observed.leftovers += unfinished
    for folder in data_dirs:
        for place in ("uploads", "downloads"):
            observed.leftovers += [f"{place}/{path.name}" for path in (folder / place).glob("*")]
    return observed


def list_artifacts(store: Path) -> tuple[set[str], list[str]]:
    """Return the digests of the artifacts in a store, and the names of folders that were not written to their end."""
    names = [path.name for path in store.iterdir()] if store.exists() else []
    digests = {name for name in names if is_digest(name)}
    return digests, [f"artifacts/{name}" for name in names if name.endswith(PARTIAL)]


async def read_batches(client: httpx.AsyncClient) -> list[Batch]:
    """Return the newest batches: those that run are among them."""
    batches = (await _get(client, f"/v1/batches?limit={PAGE}")).json()["batches"]
    return [Batch.model_validate(one) for one in batches]


async def _read_version(client: httpx.AsyncClient, observed: Observed, key: VersionKey, files: bool) -> None:
    path = f"/v1/adapters/{key[0]}/versions/{key[1]}"
    lineage = (await _get(client, f"{path}/lineage")).json()
    observed.trained_on[key] = tuple(one["trace_id"] for one in lineage["traces"])
    if files:
        response = await client.get(f"{path}/download")
        observed.archives[key] = _weights_digest(response.content) if response.is_success else None


def _weights_digest(archive: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        return hashlib.sha256(files.read(WEIGHTS)).hexdigest()


async def pages(client: httpx.AsyncClient, path: str, field: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the entries of a list, page after page."""
    after = ""
    while True:
        page = (await _get(client, f"{path}?limit={PAGE}{after}")).json()
        for one in page[field]:
            yield one
        if page["next"] is None:
            return
        after = f"&after={page['next']}"


async def _get(client: httpx.AsyncClient, path: str) -> httpx.Response:
    response = await client.get(path)
    response.raise_for_status()
    return response
