"""Erasure and export over HTTP."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from mindprint.receipts import KEY_FILE, is_signed_with, read_key
from mindprint.types import Receipt
from mindprint_server.store import ErasureTarget
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


async def finished(client: httpx.AsyncClient, services: Services, reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 202, reply.text
    assert reply.json()["state"] == "open"
    await services.erasures.run_open()
    done = (await client.get(f"/v1/erasures/{reply.json()['id']}")).json()
    assert done["state"] == "done"
    return dict(done)


async def test_a_user_is_erased_by_a_job_whose_signed_receipt_stays(
    client: httpx.AsyncClient, services: Services, ann: str, traces: Any
) -> None:
    await services.store.traces.add(traces("ann"))
    done = await finished(client, services, await client.delete("/v1/users/ann"))
    receipt = Receipt.model_validate(done["receipt"])
    assert receipt.counts == {
        "artifacts": 0,
        "batch_items": 0,
        "engagements": 3,
        "profiles": 0,
        "traces": 1,
        "versions": 0,
    }
    key = read_key(services.settings.data_dir / KEY_FILE)
    assert is_signed_with(receipt, key)
    forged = receipt.model_copy(update={"removed": {}})
    assert not is_signed_with(forged, key)
    assert (await client.get("/v1/users/ann")).status_code == 404
    again = await client.delete("/v1/users/ann")
    assert (again.status_code, again.json()) == (200, done)
    assert (await client.get("/v1/erasures")).json() == {"erasures": [done], "next": None}


async def test_a_user_takes_no_rows_until_the_job_is_done(
    client: httpx.AsyncClient, services: Services, ann: str, error_of: ErrorOf
) -> None:
    begun = await client.delete("/v1/users/ann")
    assert (await client.delete("/v1/users/ann")).json() == begun.json()
    news = {"engagements": [{"id": "n", "prompt": "p", "response": "r", "occurred_at": "2026-01-01T00:00:00Z"}]}
    refused = await client.post("/v1/users/ann/engagements", json=news)
    assert (refused.status_code, error_of(refused)["code"]) == (409, "user_being_erased")
    await services.erasures.run_open()
    assert (await client.post("/v1/users/ann/engagements", json=news)).status_code == 200


async def test_while_old_rows_are_removed_engagements_come_in_and_traces_are_to_be_sent_again(
    client: httpx.AsyncClient, services: Services, ann: str, error_of: ErrorOf
) -> None:
    before = datetime(2025, 1, 1, tzinfo=UTC)
    await services.store.erasures.request(ErasureTarget(kind="retention", user_id="ann", before=before))
    news = {"engagements": [{"id": "n", "prompt": "p", "response": "r", "occurred_at": "2026-01-01T00:00:00Z"}]}
    stored = await client.post("/v1/users/ann/engagements", json=news)
    assert (stored.status_code, stored.json()) == (200, {"created": 1, "unchanged": 0})
    body = {"traces": [{"engagement_id": "n", "thinking": "because"}]}
    refused = await client.post("/v1/users/ann/traces", json=body)
    assert (refused.status_code, error_of(refused)["code"]) == (503, "rows_expiring")
    assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("2", "true")
    await services.erasures.run_open()
    assert (await client.post("/v1/users/ann/traces", json=body)).status_code == 200


async def test_engagements_are_erased_by_id_and_by_time(
    client: httpx.AsyncClient, services: Services, error_of: ErrorOf
) -> None:
    rows = [
        {"id": f"a/{n}", "prompt": "p", "response": "r", "occurred_at": f"2026-01-0{n}T00:00:00Z"} for n in range(1, 5)
    ]
    await client.post("/v1/users/ann/engagements", json={"engagements": rows})
    done = await finished(client, services, await client.delete("/v1/users/ann/engagements/a%2F4"))
    assert done["receipt"]["removed"]["engagements"] == ["a/4"]
    span = {"after": "2026-01-02T00:00:00Z", "before": "2026-01-03T00:00:00+00:00"}
    done = await finished(client, services, await client.delete("/v1/users/ann/engagements", params=span))
    assert done["receipt"]["removed"]["engagements"] == ["a/2"]
    left = (await client.get("/v1/users/ann/engagements")).json()["engagements"]
    assert [one["id"] for one in left] == ["a/1", "a/3"]
    refused = await client.delete("/v1/users/ann/engagements")
    assert (refused.status_code, error_of(refused)["param"]) == (422, "after")
    missing = await client.delete("/v1/users/ann/engagements/never")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "engagement_not_found")
    far = await client.delete("/v1/users/ann/engagements", params={"after": "0001-01-01T00:00:00+14:00"})
    assert far.status_code == 422


@pytest.mark.parametrize("path", ["/v1/users/eve", "/v1/users/eve/engagements/e"])
async def test_what_never_was_is_not_found(client: httpx.AsyncClient, path: str, error_of: ErrorOf) -> None:
    missing = await client.delete(path)
    assert (missing.status_code, error_of(missing)["code"]) == (404, "user_not_found")
    assert error_of(await client.get("/v1/erasures/none"))["code"] == "erasure_not_found"


async def test_a_trainer_learns_that_its_lease_is_revoked(
    client: httpx.AsyncClient, services: Services, ann: str, traces: Any, error_of: ErrorOf
) -> None:
    await services.store.traces.add(traces("ann"))
    lease = (await client.post("/v1/leases", json={"owner": "t"})).json()
    await client.delete("/v1/users/ann")
    await services.erasures.run_open()
    beat = await client.post(f"/v1/leases/{lease['id']}/heartbeat", json={})
    assert (beat.status_code, error_of(beat)["code"]) == (409, "lease_revoked")
    assert (await client.get(f"/v1/leases/{lease['id']}")).json()["state"] == "revoked"


async def test_an_export_holds_all_that_is_stored(
    client: httpx.AsyncClient, services: Services, ann: str, traces: Any, error_of: ErrorOf
) -> None:
    trace = await services.store.traces.add(traces("ann"))
    await client.post("/v1/users/ann/profile")
    reply = await client.get("/v1/users/ann/export")
    assert reply.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        lines = {name: archive.read(name).decode().splitlines() for name in archive.namelist()}
    assert set(lines) == {"user.json", "engagements.jsonl", "profiles.jsonl", "traces.jsonl", "lineage.jsonl"}
    assert [json.loads(line)["id"] for line in lines["engagements.jsonl"]] == ["e0", "e1", "e2"]
    assert [json.loads(line)["text"] for line in lines["profiles.jsonl"]] == ["likes tea"]
    assert [json.loads(line)["id"] for line in lines["traces.jsonl"]] == [trace.id]
    assert error_of(await client.get("/v1/users/eve/export"))["code"] == "user_not_found"
