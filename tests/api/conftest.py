"""The application on a real store, with small hand-written services where the engine would work."""

from __future__ import annotations

import asyncio
import io
import logging
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import httpx
import pytest
import structlog
from fastapi import FastAPI

from builders import prompt_builder
from mindprint.types import (
    Adapter,
    Batch,
    BatchRequest,
    Engagement,
    Lease,
    LeaseRequest,
    LoraLimits,
    Manifest,
    Profile,
    Provenance,
    Publication,
    ServerInfo,
    Trace,
    TraceRequest,
    Version,
)
from mindprint_server.access import AccessControl
from mindprint_server.adapters.artifact_owner import ArtifactOwner
from mindprint_server.adapters.artifacts import ArtifactStore
from mindprint_server.adapters.importer import VersionImporter
from mindprint_server.adapters.residency import AdapterResidency
from mindprint_server.adapters.storage import AdapterStorage
from mindprint_server.app import create_app
from mindprint_server.auto_mode.service import AutoModeSelector
from mindprint_server.chat.models import ModelCatalog
from mindprint_server.chat.responses import ResponseService
from mindprint_server.chat.runner import ChatReply
from mindprint_server.context import ServerContext
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.exceptions import ClientGone, NotFound
from mindprint_server.generation.trace_import import TraceImporter
from mindprint_server.memory import MemoryService, ProfileWriter
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.observability import logging as server_logging
from mindprint_server.observability.metrics import Metrics
from mindprint_server.operation.audit import AuditLog
from mindprint_server.operation.readiness import Readiness
from mindprint_server.personal_data.erasure import ErasureService
from mindprint_server.personal_data.export import UserExporter
from mindprint_server.personal_data.retention import RetentionService
from mindprint_server.settings import Settings
from mindprint_server.sharing.admission import AdmissionController
from mindprint_server.store import ClaimPolicy, FilesGone, Holdout, Store, VersionRecord, new_id
from mindprint_server.wiring import Services

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "0" * 64


def make_trace(user: str = "ann", **changes: Any) -> Trace:
    made = Provenance(
        model="base", adapter_digest=None, base_digest="b", prompt_version="1", mode="personal",
        sampling={}, seed=1, engine="fake 1",
    )  # fmt: skip
    trace = Trace(
        id=(id := new_id()), user_id=user, engagement_id="e1", mode="personal", query="q", answer="tea",
        thinking=f"because {id}",
        verdict="accepted", state="waiting", provenance=made, created_at=NOW,
    )  # fmt: skip
    return trace.model_copy(update=changes)


def make_manifest(adapter: str = "user/ann", **changes: Any) -> Manifest:
    parity_items: Any = [{"prompt_ids": [1], "target_ids": [2], "logprobs": [-0.5], "base_logprobs": [-1.0]}]
    manifest = Manifest(
        adapter=adapter, base_digest="b", weights_sha256=DIGEST, trace_ids=[], samples={"slow": 1}, settings={},
        losses={}, tokens=1, seconds=1.0, trainer="t", parity_items=parity_items,
    )  # fmt: skip
    return manifest.model_copy(update=changes)


class FakeProfiles:
    def __init__(self, store: Store) -> None:
        self.store = store

    async def renew(self, user_id: str) -> Profile:
        covers = await self.store.engagements.count(user_id)
        profile = Profile(
            user_id=user_id, version=1, text="likes tea", tokens=3, covers=covers, covers_until=NOW,
            prompt_version="1", base_digest="b", created_at=NOW,
        )  # fmt: skip
        return await self.store.profiles.add(profile)


