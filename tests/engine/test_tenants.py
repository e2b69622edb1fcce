"""Two tenants on one real engine: adapters with the same name stay apart, and no cached block is shared."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from mindprint.types import CreateApiKey
from mindprint_server.app import create_app
from mindprint_server.engine import AdapterRef, Engine, Priority, Sampling
from mindprint_server.tenancy import in_tenant
from mindprint_server.wiring import Services
from proved import live_version
from tiny import logprobs

NOW = Priority.INTERACTIVE
TEXT = "A tiny model reads this line, byte by byte. "
ASK = [{"role": "user", "content": "A walk by the lake?"}]


def ref(folder: Path, tenant: str, engine_id: int) -> AdapterRef:
    return AdapterRef("user/ann", 1, "sha256:0", engine_id, folder, tenant)


async def test_adapters_of_one_name_are_not_mixed_up(engine: Engine, tiny_model: Path, adapters: list[Path]) -> None:
    """vLLM compares requests for adapters by their names alone, so names must differ."""
    ids, token = engine.tokenizer.encode(TEXT), engine.tokenizer.encode("y")
    ours, theirs = ref(adapters[0], "default", 3001), ref(adapters[1], "acme", 3002)
    await engine.load(ours)
    await engine.load(theirs)
    got = await asyncio.gather(
        *(engine.next_logprobs(ids, token, adapter=one, priority=NOW) for one in (ours, theirs) * 4)
    )
    for number, folder in enumerate(adapters[:2]):
        wanted = logprobs(tiny_model, ids, adapter=folder)[-1][token[0]]
        assert got[number::2] == [pytest.approx([wanted], abs=1e-2)] * 4
    await engine.unload(ours)
    await engine.unload(theirs)


async def test_no_tenant_finds_the_blocks_of_another(engine: Engine) -> None:
    ids = engine.tokenizer.encode("Only our tenant has sent this text. " * 12)

    async def cached() -> int:
        output = await engine.generate(ids, Sampling(max_tokens=1), adapter=None, priority=NOW)
        return output.cached_tokens

    with in_tenant("first"):
        assert await cached() == 0
        assert await cached() > 0
    with in_tenant("second"):
        assert await cached() == 0
        assert await cached() > 0


@pytest_asyncio.fixture(loop_scope="session")
async def http(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(services.settings, services=services))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def test_each_tenant_chats_with_its_own_version(
    services: Services, http: httpx.AsyncClient, adapters: list[Path], tmp_path: Path
) -> None:
    if services.chat._backend is None:
        pytest.skip("the engine cannot chat")
    keys, digests = {}, {}
    for tenant, folder in (("default", adapters[0]), ("acme", adapters[1])):
        made = await services.access.create(CreateApiKey(name=tenant, scopes=["admin"], tenant=tenant))
        keys[tenant] = {"Authorization": f"Bearer {made.key}"}
        with in_tenant(tenant):
            digests[tenant] = (await live_version(services, folder, tmp_path, 1)).digest

    async def ask(tenant: str, stream: bool) -> list[dict[str, object]]:
        body = {"model": "user/ann", "messages": ASK, "max_tokens": 6, "temperature": 0, "stream": stream}
        reply = await http.post("/v1/chat/completions", json=body, headers=keys[tenant])
        assert reply.status_code == 200, reply.text
        if not stream:
            assert reply.json()["mindprint"]["adapter_digest"] == digests[tenant]
            return [reply.json()]
        lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    asked = [(tenant, stream) for tenant in digests for stream in (False, True)] * 3
    replies = await asyncio.gather(*(ask(*one) for one in asked))
    assert digests["default"] != digests["acme"]
    # Nothing of a reply tells whose engine it is: the caller's names alone.
    assert {chunk["model"] for reply in replies for chunk in reply} == {"user/ann"}
