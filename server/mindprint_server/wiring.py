"""Creates the parts of the server and connects them: the only place that knows all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mindprint
from mindprint.private_files import make_private_folder
from mindprint.types import ServerInfo
from mindprint_server.access import AccessControl
from mindprint_server.adapters import AdapterService
from mindprint_server.adapters.health import VersionHealth
from mindprint_server.adapters.prefetch import PrefixPrefetcher
from mindprint_server.adapters.publisher import VersionPublisher
from mindprint_server.adapters.residency import AdapterResidency
from mindprint_server.adapters.storage import AdapterStorage
from mindprint_server.admission import AdmissionController
from mindprint_server.auto_mode.service import AutoModeSelector
from mindprint_server.chat.service import ChatService
from mindprint_server.context import ServerContext
from mindprint_server.engine import Engine
from mindprint_server.engine.factory import create_engine
from mindprint_server.gate import Gate
from mindprint_server.gate.measurements import ModelMeasurements
from mindprint_server.generation.batch_runner import BatchRunner
from mindprint_server.generation.candidate import CandidateGenerator
from mindprint_server.generation.engagement import EngagementProcessor
from mindprint_server.generation.trace_import import TraceImporter
from mindprint_server.generation.trace_service import TraceService
from mindprint_server.memory import MemoryService, ProfileWriter
from mindprint_server.memory.neighbors import NeighborIndex
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.observability.metrics import Metrics
from mindprint_server.operation.readiness import Readiness
from mindprint_server.operation.shutdown import Shutdown
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.templates import PROMPT_VERSION
from mindprint_server.settings import QueueSettings, Settings
from mindprint_server.store import Holdout, Store
from mindprint_server.training_data.leases import LeaseService
from mindprint_server.training_data.replay import ReplayBuffer
from mindprint_server.verdicts.context import ContextBuilder
from mindprint_server.verdicts.verifier import CandidateVerifier


@dataclass
class Services:
    """The parts of a running server."""

    settings: Settings
    metrics: Metrics
    store: Store
    access: AccessControl
    engine: Engine
    memory: MemoryService
    profiles: ProfileWriter
    traces: TraceService
    imports: TraceImporter
    batches: BatchRunner
    leases: LeaseService
    adapters: AdapterService
    auto: AutoModeSelector
    chat: ChatService
    readiness: Readiness
    shutdown: Shutdown
    info: Callable[[], ServerInfo]


def _ignore_phase(phase: str) -> None:
    """Do nothing with a start-up phase: the default of `progress`."""


def create_holdout(settings: QueueSettings) -> Holdout:
    """Return the rule that says how many of a user's newest engagements are held out."""
    return Holdout(settings.holdout_share, settings.holdout_min_engagements, settings.holdout_max_engagements)


async def open_services(
    settings: Settings,
    *,
    metrics: Metrics | None = None,
    progress: Callable[[str], None] = _ignore_phase,
    engine: Engine | None = None,
) -> Services:
    """Open the store, start the engine, and continue open batches.

    Whatever stops the start is raised after what was opened is closed again.

    Args:
        settings: The server's settings.
        metrics: Counts of this server; None creates new ones.
        progress: Called with the name of each start-up phase.
        engine: None creates the engine that the settings name. An engine that is ready already is not started here,
            and its owner stops it (`close_services(keep_engine=True)`).
    """
    metrics = metrics or Metrics()
    make_private_folder(settings.data_dir)
    progress("opening the store")
    store = await Store.open(settings.url)
    owned = engine is None or not engine.ready
    if engine is None:
        engine = create_engine(settings)
    try:
        if owned:
            await engine.start(progress)
        ctx = ServerContext(settings, store, engine, metrics)
        memory, profiles = MemoryService(ctx), ProfileWriter(ctx)
        prompts = PromptBuilder(settings, engine.tokenizer, max_model_len=engine.info().max_model_len)
        questions = QuestionBuilder(ctx, memory=memory)
        contexts = ContextBuilder(ctx=ctx, prompts=prompts, questions=questions, neighbors=NeighborIndex(ctx))
        admission = AdmissionController(
            settings.max_interactive, settings.retry_after_s, settings.parity_max_idle_wait_s
        )
        measurements = ModelMeasurements(ctx, contexts=contexts)
        gate = Gate(ctx, questions=questions, memory=memory, measurements=measurements)
        storage = AdapterStorage(settings.data_dir, store=store)
        residency = AdapterResidency(ctx)
        prefetcher = PrefixPrefetcher(ctx, memory=memory, admission=admission)
        publisher = VersionPublisher(
            ctx, storage=storage, residency=residency, gate=gate, prefetcher=prefetcher, admission=admission
        )
        health = VersionHealth(
            window=settings.health_window,
            min_answers=settings.health_min_answers,
            max_collapsed=settings.max_collapsed,
            max_failed=settings.max_failed,
        )
        adapters = AdapterService(ctx, storage=storage, residency=residency, publisher=publisher, health=health)
        await adapters.start()
        auto = AutoModeSelector(ctx)
        candidates = CandidateGenerator(ctx, prompts=prompts, verifier=CandidateVerifier(settings))
        traces = TraceService(
            ctx,
            contexts=contexts,
            candidates=candidates,
            adapters=adapters,
            auto_mode=auto,
            admission=admission,
        )
        imports = TraceImporter(
            ctx,
            prompts=prompts,
            questions=questions,
            memory=memory,
            profiles=profiles,
            admission=admission,
        )
        replays = ReplayBuffer(ctx, prompts=prompts)
        holdout = create_holdout(settings)
        leases = LeaseService(
            ctx, prompts=prompts, questions=questions, memory=memory, replays=replays, holdout=holdout
        )
        backend = await engine.chat_backend()
        chat = ChatService(ctx, memory=memory, adapters=adapters, auto=auto, admission=admission, backend=backend)
        processor = EngagementProcessor(ctx, memory=memory, contexts=contexts, candidates=candidates)
        batches = BatchRunner(ctx, profiles=profiles, processor=processor, holdout=holdout)
        await batches.start()
        readiness = Readiness(settings, settings.data_dir, store=store, supervisor=ctx.supervisor)
        readiness.start()
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
            base_digest=running.base_digest,
            prompt_version=PROMPT_VERSION,
            max_model_len=running.max_model_len,
            limits=leases.limits,
        )

    return Services(
        settings=settings,
        metrics=metrics,
        store=store,
        access=AccessControl(settings, store),
        engine=engine,
        memory=memory,
        profiles=profiles,
        traces=traces,
        imports=imports,
        batches=batches,
        leases=leases,
        adapters=adapters,
        auto=auto,
        chat=chat,
        readiness=readiness,
        shutdown=ctx.shutdown,
        info=info,
    )


async def close_services(services: Services, *, keep_engine: bool = False) -> None:
    """Stop the work, then the engine, then close the store.

    Args:
        services: The parts, from `open_services`.
        keep_engine: Leave the engine running for its owner.
    """
    await services.readiness.stop()
    await services.access.stop()
    await services.batches.stop()
    await services.leases.stop()
    await services.adapters.stop()
    if not keep_engine:
        await services.engine.stop()
    await services.store.close()
