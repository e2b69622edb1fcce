"""Puts the server's parts together, in the order in which they need each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mindprint
from mindprint.types import ServerInfo
from mindprint_server.adapters import AdapterLife
from mindprint_server.adapters.prefetch import Warmer
from mindprint_server.admission import Admission
from mindprint_server.auto_mode.service import Auto
from mindprint_server.chat.service import Backend, Chat
from mindprint_server.engine import Engine
from mindprint_server.gate import Gate
from mindprint_server.generation.batch_runner import BatchRunner
from mindprint_server.generation.candidate import Writer
from mindprint_server.generation.engagement import Attempts
from mindprint_server.generation.trace_import import GivenDesk
from mindprint_server.memory import Memory
from mindprint_server.memory.neighbors import Near
from mindprint_server.memory.questions import Asker
from mindprint_server.observability.metrics import Metrics
from mindprint_server.prompts.templates import PROMPT_VERSION
from mindprint_server.settings import Settings
from mindprint_server.store import Store
from mindprint_server.training_data.leases import LeaseDesk
from mindprint_server.training_data.replay import Replays
from mindprint_server.verdicts.verifier import Judge


@dataclass
class Services:
    settings: Settings
    metrics: Metrics
    store: Store
    engine: Engine
    memory: Memory
    writer: Writer
    given: GivenDesk
    batches: BatchRunner
    leases: LeaseDesk
    adapters: AdapterLife
    auto: Auto
    chat: Chat
    info: Callable[[], ServerInfo]


def _quiet(phase: str) -> None:
    """Nobody is told."""


async def open_services(
    settings: Settings,
    *,
    metrics: Metrics | None = None,
    progress: Callable[[str], None] = _quiet,
    engine: Engine | None = None,
) -> Services:
    """Opens the store, starts the engine, picks up open batches. `progress` is told each phase.

    An engine that is given is started here and stopped by `close_services`, unless it is ready already: then it stays
    its owner's. Raises whatever stops the start; what was opened by then is closed.
    """
    metrics = metrics or Metrics()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    progress("opening the store")
    store = await Store.open(settings.url)
    owned = engine is None or not engine.ready
    if engine is None:
        engine = _engine(settings)
    try:
        if owned:
            await engine.start(progress)
        progress("reading the model's digest")
        from mindprint.model_files import model_digest

        base_digest = await asyncio.to_thread(model_digest, Path(engine.info().model_path))
        memory = Memory(settings, store, engine, base_digest)
        asker = Asker(settings, store, engine, memory)
        judge = Judge(settings, engine, asker, Near(settings, store))
        admission = Admission(settings.max_interactive, settings.retry_after_s, settings.proof_patience_s)
        gate = Gate(settings, store, engine, asker, memory, judge)
        warmer = Warmer(settings, engine, memory, admission.lull)
        adapters = AdapterLife(settings, store, engine, metrics, base_digest, admission, gate, warmer)
        await adapters.start()
        auto = Auto(settings, store, metrics, base_digest)
        writer = Writer(settings, store, engine, asker, judge, adapters, auto, metrics, admission, base_digest)
        given = GivenDesk(settings, store, engine, asker, memory, metrics, admission, base_digest)
        replays = Replays(settings, store, engine, asker, base_digest)
        leases = LeaseDesk(settings, store, asker, memory, replays, metrics, base_digest)
        backend = await _backend(engine)
        chat = Chat(settings, store, engine, memory, adapters, auto, metrics, admission, base_digest, backend)
        attempts = Attempts(settings, engine, asker, judge, writer, metrics)
        batches = BatchRunner(settings, store, engine, memory, writer, attempts, metrics)
        await batches.start()
    except BaseException:
        if owned:
            await engine.stop()
        await store.close()
        raise

    def info() -> ServerInfo:
        running = engine.info()
        return ServerInfo(
            mindprint=mindprint.__version__,
            engine=running.name,
            device=running.device,
            model=settings.model,
            model_path=running.model_path,
            base_digest=base_digest,
            prompt_version=PROMPT_VERSION,
            max_model_len=running.max_model_len,
            limits=leases.limits,
        )

    return Services(
        settings, metrics, store, engine, memory, writer, given, batches, leases, adapters, auto, chat, info
    )


async def close_services(services: Services, *, keep_engine: bool = False) -> None:
    """Stops the work first, then the engine (unless its owner keeps it), then the store."""
    await services.batches.stop()
    await services.leases.stop()
    await services.adapters.stop()
    if not keep_engine:
        await services.engine.stop()
    await services.store.close()


def _engine(settings: Settings) -> Engine:
    if settings.engine == "fake":
        from mindprint_server.engine.fake import FakeEngine

        return FakeEngine(model_path=Path(settings.model), max_model_len=settings.max_model_len)
    from mindprint_server.engine.vllm import VllmEngine

    return VllmEngine(settings)


async def _backend(engine: Engine) -> Backend | None:
    from mindprint_server.engine.vllm import VllmEngine

    if not isinstance(engine, VllmEngine):
        return None
    from mindprint_server.engine.vllm_openai import VllmChat

    return await VllmChat.on(engine)
