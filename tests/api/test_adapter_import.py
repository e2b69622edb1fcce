"""Imports over HTTP to the real adapter service on the fake engine."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from mindprint.types import LeaseRequest
from mindprint_server.app import create_app
from mindprint_server.engine import AdapterRef, Priority
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import Settings
from mindprint_server.store import ClaimPolicy, ErasureTarget, Holdout
from mindprint_server.wiring import Services
from samples import engagement, write_tensors
from scripted import serving
from uploads import accepted, ended, leased
from weights import BASE, adapter_config, weights_file

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


class Importer:
    """Imports adapters as the command does."""

    def __init__(self, services: Services, client: httpx.AsyncClient) -> None:
        self.services = services
        self.client = client

    async def manifest(self, key: str, weights: bytes, *, version: int = 1, shift: float = 0.0) -> dict[str, Any]:
        encode = self.services.engine.tokenizer.encode
        prompt, target = encode("a prompt"), encode(" yes, it is so")

        async def logprobs(adapter: AdapterRef | None) -> list[float]:
            return [
                (
                    await self.services.engine.next_logprobs(
                        [*prompt, *target[:n]], [token], adapter=adapter, priority=Priority.PARITY_CHECK
                    )
                )[0]
                for n, token in enumerate(target)
            ]

        # What the fake engine answers depends on the version's name.
        ours = await logprobs(AdapterRef(key, version, "", 99, Path()))
        item = {
            "prompt_ids": prompt,
            "target_ids": target,
            "logprobs": [value - shift for value in ours],
            "base_logprobs": await logprobs(None),
        }
        return {
            "adapter": key,
            "base_digest": self.services.info().base_digest,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "trace_ids": [],
            "samples": {},
            "settings": {},
            "losses": {},
            "tokens": 0,
            "seconds": 0.0,
            "trainer": "peft 0.21",
            "parity_items": [item],
        }

    async def send(
        self, key: str = "user/ann", *, config: bytes | None = None, path: str | None = None, **changes: Any
    ) -> httpx.Response:
        weights = weights_file()
        made = {name: changes.pop(name) for name in ("version", "shift") if name in changes}
        manifest = await self.manifest(key, weights, **made)
        return await self.client.post(
            f"/v1/adapters/{path or key}/versions",
            files={
                "manifest": (None, json.dumps(manifest | changes)),
                "config": ("c", adapter_config() if config is None else config),
                "weights": ("w", weights),
            },
        )

    async def publication(self, response: httpx.Response) -> dict[str, Any]:
        """Wait until an import has ended, and return its publication."""
        assert response.status_code == 202, response.text
        assert response.headers["location"] == f"/v1/publications/{response.json()['id']}"
        with suppress(Invalid):
            await ended(self.services, response.json()["id"])
        found: dict[str, Any] = (await self.client.get(response.headers["location"])).json()
        return found

    async def lineage(self, key: str, number: int) -> dict[str, Any]:
        found: dict[str, Any] = (await self.client.get(f"/v1/adapters/{key}/versions/{number}/lineage")).json()
        return found


@pytest.fixture
async def importer(tmp_path: Path) -> AsyncIterator[Importer]:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "tokenizer.json").write_text("{}")
    write_tensors(base / "model.safetensors", BASE)
    settings = Settings(
        engine="fake",
        model=str(base),
        data_dir=tmp_path / "server",
        gate=False,
        profile_every=1000,
        holdout_min_engagements=4,
        publication_claim_ttl_s=1,
    )
    async with serving(settings, FakeEngine(model_path=base)) as services:
        transport = httpx.ASGITransport(create_app(settings, services=services), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await services.store.engagements.add("ann", [engagement(n) for n in range(12)])
            yield Importer(services, client)


@pytest.mark.parametrize("key", ["user/ann", "cohort/everyone"])
async def test_import_becomes_the_live_version_and_its_lineage_says_imported(importer: Importer, key: str) -> None:
    version = (await importer.publication(await importer.send(key)))["result"]
    assert (version["version"], version["state"], version["traces"]) == (1, "live", 0)
    lineage = await importer.lineage(key, 1)
    assert (lineage["imported"], lineage["traces"], lineage["fast"]) == (True, [], {})
    assert list(lineage["held_out"]) == ["ann"], "the gate's engagements"
    download = await importer.client.get(f"/v1/adapters/{key}/versions/1/download")
    assert download.status_code == 200
    events = (await importer.client.get("/v1/audit")).json()["events"]
    assert [(one["action"], one["objects"]["version"]) for one in events if one["action"] == "version.import"] == [
        ("version.import", 1)
    ]


async def test_second_import_makes_a_version_of_its_own_after_the_first(importer: Importer) -> None:
    assert (await importer.publication(await importer.send()))["version"] == 1
    second = (await importer.publication(await importer.send(version=2)))["result"]
    assert (second["version"], second["parent"], second["state"]) == (2, 1, "live")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"config": adapter_config(use_dora=True)}, "adapter_config"),
        ({"trace_ids": ["t"]}, "manifest_mismatch"),
        ({"base_digest": "sha256:other"}, "adapter_base_model"),
        ({"path": "cohort/everyone"}, "manifest_mismatch"),
    ],
)
async def test_import_that_cannot_be_served_is_refused_at_once(
    importer: Importer, error_of: ErrorOf, changes: dict[str, Any], code: str
) -> None:
    response = await importer.send(**changes)
    assert (response.status_code, error_of(response)["code"]) == (422, code)
    await assert_nothing_is_live_or_leased(importer)


async def test_import_that_answers_otherwise_never_goes_live(importer: Importer) -> None:
    publication = await importer.publication(await importer.send(shift=9.0))
    assert (publication["state"], publication["code"]) == ("refused", "parity_failed")
    await assert_nothing_is_live_or_leased(importer)


async def assert_nothing_is_live_or_leased(importer: Importer) -> None:
    assert (await importer.services.store.live_versions.get("user/ann")).live is None
    assert await importer.services.store.leases.open_import(
        "user/ann", Holdout(), ttl_s=9, max_attempts=3, max_users=1
    ), "the lease of the refused import has ended"


@pytest.mark.parametrize("key", ["user/nobody", "cohort/nobody"])
async def test_import_for_an_unknown_owner_is_404(importer: Importer, error_of: ErrorOf, key: str) -> None:
    response = await importer.send(key)
    assert (response.status_code, error_of(response)["code"].partition("_")[2]) == (404, "not_found")


async def test_import_while_a_trainer_holds_the_adapter_is_409(importer: Importer, error_of: ErrorOf) -> None:
    lease = await leased(importer.services)
    response = await importer.send()
    assert (response.status_code, error_of(response)["code"]) == (409, "adapter_leased")
    assert "release its lease if nothing is uploaded" in error_of(response)["message"]
    assert (await importer.services.store.leases.get(lease.id)).state == "active"


async def test_same_import_again_while_its_checks_run_is_the_same_job(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, publisher = asyncio.Event(), importer.services.publications._publisher
    check = publisher._check_parity

    async def wait(*arguments: Any) -> Any:
        await go_on.wait()
        return await check(*arguments)

    monkeypatch.setattr(publisher, "_check_parity", wait)
    first, second = await importer.send(), await importer.send()
    assert (second.status_code, second.json()["id"]) == (202, first.json()["id"])
    go_on.set()
    assert (await importer.publication(second))["version"] == 1


async def test_lease_of_an_import_holds_while_its_files_are_stored(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publications, store = importer.services.publications, importer.services.store
    accept, ttl_s = publications.accept, importer.services.settings.publication_claim_ttl_s

    async def store_slowly(lease_id: str, *arguments: Any) -> Any:
        deadline = (await store.leases.get(lease_id)).deadline
        while (await store.leases.get(lease_id)).deadline < deadline + timedelta(seconds=2 * ttl_s):  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0.01)
        assert await store.leases.claim(LeaseRequest(owner="t"), ClaimPolicy(max_attempts=3)) is None
        return await accept(lease_id, *arguments)

    monkeypatch.setattr(publications, "accept", store_slowly)
    assert (await importer.publication(await importer.send()))["state"] == "published"


async def test_import_ends_no_late_lease_of_another_adapter(importer: Importer) -> None:
    store = importer.services.store
    await store.engagements.add("bob", [engagement(n) for n in range(12)])
    lease = await leased(importer.services, "user/bob")
    later = datetime.now(UTC) + timedelta(hours=2)
    await store.leases.open_import("user/ann", Holdout(), ttl_s=9, max_attempts=3, max_users=1, now=later)
    assert (await store.leases.get(lease.id)).state == "active"


async def test_import_for_a_user_who_is_being_erased_is_409(importer: Importer, error_of: ErrorOf) -> None:
    await importer.services.store.erasures.request(ErasureTarget(kind="user", user_id="ann"))
    response = await importer.send()
    assert (response.status_code, error_of(response)["code"]) == (409, "user_being_erased")


async def test_erasure_of_a_user_removes_the_imported_version(importer: Importer) -> None:
    await importer.publication(await importer.send())
    plan = await importer.services.store.erasures.collect(
        (await importer.services.store.erasures.request(ErasureTarget(kind="user", user_id="ann"))).id
    )
    assert plan is not None
    assert plan.versions == ["user/ann@1"]


async def test_training_after_an_import_starts_afresh_and_is_compared_with_it(importer: Importer) -> None:
    await importer.publication(await importer.send())
    await accepted(importer.services)
    lease = await importer.services.store.leases.claim(LeaseRequest(owner="t"), ClaimPolicy(max_attempts=3))
    assert lease is not None
    assert (lease.start, lease.parent) == (None, 1)