class FakeTraces:
    """Writes what `next` says: a trace, or an error to raise."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.next: Exception | None = None

    async def create(self, request: TraceRequest) -> Trace:
        if self.next is not None:
            raise self.next
        await self.store.users.get(request.user_id)
        return make_trace(
            request.user_id,
            verdict="unjudged",
            state="stored",
            mode="direct" if request.mode == "auto" else request.mode,
        )


class FakeBatches:
    """Plans as the real one does and never runs; `changed` wakes those who watch, `watching` counts them."""

    def __init__(self, store: Store, max_open: int) -> None:
        self.store = store
        self.max_open = max_open
        self.changed = asyncio.Event()
        self.watched = asyncio.Event()
        self.watching = 0

    async def submit(self, request: BatchRequest) -> tuple[Batch, bool]:
        items = await self.store.traces.list_untraced(request.users)
        return await self.store.batches.add(request, items, max_open=self.max_open)

    async def cancel(self, id: str) -> Batch:
        batch = await self.store.batches.cancel(id)
        self.changed.set()
        return batch

    async def watch(self, id: str) -> AsyncGenerator[Batch]:
        while True:
            batch = await self.store.batches.get(id)
            yield batch
            if batch.state in ("done", "failed", "cancelled"):
                return
            self.watching += 1
            self.watched.set()
            try:
                await self.changed.wait()
            finally:
                self.watching -= 1
            self.changed.clear()


class FakeLeases:
    def __init__(self, store: Store) -> None:
        self.store = store

    async def claim(self, wanted: LeaseRequest) -> Lease | None:
        return await self.store.leases.claim(wanted, ClaimPolicy(max_attempts=3))


class FakePublications:
    """Registers what is uploaded without looking at it; `refusal` is raised if set."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.refusal: Exception | None = None
        self.taken: list[tuple[bytes, int]] = []

    async def accept(self, lease_id: str, manifest: Manifest, config: bytes, weights: Path) -> Publication:
        size = len(await asyncio.to_thread(weights.read_bytes))
        self.taken.append((config, size))
        if self.refusal is not None:
            raise self.refusal
        number, engine_id = await self.store.versions.allocate(manifest.adapter)
        version = VersionRecord(
            adapter=manifest.adapter, version=number, engine_id=engine_id, artifact="a" * 64, state="live",
            digest=manifest.weights_sha256, base_digest="b", traces=1, manifest=manifest, created_at=NOW,
        )  # fmt: skip
        job = await self.store.publication_jobs.add(lease_id, version)
        if job.is_open:
            await self.store.publication.publish(lease_id, version)
        return await self.get(job.id)

    async def get(self, publication_id: str) -> Publication:
        job = await self.store.publication_jobs.get(publication_id)
        return job.model_copy(update={"result": await self.store.versions.get(job.adapter, job.version)})


class FakeAdapters:
    """Moves the pointers, and loads nothing."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def promote(self, key: str, version: int | None) -> Adapter:
        return await self.store.live_versions.set_live(key, version)

    async def set_canary(self, key: str, version: int | None, share: float) -> Adapter:
        return await self.store.live_versions.set_canary(key, version, share)

    async def rollback(self, key: str) -> Adapter:
        return await self.store.live_versions.rollback(key)

    async def pin(self, key: str, version: int, pinned: bool) -> Version:
        return await self.store.retention.pin(key, version, pinned)

    async def download(self, key: str, version: int) -> IO[bytes]:
        if not (await self.store.versions.get(key, version)).files:
            raise FilesGone(key, version)
        return io.BytesIO(b"zip" * 1_000_000)


class FakeChat:
    """Answers whole or in two lines. Where `waiting` is set it answers nobody who stays, and says so there."""

    def __init__(self) -> None:
        self.waiting: asyncio.Event | None = None

    async def complete(
        self, body: dict[str, Any], *, wait_for_disconnect: Callable[[], Coroutine[Any, Any, None]]
    ) -> ChatReply:
        if body.get("model") != "base":
            raise NotFound("model_not_found", "there is no such model: GET /v1/models lists them", param="model")
        if self.waiting is not None:
            self.waiting.set()
            await wait_for_disconnect()
            raise ClientGone("client_closed_request", "the caller went away before the answer")
        if body.get("stream"):
            return ChatReply("base", self._lines())
        return ChatReply("base", {"object": "chat.completion", "choices": []})

    async def _lines(self) -> AsyncGenerator[str]:
        yield "data: {}\n\n"
        yield "data: [DONE]\n\n"


def server_info() -> ServerInfo:
    return ServerInfo(
        mindprint="0", engine="fake 1", device="none", model="m", model_path="m", base_digest="b", prompt_version="1",
        max_model_len=128, limits=LoraLimits(max_rank=16, target_modules=["q_proj"]),
    )  # fmt: skip


async def make_services(settings: Settings) -> Services:
    store, metrics = await Store.open(settings.url), Metrics()
    engine = FakeEngine(model_path=settings.data_dir)
    ctx = ServerContext(settings, store, engine, metrics)
    memory = MemoryService(ctx)
    prompts = prompt_builder(settings, engine)
    questions, admission = QuestionBuilder(ctx, memory=memory), AdmissionController(2, 1)
    residency = AdapterResidency(ctx)
    owner = ArtifactOwner(store.signing_keys.database_id, store.versions.list_artifacts)
    artifacts = ArtifactStore(settings, metrics, owner=owner, is_loaded=residency.holds)
    storage = AdapterStorage(ctx, artifacts=artifacts)
    erasures = ErasureService(ctx, storage=storage, residency=residency, forget=[questions.forget])
    await erasures.prepare()
    parts: Any = {
        "settings": settings,
        "metrics": metrics,
        "store": store,
        "access": AccessControl(settings, store),
        "audit": AuditLog(settings, store=store, supervisor=ctx.supervisor),
        "engine": engine,
        "memory": memory,
        "profiles": FakeProfiles(store),
        "traces": FakeTraces(store),
        "imports": TraceImporter(
            ctx, prompts=prompts, questions=questions, memory=memory, profiles=ProfileWriter(ctx), admission=admission
        ),
        "batches": FakeBatches(store, settings.max_open_batches),
        "leases": FakeLeases(store),
        "adapters": FakeAdapters(store),
        "publications": (publications := FakePublications(store)),
        "version_imports": VersionImporter(ctx, publications=publications, holdout=Holdout()),
        "auto": AutoModeSelector(ctx),
        "erasures": erasures,
        "retention": RetentionService(ctx, erasures=erasures),
        "exports": UserExporter(ctx, storage=storage),
        "chat": (chat := FakeChat()),
        "completions": FakeChat(),
        "responses": ResponseService(cast(Any, chat)),
        "models": ModelCatalog(ctx),
        "readiness": Readiness(settings, settings.data_dir, store=store, supervisor=ctx.supervisor),
        "shutdown": ctx.shutdown,
        "quotas": ctx.quotas,
        "stored_quotas": ctx.stored_quotas,
        "info": server_info,
    }
    return Services(**parts)


@pytest.fixture
def settings(tmp_path: Path, empty_database: Path) -> Settings:
    shutil.copy(empty_database, tmp_path)
    return Settings(data_dir=tmp_path, port=0, max_body_bytes=20_000, max_upload_bytes=4_000_000, max_open_batches=2)


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Services]:
    services = await make_services(settings)
    yield services
    await services.store.close()


@pytest.fixture
def app(settings: Settings, services: Services) -> FastAPI:
    return create_app(settings, services=services)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def start_services() -> Callable[[Settings], Coroutine[Any, Any, Services]]:
    """Services for tests that open them in a loop of their own."""
    return make_services


@pytest.fixture
def traces() -> Callable[..., Trace]:
    return make_trace


@pytest.fixture
def manifest() -> Callable[..., Manifest]:
    return make_manifest


@pytest.fixture
async def ann(services: Services) -> str:
    """A user with three engagements."""
    items = [
        Engagement(id=f"e{n}", prompt="tea or coffee?", response="tea", occurred_at=NOW, choices=["tea", "coffee"])
        for n in range(3)
    ]
    await services.store.engagements.add("ann", items)
    return "ann"


@pytest.fixture
async def two_versions(ann: str, services: Services) -> None:
    """Versions 1 and 2 of Ann's adapter; 2 is live."""
    for n in range(2):
        await publish_version(services, ann, f"e{n}")


