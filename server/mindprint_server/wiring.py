"""Creates the parts of the server and connects them: the only place that knows all of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import mindprint
from mindprint.private_files import make_private_folder
from mindprint.types import ServerInfo
from mindprint_server.access import AccessControl
from mindprint_server.adapters import AdapterService
from mindprint_server.adapters.artifact_owner import ArtifactOwner
from mindprint_server.adapters.artifacts import ArtifactStore
from mindprint_server.adapters.health import VersionHealth
from mindprint_server.adapters.importer import VersionImporter
from mindprint_server.adapters.prefetch import PrefixPrefetcher
from mindprint_server.adapters.publications import PublicationService
from mindprint_server.adapters.publisher import VersionPublisher
from mindprint_server.adapters.residency import AdapterResidency
from mindprint_server.adapters.storage import AdapterStorage
from mindprint_server.auto_mode.service import AutoModeSelector
from mindprint_server.chat.completions import CompletionService
from mindprint_server.chat.models import ModelCatalog
from mindprint_server.chat.responses import ResponseService
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
from mindprint_server.operation.audit import AuditLog
from mindprint_server.operation.data_lock import DataLock
from mindprint_server.operation.disk import remove_files
from mindprint_server.operation.readiness import Readiness
from mindprint_server.operation.shutdown import Shutdown
from mindprint_server.operation.supervision import retry_delay_s
from mindprint_server.personal_data.erasure import ErasureService
from mindprint_server.personal_data.export import UserExporter
from mindprint_server.personal_data.retention import RetentionService
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.templates import PROMPT_VERSION
from mindprint_server.settings import QueueSettings, Settings
from mindprint_server.sharing.admission import AdmissionController
from mindprint_server.sharing.quotas import Quotas, StoredQuotas
from mindprint_server.store import Holdout, Store, StoreBusy, sqlite_file
from mindprint_server.tenancy import in_no_tenant
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
    audit: AuditLog
    engine: Engine
    memory: MemoryService
    profiles: ProfileWriter
    traces: TraceService
    imports: TraceImporter
    batches: BatchRunner
    leases: LeaseService
    adapters: AdapterService
    version_imports: VersionImporter
    publications: PublicationService
    auto: AutoModeSelector
    erasures: ErasureService
    retention: RetentionService
    exports: UserExporter
    chat: ChatService
    completions: CompletionService
    responses: ResponseService
    models: ModelCatalog
    readiness: Readiness
    shutdown: Shutdown
    quotas: Quotas
    stored_quotas: StoredQuotas
    info: Callable[[], ServerInfo]
    locks: list[DataLock] = field(default_factory=list)


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
    with in_no_tenant():
        return await _open_services(settings, metrics or Metrics(), progress, engine)


async def _open_services(
    settings: Settings, metrics: Metrics, progress: Callable[[str], None], engine: Engine | None
) -> Services:
    make_private_folder(settings.data_dir)
    progress("opening the store")
    locks = [DataLock(settings.data_dir / "server.lock", f"the data folder {settings.data_dir}")]
    try:
        store = await _open_store(settings, progress)
    except BaseException:
        _release(locks)
        raise
    owned = engine is None or not engine.ready
    if engine is None:
        engine = create_engine(settings, records=settings.data_dir / "engine")
    try:
        locks += _lock_database(settings)
        await asyncio.to_thread(remove_files, settings.uploads_dir)
        if store.database == "sqlite":  # the locks say that this server is the only one
            await store.leases.follow_clock()
            await store.batch_claims.release_all()
            await store.publication_jobs.release_all()
        if owned:
            await engine.start(progress)
        ctx = ServerContext(settings, store, engine, metrics)
        memory, profiles = MemoryService(ctx), ProfileWriter(ctx)
        prompts = PromptBuilder(settings, engine.tokenizer, max_model_len=engine.info().max_model_len)
        questions = QuestionBuilder(ctx, memory=memory)
        neighbors = NeighborIndex(ctx)
        contexts = ContextBuilder(ctx=ctx, prompts=prompts, questions=questions, neighbors=neighbors)
        admission = AdmissionController(
            min(settings.max_interactive, settings.max_num_seqs),
            settings.retry_after_s,
            settings.parity_max_idle_wait_s,
            max_waiting=settings.max_waiting_interactive,
            reserved_share=settings.reserved_for_tenants,
        )
        measurements = ModelMeasurements(ctx, contexts=contexts)
        gate = Gate(ctx, questions=questions, memory=memory, measurements=measurements)
        residency = AdapterResidency(ctx)
        owner = ArtifactOwner(store.signing_keys.database_id, store.versions.list_artifacts)
        artifacts = ArtifactStore(settings, metrics, owner=owner, is_loaded=residency.holds)
        storage = AdapterStorage(ctx, artifacts=artifacts)
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
        adapters = AdapterService(ctx, storage=storage, residency=residency, health=health)
        await adapters.start()
        publications = PublicationService(ctx, publisher=publisher, storage=storage, follow=adapters.follow)
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
        version_imports = VersionImporter(ctx, publications=publications, holdout=holdout)
        leases = LeaseService(
            ctx, prompts=prompts, questions=questions, memory=memory, replays=replays, holdout=holdout
        )
        backend = await engine.chat_backend()
        chat = ChatService(ctx, memory=memory, adapters=adapters, auto=auto, admission=admission, backend=backend)
        completions = CompletionService(ctx, adapters=adapters, admission=admission, backend=backend)
        processor = EngagementProcessor(ctx, memory=memory, contexts=contexts, candidates=candidates)
        batches = BatchRunner(ctx, profiles=profiles, processor=processor, holdout=holdout, admission=admission)
        forgetful = (memory, profiles, neighbors, questions, auto, batches, measurements, engine.tokenizer)
        erasures = ErasureService(ctx, storage=storage, residency=residency, forget=[one.forget for one in forgetful])
        retention = RetentionService(ctx, erasures=erasures)
        await erasures.start()
        retention.start()
        await batches.start()
        publications.start()
        readiness = Readiness(
            settings, settings.data_dir, store=store, supervisor=ctx.supervisor, ping_artifacts=artifacts.ping
        )
        readiness.start()
        audit = AuditLog(settings, store=store, supervisor=ctx.supervisor)
        audit.start()
    except BaseException:
        if owned:
            await engine.stop()
        await store.close()
        _release(locks)
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
        audit=audit,
        engine=engine,
        memory=memory,
        profiles=profiles,
        traces=traces,
        imports=imports,
        batches=batches,
        leases=leases,
        adapters=adapters,
        version_imports=version_imports,
        publications=publications,
        auto=auto,
        erasures=erasures,
        retention=retention,
        exports=UserExporter(ctx, storage=storage),
        chat=chat,
        completions=completions,
        responses=ResponseService(chat),
        models=ModelCatalog(ctx),
        readiness=readiness,
        shutdown=ctx.shutdown,
        quotas=ctx.quotas,
        stored_quotas=ctx.stored_quotas,
        info=info,
        locks=locks,
    )


async def _open_store(settings: Settings, progress: Callable[[str], None]) -> Store:
    """Open the store; wait for a database that starts at the same time, at most `database_wait_s`."""
    until = time.monotonic() + settings.database_wait_s
    tries = 0
    while True:
        try:
            return await Store.open(
                settings.url,
                busy_timeout_s=settings.database_busy_timeout_s,
                statement_timeout_s=settings.database_statement_timeout_s,
            )
        except StoreBusy as error:
            tries += 1
            delay_s = retry_delay_s(
                tries, min_s=settings.retry_min_s, max_s=settings.retry_max_s, jitter=random.random()
            )
            if time.monotonic() + delay_s > until:
                raise
            progress(f"waiting for the database: {error.why}")
            await asyncio.sleep(delay_s)


async def close_services(services: Services, *, keep_engine: bool = False) -> None:
    """Stop the work, then the engine, then close the store.

    Args:
        services: The parts, from `open_services`.
        keep_engine: Leave the engine running for its owner.
    """
    await services.readiness.stop()
    await services.audit.stop()
    await services.access.stop()
    await services.retention.stop()
    await services.erasures.stop()
    await services.batches.stop()
    await services.leases.stop()
    await services.publications.stop()
    await services.adapters.stop()
    if not keep_engine:
        await services.engine.stop()
    await services.store.close()
    _release(services.locks)


def _lock_database(settings: Settings) -> list[DataLock]:
    """Lock a SQLite file that is not in the data folder, which is locked as a whole."""
    database = sqlite_file(settings.url)
    if database is None or database.absolute().parent == settings.data_dir.absolute():
        return []
    return [DataLock(database.with_name(f"{database.name}.server.lock"), f"the database {database}")]


def _release(locks: Iterable[DataLock]) -> None:
    for lock in locks:
        lock.release()
