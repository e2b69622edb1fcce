from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from mindprint.types import Manifest, Trace, Version
from mindprint_server.services import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
KEY = "/v1/adapters/user/ann"


@pytest.fixture
async def two_versions(
    ann: str, services: Services, traces: Callable[..., Trace], manifest: Callable[..., Manifest]
) -> None:
    for n in range(2):
        await services.store.add_trace(traces(engagement_id=f"e{n}"))
        lease = await services.store.claim(
            owner="t", adapter="user/ann", ttl_s=60, min_traces=1, max_traces=9, max_attempts=3
        )
        assert lease is not None
        number = await services.store.next_version("user/ann")
        version = Version(
            adapter="user/ann", version=number, state="live", digest=f"d{n}", base_digest="b", traces=1,
            manifest=manifest(), created_at=datetime.now(UTC),
        )  # fmt: skip
        await services.store.complete(lease.id, version)


@pytest.mark.usefixtures("two_versions")
async def test_promote_and_roll_back(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    listed = (await client.get("/v1/adapters")).json()["adapters"]
    assert [(one["key"], one["live"], len(one["versions"])) for one in listed] == [("user/ann", 2, 2)]
    assert (await client.post(f"{KEY}/rollback")).json()["live"] == 1
    response = await client.post(f"{KEY}/rollback")
    assert (response.status_code, error_of(response)["code"]) == (409, "nothing_to_roll_back")
    for version in (2, None):
        assert (await client.post(f"{KEY}/promote", json={"version": version})).json()["live"] == version
    assert (await client.get(KEY)).json()["live"] is None


@pytest.mark.usefixtures("two_versions")
async def test_a_version_that_is_not_there(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.post(f"{KEY}/promote", json={"version": 9})
    assert (response.status_code, error_of(response)["code"]) == (404, "version_not_found")
    for body in ({}, {"version": 0}, {"version": "latest"}):
        response = await client.post(f"{KEY}/promote", json=body)
        assert (response.status_code, error_of(response)["param"]) == (422, "version")
    assert (await client.get(KEY)).json()["live"] == 2


async def test_unknown(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.get("/v1/adapters/cohort/none")
    assert (response.status_code, error_of(response)["code"]) == (404, "adapter_not_found")