@pytest.fixture
def published(services: Services) -> Callable[[str], Awaitable[None]]:
    """Makes a user with a live version."""

    async def publish(user: str) -> None:
        item = Engagement(id="e0", prompt="tea or coffee?", response="tea", occurred_at=NOW)
        await services.store.engagements.add(user, [item])
        await publish_version(services, user, "e0")

    return publish


async def publish_version(services: Services, user: str, engagement: str) -> None:
    """Make a live version of one new trace."""
    await services.store.traces.add(make_trace(user_id=user, engagement_id=engagement))
    request = LeaseRequest(owner="t", adapter=f"user/{user}", max_traces=9)
    lease = await services.store.leases.claim(request, ClaimPolicy(max_attempts=3))
    assert lease is not None
    number = (await services.store.versions.allocate(f"user/{user}")).version
    version = Version(
        adapter=f"user/{user}", version=number, state="live", digest=f"d{number - 1}", base_digest="b", traces=1,
        manifest=make_manifest(), created_at=datetime.now(UTC),
    )  # fmt: skip
    await services.store.publication.publish(lease.id, version)


@pytest.fixture
def error_of() -> Callable[[httpx.Response], dict[str, Any]]:
    """The envelope of a refusal, checked for its shape."""

    def read(response: httpx.Response) -> dict[str, Any]:
        error = cast(dict[str, Any], response.json()["error"])
        assert set(error) == {"message", "type", "code", "param"}
        assert error["message"]
        assert len(error["message"]) <= 600
        assert ("retry-after" in response.headers) == (response.status_code in (429, 503, 507))
        return error

    return read


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Plain lines in these tests, and nothing left of what `logs.configure` does to the process."""
    shown = structlog.processors.KeyValueRenderer()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.format_exc_info, shown]
    )
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    floors = {name: logging.getLogger(name).level for name in server_logging.FLOORS}
    yield
    root.handlers, root.level = handlers, level
    for name, floor in floors.items():
        logging.getLogger(name).setLevel(floor)
    structlog.reset_defaults()
