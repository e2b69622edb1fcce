"""The nginx block of "Open the service to two teams", run by a real nginx in front of a real server process."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from certificates import make_certificates
from doc_pages import DOCS, blocks
from fake_service import FakeService, fake_service, upload_parts
from mindprint.local.processes import free_port
from nginx import find_nginx, nginx

PAGE = DOCS / "how-to" / "open-to-two-teams.md"
WIDTH = 1 << 16
"""Width of the base model: an adapter's weights are 4 MiB, and nginx's own bound of a body is 1 MiB."""
MANY = 3000
"""Engagements of a batch that has not ended when its first event arrives."""
INTERVAL_S = "2"
"""Least seconds from one event of a batch to the next. Two arrive together only if something held the first back."""
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Proxied:
    """A server, and a client that asks it through nginx, with TLS and without a key."""

    service: FakeService
    outside: httpx.AsyncClient

    @property
    def key(self) -> dict[str, str]:
        """Return the header with the admin key."""
        return {"Authorization": f"Bearer {self.service.key}"}


def block_of_page(url: str, port: int, certificate: Path, key: Path) -> str:
    """Return the page's block with an address, a port and files of the test's own."""
    (block,) = (block.code for block in blocks(PAGE) if block.language == "nginx")
    for old, new in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("/etc/ssl/mindprint.pem", str(certificate)),
        ("/etc/ssl/mindprint.key", str(key)),
        ("http://127.0.0.1:8300", url),
    ):
        assert block.count(old) == 1, old
        block = block.replace(old, new)
    return block


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxied(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Proxied]:
    find_nginx()
    folder, port = tmp_path_factory.mktemp("proxied"), free_port()
    (folder / "nginx").mkdir()
    certificates = make_certificates(folder)
    trusted = ssl.create_default_context(cafile=certificates.authority)
    async with fake_service(folder, width=WIDTH, WATCH_INTERVAL_S=INTERVAL_S) as service:
        block = block_of_page(service.url, port, certificates.server, certificates.key)
        address = f"https://127.0.0.1:{port}"
        async with (
            nginx(folder / "nginx", block, port),
            httpx.AsyncClient(base_url=address, verify=trusted, timeout=60, trust_env=False) as outside,
        ):
            yield Proxied(service, outside)


async def test_request_without_a_key_gets_the_server_s_own_refusal(proxied: Proxied) -> None:
    refused = await proxied.outside.get("/v1/users")
    direct = await asyncio.to_thread(httpx.get, f"{proxied.service.url}/v1/users", trust_env=False)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert refused.json() == direct.json()
    assert refused.headers["www-authenticate"] == direct.headers["www-authenticate"]


async def test_key_works_through_the_proxy(proxied: Proxied) -> None:
    reply = await proxied.outside.get("/v1/users", headers=proxied.key)
    assert reply.status_code == 200
    assert (await proxied.outside.get("/readyz")).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/metrics?x=1", "//metrics", "/%6detrics", "/v1/../metrics", "/metrics/"])
async def test_metrics_are_denied_from_outside(proxied: Proxied, path: str) -> None:
    assert (await proxied.service.http.get("/metrics")).status_code == 200
    # A whole URL: httpx reads `//metrics` alone as a host.
    address = f"{str(proxied.outside.base_url).rstrip('/')}{path}"
    reply = await proxied.outside.get(address, headers=proxied.key, follow_redirects=True)
    assert reply.status_code in (403, 404)
    assert "mindprint_" not in reply.text


async def test_version_of_several_megabytes_is_uploaded_and_downloaded(proxied: Proxied, tmp_path: Path) -> None:
    await proxied.service.store_users("ann")
    lease = await proxied.service.lease("ann")
    parts = upload_parts(lease, tmp_path, WIDTH)
    assert len(parts["weights"][1]) > 4 * 1024**2
    reply = await proxied.outside.post(f"/v1/leases/{lease['id']}/complete", files=parts, headers=proxied.key)
    await proxied.service.published(reply)
    files = await proxied.outside.get("/v1/adapters/user/ann/versions/1/download", headers=proxied.key)
    assert parts["weights"][1] in files.content


async def test_events_of_a_batch_arrive_one_by_one_while_it_runs(proxied: Proxied) -> None:
    """A proxy that collects replies would pass on several events at once, or all of them when the batch has ended."""
    await proxied.service.store_users("bob", count=MANY)
    batch = (await proxied.service.http.post("/v1/batches", json={"users": ["bob"]})).json()["id"]
    async with proxied.outside.stream("GET", f"/v1/batches/{batch}/events", headers=proxied.key) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        texts = events.aiter_text()
        first = states_in(await anext(texts))
        cancelled = await proxied.service.http.post(f"/v1/batches/{batch}/cancel")
        last = states_in("".join([text async for text in texts]))
    assert first in (["queued"], ["running"])
    assert cancelled.json()["state"] == "cancelled"
    assert last[-1] == "cancelled"


def states_in(text: str) -> list[str]:
    """Return the states of a batch in server-sent events."""
    return [json.loads(data)["state"] for data in re.findall("^data: (.*)$", text, re.MULTILINE)]
