"""What is planted in a user's data is nowhere after the erasure: in no file, answer, log or cache."""

from __future__ import annotations

import gc
import io
import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType

import httpx
import pytest

from lives import Open
from mindprint_server.app import create_app
from mindprint_server.engine.fake import FakeTokenizer
from mindprint_server.observability import logging as server_logging
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services
from planted import CANARY, erased, files_with, plant, publication_of
from uploads import published


@dataclass(frozen=True)
class Answer:
    """What a route answers, a zip unpacked."""

    route: str
    status: int
    text: str


def text_of(response: httpx.Response) -> str:
    if response.headers.get("content-type") != "application/zip":
        return response.text
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        return "\n".join(archive.read(name).decode(errors="replace") for name in archive.namelist())


async def answers(services: Services, settings: Settings, ids: dict[str, list[str]]) -> dict[str, Answer]:
    """What each GET route answers, for all ids that there are."""
    app = create_app(settings, services=services)
    found = {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        for path, methods in app.openapi()["paths"].items():
            if "get" not in methods:
                continue
            paths = [path]
            for name, values in ids.items():
                paths = [one.replace(f"{{{name}}}", value) for one in paths for value in values]
            for one in dict.fromkeys(paths):
                assert "{" not in one, f"the test knows no ids for {path}"
                response = await client.get(one)
                found[one] = Answer(path, response.status_code, text_of(response))
    return found


SHOWS_TEXTS = {
    "/v1/users/{user_id}/engagements",
    "/v1/users/{user_id}/export",
    "/v1/traces",
    "/v1/traces/export",
    "/v1/traces/{trace_id}",
    "/v1/batches/{batch_id}/results",
}
"""Routes that answer with a user's texts while the user is there."""


async def test_what_was_planted_is_nowhere_after_the_erasure(
    serve: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for name, level in server_logging.FLOORS.items():
        caplog.set_level(level, logger=name)
    services = await serve(log_level="debug")
    data = services.settings.data_dir
    await plant(services)
    await published(services, tmp_path)
    cohort = await published(services, tmp_path, "cohort/everyone", user="ann")
    batches = await services.store.batches.list_newest()
    assert files_with(data, CANARY) != []
    assert CANARY in "".join(trace.prompt for trace in await services.store.traces.find(user="ann"))
    assert cohort.state == "live"
    traces = [trace.id for trace in await services.store.traces.find(limit=1000)]
    jobs = [await publication_of(services, "user/ann"), await publication_of(services, "cohort/everyone")]
    ids = {
        "user_id": ["ann", "bob"],
        "engagement_id": ["c0"],
        "kind": ["user", "cohort"],
        "model": ["base", "user/ann", "cohort/everyone@1"],
        "name": ["ann", "bob", "everyone"],
        "number": ["1", "2"],
        "trace_id": traces,
        "batch_id": [batch.id for batch in batches],
        "lease_id": ["none"],
        "publication_id": jobs,
        "erasure_id": ["none"],
    }
    shown = await answers(services, services.settings, ids)
    assert {one.route for one in shown.values() if CANARY in one.text} == SHOWS_TEXTS

    done = await erased(services)

    assert files_with(data, CANARY) == []
    told = await answers(services, services.settings, ids | {"erasure_id": [done.id]})
    assert [path for path, one in told.items() if CANARY in one.text] == []
    assert [path for path, one in told.items() if one.status >= 500] == []
    kept = {path for path, one in told.items() if one.status == 200}
    assert {"/v1/users/bob/engagements", f"/v1/batches/{batches[0].id}/results", "/v1/traces"} <= kept
    assert "sha256:" in told[f"/v1/erasures/{done.id}"].text
    said = capfd.readouterr()
    assert CANARY not in caplog.text + said.out + said.err
    assert done.receipt is not None
    assert done.receipt.counts["engagements"] > 8
    assert done.receipt.withdrawn == ["cohort/everyone@1"]


def texts_with(word: str, root: object) -> set[str]:
    """The texts that can be reached from an object and hold a word. The fake tokenizer keeps words as its ids."""
    seen, pending, found = {id(root)}, [root], set()
    while pending:
        held = pending.pop()
        if isinstance(held, str) and word in held:
            found.add(held)
        if not isinstance(held, type | ModuleType | FunctionType | FakeTokenizer):
            new = [one for one in gc.get_referents(held) if id(one) not in seen]
            seen.update(map(id, new))
            pending += new
    return found


async def test_what_was_planted_is_in_no_cache_after_the_erasure(serve: Open) -> None:
    services = await serve(reminder_engagements=2)
    await plant(services)
    assert (await services.memory.recall_existing("ann", query=f"{CANARY} prompt")).episodes
    await services.memory.get_history("ann")
    kept = texts_with(CANARY, services.memory._histories._kept)
    assert CANARY in kept  # a word of the index
    assert f"{CANARY} yes 3" in kept
    await erased(services)
    assert texts_with(CANARY, services) == set()
