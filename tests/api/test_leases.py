"""Leases over HTTP, and uploads: complete, wrong, too large, cut off."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from mindprint.types import Lease, Manifest, Trace
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
MakeManifest = Callable[..., Manifest]
WEIGHTS = bytes(range(256)) * 9000  # above the size at which they are written piece by piece
BOUNDARY = {"content-type": "multipart/form-data; boundary=xyz"}


@pytest.fixture
async def lease(ann: str, client: httpx.AsyncClient, services: Services, traces: Callable[..., Trace]) -> Lease:
    await services.store.traces.add(traces(engagement_id="e0"))
    response = await client.post("/v1/leases", json={"owner": "t"})
    assert response.status_code == 201
    return Lease.model_validate(response.json())


def form(manifest: Manifest, weights: bytes = WEIGHTS) -> dict[str, Any]:
    return {
        "data": {"manifest": manifest.model_dump_json()},
        "files": {"config": ("adapter_config.json", b"{}"), "weights": ("adapter_model.safetensors", weights)},
    }


def part(name: str, text: bytes = b"x") -> bytes:
    return b'--xyz\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), text)


def left_over(settings: Settings) -> list[str]:
    folder = settings.data_dir / "uploads"
    return [one.name for one in folder.iterdir()] if folder.exists() else []


async def test_nothing_is_waiting(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/leases", json={"owner": "t"})
    assert (response.status_code, response.content) == (204, b"")


async def test_heartbeat_release_read(lease: Lease, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    beat = await client.post(f"/v1/leases/{lease.id}/heartbeat", json={"ttl_s": 600})
    assert Lease.model_validate(beat.json()).deadline > lease.deadline
    assert (await client.post(f"/v1/leases/{lease.id}/release")).json()["state"] == "released"
    assert (await client.get(f"/v1/leases/{lease.id}")).json()["state"] == "released"
    lost = await client.post(f"/v1/leases/{lease.id}/heartbeat", json={})
    assert (lost.status_code, error_of(lost)["code"]) == (409, "lease_lost")


async def test_unknown_leases(client: httpx.AsyncClient, error_of: ErrorOf, manifest: MakeManifest) -> None:
    for end, kwargs in (("/heartbeat", {"json": {}}), ("/release", {}), ("/complete", form(manifest()))):
        response = await client.post(f"/v1/leases/nothing{end}", **kwargs)
        assert (response.status_code, error_of(response)["code"]) == (404, "lease_not_found")


async def test_an_upload_becomes_a_version(
    lease: Lease, client: httpx.AsyncClient, services: Services, settings: Settings, manifest: MakeManifest
) -> None:
    response = await client.post(f"/v1/leases/{lease.id}/complete", **form(manifest()))
    publication = response.json()
    assert (response.status_code, publication["version"]) == (202, 1)
    assert response.headers["location"] == f"/v1/publications/{publication['id']}"
    found = await client.get(response.headers["location"])
    assert (found.status_code, found.json()["result"]["state"]) == (200, "live")
    assert services.publications.taken == [(b"{}", len(WEIGHTS))]  # type: ignore[attr-defined]
    assert left_over(settings) == []


@pytest.mark.parametrize("code", ["adapter_rank", "adapter_truncated", "adapter_pickle", "parity_failed"])
async def test_a_refused_adapter(
    code: str,
    lease: Lease,
    client: httpx.AsyncClient,
    services: Services,
    settings: Settings,
    manifest: MakeManifest,
    error_of: ErrorOf,
) -> None:
    services.publications.refusal = Invalid(code, "train it again")  # type: ignore[attr-defined]
    response = await client.post(f"/v1/leases/{lease.id}/complete", **form(manifest()))
    assert (response.status_code, error_of(response)["code"]) == (422, code)
    assert left_over(settings) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_multipart"),
        (b"no boundary at all", 400, "invalid_multipart"),
        (part("manifest") + part("config") + part("weights"), 400, "invalid_multipart"),
        (part("manifest") + b"--xyz--\r\n", 422, "missing_part"),
        (part("manifest") + part("manifest"), 422, "repeated_part"),
        (part("../../x") + b"--xyz--\r\n", 422, "unknown_part"),
        (b"--xyz\r\nContent-Type: text/plain\r\n\r\nx\r\n--xyz--\r\n", 422, "unknown_part"),
        (part("config", b"x" * 20_001), 413, "body_too_large"),
        (part("weights", b"x" * 4_000_001), 413, "body_too_large"),
        (part("manifest", b"{") + part("config") + part("weights") + b"--xyz--\r\n", 400, "invalid_json"),
        (part("manifest", b"{}") + part("config") + part("weights") + b"--xyz--\r\n", 422, "validation_error"),
    ],
)
async def test_malformed_uploads(
    body: bytes, status: int, code: str, lease: Lease, client: httpx.AsyncClient, settings: Settings, error_of: ErrorOf
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    response = await client.post(f"/v1/leases/{lease.id}/complete", content=chunks(), headers=BOUNDARY)
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert left_over(settings) == []
    assert (await client.get(f"/v1/leases/{lease.id}")).json()["state"] == "active", "the trainer may try again"


async def test_a_boundary_that_is_too_long_is_malformed(
    lease: Lease, client: httpx.AsyncClient, error_of: ErrorOf
) -> None:
    headers = {"content-type": f"multipart/form-data; boundary={'x' * 300}"}
    response = await client.post(f"/v1/leases/{lease.id}/complete", content=b"x", headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_multipart")


async def test_a_complaint_about_the_manifest_names_its_field(
    lease: Lease, client: httpx.AsyncClient, manifest: MakeManifest, error_of: ErrorOf
) -> None:
    short = manifest()
    short.parity_items[0].logprobs.clear()
    error = error_of(await client.post(f"/v1/leases/{lease.id}/complete", **form(short)))
    assert error["message"].startswith(
        "manifest.parity_items[0]: target_ids, logprobs and base_logprobs differ in length"
    )


async def test_an_upload_that_is_no_form(lease: Lease, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    for content_type in ("application/json", "multipart/form-data"):
        headers = {"content-type": content_type}
        response = await client.post(f"/v1/leases/{lease.id}/complete", content=b"{}", headers=headers)
        assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_media_type")


async def test_a_caller_who_leaves_in_the_middle(
    lease: Lease, app: FastAPI, services: Services, settings: Settings
) -> None:
    path = f"/v1/leases/{lease.id}/complete"
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"content-type", BOUNDARY["content-type"].encode())], "http_version": "1.1", "scheme": "http",
        "server": ("server", 80), "root_path": "",
    }  # fmt: skip
    begun = part("manifest") + part("config") + part("weights", WEIGHTS)
    messages: list[Message] = [
        {"type": "http.request", "body": begun, "more_body": True},
        {"type": "http.disconnect"},
    ]
    seen: list[list[str]] = []

    async def receive() -> Message:
        seen.append(left_over(settings))
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError(f"nobody is there to be sent {message}")

    await app(scope, receive, send)
    assert [len(names) for names in seen] == [1, 1], "the weights lay in a file while they came in"
    assert left_over(settings) == []
    assert services.publications.taken == []  # type: ignore[attr-defined]
    gone = services.metrics.registry.get_sample_value(
        "mindprint_requests_total",
        {"tenant": "default", "route": "/v1/leases/{lease_id}/complete", "method": "POST", "status": "499"},
    )
    assert gone == 1


async def test_what_a_killed_server_left_is_removed(
    lease: Lease, client: httpx.AsyncClient, settings: Settings, manifest: MakeManifest
) -> None:
    folder = settings.data_dir / "uploads"
    folder.mkdir()
    old, new = folder / "old.safetensors", folder / "new.safetensors"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    long_ago = time.time() - settings.request_timeout_s - 1
    os.utime(old, (long_ago, long_ago))
    await client.post(f"/v1/leases/{lease.id}/complete", **form(manifest()))
    assert left_over(settings) == ["new.safetensors"], "what another upload is being written to stays"


async def test_an_upload_whose_file_goes_away_does_not_disturb_another(
    lease: Lease, client: httpx.AsyncClient, settings: Settings, manifest: MakeManifest
) -> None:
    folder = settings.data_dir / "uploads"
    folder.mkdir()
    # Listed, and gone when it is looked at: as the file of an upload that ends meanwhile.
    (folder / "gone.safetensors").symlink_to(folder / "ended")
    response = await client.post(f"/v1/leases/{lease.id}/complete", **form(manifest()))
    assert response.status_code == 202, response.text


async def test_upload_that_fills_the_disk_is_507_and_leaves_nothing(
    lease: Lease,
    client: httpx.AsyncClient,
    manifest: MakeManifest,
    settings: Settings,
    services: Services,
    error_of: ErrorOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "ab":
            raise OSError(errno.ENOSPC, "No space left on device")
        return usual(path, mode, *args, **kwargs)

    sent = form(manifest(trace_ids=lease.trace_ids))
    with monkeypatch.context() as disk:
        disk.setattr(Path, "open", full)
        response = await client.post(f"/v1/leases/{lease.id}/complete", **sent)
    error = error_of(response)
    assert (response.status_code, error["code"]) == (507, "storage_full")
    assert "free some space" in error["message"]
    assert left_over(settings) == []
    assert (await services.store.leases.get(lease.id)).state == "active"
    assert (await client.post(f"/v1/leases/{lease.id}/complete", **sent)).status_code == 202
