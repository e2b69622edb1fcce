"""What answers for a model name, how it got there, and what takes it away again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO

import structlog

from mindprint.types import Adapter, Check, Manifest, Version
from mindprint_server.adapters import storage
from mindprint_server.adapters.health import Outcome, VersionHealth
from mindprint_server.adapters.publisher import Examiner, Reader, VersionPublisher
from mindprint_server.adapters.residency import AdapterResidency
from mindprint_server.adapters.storage import AdapterFiles
from mindprint_server.admission import AdmissionController
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.exceptions import Conflict
from mindprint_server.store import FilesGone, Pointers, StoreError, VersionRecord, VersionRefused

log = structlog.get_logger(__name__)
TRIES = 3
"""How often a request follows a pointer to a version whose files went while it waited."""


class Unusable(Conflict):
    """The engine cannot load a version that was accepted once."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__("version_unusable", f"{name} cannot be loaded ({why}): promote another version")


class AdapterService:
    """`chance` draws a number from 0 to 1 for each request that a candidate might answer."""

    def __init__(
        self,
        ctx: ServerContext,
        *,
        admission: AdmissionController,
        gate: Examiner | None = None,
        warmer: Reader | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._metrics = ctx.metrics
        self._chance = chance
        self.admission = admission
        self._files = AdapterFiles(ctx.settings.data_dir / "adapters")
        self.residents = AdapterResidency(ctx, serves=self._serves)
        self._intake = VersionPublisher(
            ctx,
            files=self._files,
            residents=self.residents,
            gate=gate,
            warmer=warmer,
            lull=admission.lull,
            moved=self._refresh,
        )
        self._watch = VersionHealth(
            window=ctx.settings.watch_window,
            least=ctx.settings.watch_least,
            max_collapsed=ctx.settings.max_collapsed,
            max_failed=ctx.settings.max_failed,
        )
        self._serving: dict[str, tuple[int | None, int | None]] = {}
        """Live version and candidate of each adapter, as last seen in the store."""

    async def start(self) -> None:
        """Collects what a crash left on disk and reads the base's shapes."""
        known = await self._store.versions.list_refs(with_files=True)
        if orphans := await asyncio.to_thread(self._files.collect_orphans, known):
            log.warning("adapter files without a version were removed", folders=orphans)
        await self._intake.start()

    async def stop(self) -> None:
        await self.residents.stop()

    async def complete(self, lease_id: str, manifest: Manifest, config: bytes, weights: Path) -> Version:
        """Takes a trainer's upload into service; see `Intake.complete`."""
        return await self._intake.complete(lease_id, manifest, config, weights)

    # --- resolving and using ---

    @asynccontextmanager
    async def use(self, model: str) -> AsyncIterator[AdapterRef | None]:
        """The adapter that a model name stands for now, held in the engine while the block runs; None is the base.

        `user/<id>` without a version in service is the user's cohort, and where that has none, the base. Raises
        RecordNotFound, Conflict for versions that cannot be used, Busy if the engine has no place for it in time.
        """
        async with AsyncExitStack() as held:
            yield await self._enter(model, held)

    async def _enter(self, model: str, held: AsyncExitStack) -> AdapterRef | None:
        key, _, number = model.partition("@")
        for _ in range(TRIES):
            version = await self._named(key, int(number)) if number else await self._answering(key)
            if version is None:
                return None
            try:
                return await self._load(version, held)
            except FilesGone:
                if number:
                    raise
                # A newer version came while this request waited, and retention after it: the pointer knows better.
            except Unusable as error:
                if number:
                    raise
                log.error("the base answers for a version that cannot be loaded", why=error.message)
                self._metrics.fallbacks.labels(to="base").inc()
                await self.heard(self._files.ref(version), "failed")
                return None
        log.error("the base answers: the version in service has no files", adapter=key)
        return None

    async def _named(self, key: str, number: int) -> VersionRecord:
        version = await self._store.versions.get(key, number)
        await self._refresh(key)
        if version.state == "refused":
            raise VersionRefused(key, number)
        if not version.files:
            raise FilesGone(key, number)
        return version

    async def _answering(self, model: str) -> VersionRecord | None:
        kind, _, name = model.partition("/")
        if kind == "base":
            return None
        key, pointers = (
            await self._store.live_versions.resolve_for_user(name)
            if kind == "user"
            else (model, await self._store.live_versions.get(model))
        )
        if key != model and model in self._serving:
            await self._follow(model, Pointers())
        await self._follow(key, pointers)
        if kind == "cohort" and pointers == Pointers():
            await self._store.cohorts.get(name)  # a misspelt one is told so
        if pointers.candidate is not None and self._chance() < (pointers.share or 0.0):
            return pointers.candidate
        return pointers.live

    async def _load(self, version: VersionRecord, held: AsyncExitStack) -> AdapterRef:
        ref = self._files.ref(version)
        try:
            return await held.enter_async_context(self.residents.hold(ref, pinned=version.pinned))
        except (ValueError, OSError) as error:
            if not (await self._store.versions.get(ref.key, ref.version)).files:
                raise FilesGone(ref.key, ref.version) from error
            raise Unusable(ref.name, str(error)) from error

    def _serves(self, adapter: AdapterRef) -> bool:
        return adapter.version in self._serving.get(adapter.key, ())

    async def _refresh(self, key: str) -> None:
        await self._follow(key, await self._store.live_versions.get(key))

    async def _follow(self, key: str, pointers: Pointers) -> None:
        """Takes note of the store's pointers, whoever moved them, and retires what they no longer name."""
        live, candidate = pointers.live, pointers.candidate
        now = live.version if live else None, candidate.version if candidate else None
        if self._serving.get(key, (None, None)) == now:
            return
        for number in {*self._serving.pop(key, ())} - {*now}:
            self._watch.forget(f"{key}@{number}")
        if now != (None, None):
            self._serving[key] = now
        await self.residents.retire(key)

    # --- moving the pointers ---

    async def promote(self, key: str, version: int | None) -> Adapter:
        """Makes a version live, or none. The engine has it before the pointer moves."""
        async with AsyncExitStack() as held:
            if version is not None:
                await self._load(await self._with_files(key, version), held)
            adapter = await self._store.live_versions.set_live(key, version)
            await self._refresh(key)
        return adapter

    async def release(self, key: str, version: int | None, share: float) -> Adapter:
        """Lets a version answer a share of the adapter's requests; None ends that."""
        async with AsyncExitStack() as held:
            if version is not None:
                await self._load(await self._with_files(key, version), held)
                self._watch.forget(f"{key}@{version}")
            adapter = await self._store.live_versions.set_canary(key, version, share)
            await self._refresh(key)
        return adapter

    async def rollback(self, key: str) -> Adapter:
        """Back to the version that was live before."""
        adapter = await self._store.live_versions.rollback(key)
        await self._refresh(key)
        return adapter

    async def pin(self, key: str, version: int, pinned: bool) -> Version:
        """A pinned version keeps its files and, once loaded, its place in the engine."""
        stored = await self._store.retention.pin(key, version, pinned)
        await self.residents.pin(self._files.ref(stored), pinned)
        return stored

    async def download(self, key: str, version: int) -> IO[bytes]:
        """A version's zip, as an open file without a name. Raises FilesGone."""
        await self._with_files(key, version)
        try:
            beside = self._settings.data_dir / "downloads"
            return await asyncio.to_thread(storage.pack, self._files.path(key, version), beside)
        except FileNotFoundError:
            raise FilesGone(key, version) from None

    async def _with_files(self, key: str, number: int) -> VersionRecord:
        version = await self._store.versions.get(key, number)
        if not version.files:
            raise FilesGone(key, number)
        return version

    # --- in service ---

    async def heard(self, adapter: AdapterRef | None, outcome: Outcome) -> None:
        """Takes note of how an answer of a version went: one that misbehaves is withdrawn, and a candidate that does
        well is promoted. A trouble with that is logged; it is none of the answer's."""
        if adapter is None or not self._serves(adapter):
            return
        self._metrics.served.labels(outcome=outcome).inc()
        alarm = self._watch.tell(adapter.name, outcome)
        try:
            if alarm is not None:
                await self._withdraw(adapter, alarm)
            elif self._watch.fine(adapter.name) >= self._settings.canary_requests:
                await self._promote_candidate(adapter)
        except StoreError as error:
            log.error("the pointer did not move", adapter=adapter.name, why=str(error))

    async def _withdraw(self, adapter: AdapterRef, check: Check) -> None:
        log.error("version withdrawn", adapter=adapter.name, check=check.name, value=check.value, bound=check.bound)
        self._metrics.withdrawn.labels(check=check.name).inc()
        left = await self._store.live_versions.withdraw(adapter.key, adapter.version, check)
        log.info("what answers now", adapter=adapter.key, live=left.live, candidate=left.candidate)
        await self._refresh(adapter.key)

    async def _promote_candidate(self, adapter: AdapterRef) -> None:
        if self._serving.get(adapter.key, (None, None))[1] != adapter.version:
            return
        pointers = await self._store.live_versions.get(adapter.key)
        if pointers.candidate is not None and pointers.candidate.version == adapter.version:
            await self._store.live_versions.set_live(
                adapter.key, adapter.version
            )  # whoever tells of it has it in the engine
            await self._refresh(adapter.key)
            log.info("candidate promoted", adapter=adapter.name, good=self._settings.canary_requests)
