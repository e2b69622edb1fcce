"""Adapters in service: which version answers a request, publication, pointers, and health.

The store holds the pointers (live version, canary). `AdapterService` remembers what it saw there last, so that it
notices when another server, or a request, has moved them.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import IO

import structlog

from mindprint.types import Adapter, Check, Version
from mindprint.types.keys import ModelName, VersionRef
from mindprint_server.adapters.health import Outcome, VersionHealth
from mindprint_server.adapters.publisher import unreadable
from mindprint_server.adapters.residency import AdapterResidency
from mindprint_server.adapters.storage import AdapterStorage
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.engine.types import engine_name
from mindprint_server.exceptions import ArtifactUnavailable, Conflict
from mindprint_server.store import FilesGone, Pointers, StoreError, VersionRecord, VersionRefused
from mindprint_server.tenancy import current_tenant, of_tenant

log = structlog.get_logger(__name__)
MAX_TRIES = 3
"""Tries to resolve the model of a request. A further try follows if the version's files were removed meanwhile."""


class Unusable(Conflict):
    """The engine cannot load a version that was accepted before."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__("version_unusable", f"{name} cannot be loaded ({why}): promote another version")


class OtherBaseModel(Conflict):
    """A version was trained on another base model than the one that is served."""

    def __init__(self, name: str, trained_on: str, served: str) -> None:
        super().__init__(
            "adapter_base_model",
            f"{name} was trained on base model {trained_on[:23]}…, served is {served[:23]}…: "
            "serve that model, or train again",
        )


class AdapterService:
    """Resolves model names to loaded versions, and moves the pointers.

    Args:
        ctx: Settings, store, engine and metrics of the server.
        storage: Keeps the files of versions.
        residency: Loads versions into the engine.
        health: Watches the answers of versions in service.
        chance: Returns a number from 0 to 1 for each request that a canary might answer; tests replace it.
    """

    def __init__(
        self,
        ctx: ServerContext,
        *,
        storage: AdapterStorage,
        residency: AdapterResidency,
        health: VersionHealth,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._storage = storage
        self.residency = residency
        self._health = health
        self._chance = chance
        self._serving: dict[tuple[str, str], tuple[int | None, int | None]] = {}
        """Live version and canary by tenant and adapter, as last seen in the store."""

    async def start(self) -> None:
        """Open the artifact store."""
        await self._storage.start()

    async def stop(self) -> None:
        """Wait for versions that are being loaded or unloaded."""
        await self.residency.stop()
        await self._storage.stop()

    async def follow(self, version: Version) -> None:
        """Follow the pointers that a publication has moved, and remove files of old versions.

        Args:
            version: The version that was published.
        """
        await self._reload_pointers(version.adapter)
        await self._prune(version.adapter)

    # --- answering ---

    @asynccontextmanager
    async def acquire(self, model: str, *, may_fall_back: bool = True) -> AsyncIterator[AdapterRef | None]:
        """Resolve a model name to a version, and keep that version loaded during the block.

        A user without a version in service gets the cohort's version, else the base model. If the version in service
        cannot be loaded, the base model answers.

        Args:
            model: `base`, `user/<id>` or `cohort/<name>`, the latter two optionally with `@<version>`.
            may_fall_back: Whether the base model may answer for a version in service that cannot be loaded.

        Returns:
            The loaded version; None is the base model.

        Raises:
            Conflict: The version cannot be used, and was named or must not be replaced.
            ArtifactUnavailable: This server cannot get its files now, and it was named or must not be replaced.
            Busy: No slot came free in time.
            RecordNotFound: The version or the cohort does not exist.
        """
        async with AsyncExitStack() as stack:
            yield await self._resolve(model, stack, may_fall_back)

    async def _resolve(self, model: str, stack: AsyncExitStack, may_fall_back: bool) -> AdapterRef | None:
        name = ModelName(model)
        key, number = name.key or name, name.number
        for _ in range(MAX_TRIES):
            version = await self._get_named(key, number) if number else await self._choose_version(key)
            if version is None:
                return None
            try:
                return await self._load(version, stack)
            except FilesGone:
                if number:
                    raise
                # While the request waited, a newer version went live and retention removed this one: resolve again.
            except (ArtifactUnavailable, OtherBaseModel, Unusable) as error:
                if number:
                    raise
                # Only what is unusable is the version's fault. The others stay in service.
                if isinstance(error, Unusable):
                    await self.report_outcome(self._storage.ref(version), "failed")
                if not may_fall_back:
                    raise
                log.warning("the base answers for a version that cannot be loaded", why=error.message)
                self._metrics.fallbacks.labels(to="base").inc()
                return None
        log.error("the version in service has no files", adapter=key)
        if not may_fall_back:
            raise ArtifactUnavailable(f"the version of {key} in service", "its files were removed")
        return None

    async def _get_named(self, key: str, number: int) -> VersionRecord:
        version = await self._store.versions.get(key, number)
        await self._reload_pointers(key)
        if version.state == "refused":
            raise VersionRefused(key, number)
        if not version.files:
            raise FilesGone(key, number)
        return version

    async def _choose_version(self, model: str) -> VersionRecord | None:
        adapter = ModelName(model).key
        if adapter is None:
            return None
        key, pointers = (
            await self._store.live_versions.resolve_for_user(adapter.name)
            if adapter.kind == "user"
            else (model, await self._store.live_versions.get(model))
        )
        if key != model and of_tenant(model) in self._serving:
            await self._sync_pointers(model, None, None)
        await self._sync_pointers(key, *_numbers(pointers))
        if adapter.kind == "cohort" and pointers == Pointers():
            await self._store.cohorts.get(adapter.name)  # raises RecordNotFound for an unknown cohort
        if pointers.canary is not None and self._chance() < (pointers.canary_share or 0.0):
            return pointers.canary
        return pointers.live

    async def _load(self, version: VersionRecord, stack: AsyncExitStack) -> AdapterRef:
        ref = self._storage.ref(version)
        if version.base_digest != (served := self._engine.info().base_digest):
            raise OtherBaseModel(ref.name, version.base_digest, served)
        try:
            await stack.enter_async_context(self._storage.open(version))
            return await stack.enter_async_context(self.residency.pin_for_request(ref, pinned=version.pinned))
        except (ValueError, OSError, ArtifactUnavailable) as error:
            if not (await self._store.versions.get(ref.key, ref.version)).files:
                raise FilesGone(ref.key, ref.version) from error
            if isinstance(error, OSError):
                raise unreadable(ref, error) from error
            if isinstance(error, ArtifactUnavailable):
                raise
            # Only files that are whole count against the version.
            await self._storage.check(version)
            raise Unusable(ref.name, str(error)) from error

    # --- pointers ---

    async def promote(self, key: str, version: int | None) -> Adapter:
        """Make a version live; None takes the adapter off. The version is loaded first.

        Raises:
            Unusable: The version cannot be loaded.
            OtherBaseModel: The version was trained on another base model.
            ArtifactUnavailable: This server cannot get its files now.
            Busy: No slot came free in time.
            FilesGone: The version has no files.
        """
        async with AsyncExitStack() as stack:
            if version is not None:
                await self._load(await self._get_with_files(key, version), stack)
            adapter = await self._store.live_versions.set_live(key, version)
            await self._sync_pointers(key, adapter.live, adapter.canary)
        return adapter

    async def set_canary(self, key: str, version: int | None, share: float) -> Adapter:
        """Let a version answer a share of the adapter's requests; None ends that.

        Args:
            key: Adapter key.
            version: The version that becomes the canary, or None.
            share: Share of the requests, more than 0 and less than 1.

        Raises:
            Unusable: The version cannot be loaded.
            OtherBaseModel: The version was trained on another base model.
            ArtifactUnavailable: This server cannot get its files now.
            Busy: No slot came free in time.
            FilesGone: The version has no files.
        """
        async with AsyncExitStack() as stack:
            if version is not None:
                await self._load(await self._get_with_files(key, version), stack)
                self._health.reset(engine_name(current_tenant(), VersionRef.of(key, version)))
            adapter = await self._store.live_versions.set_canary(key, version, share)
            await self._sync_pointers(key, adapter.live, adapter.canary)
        return adapter

    async def rollback(self, key: str) -> Adapter:
        """Make the newest earlier version live that passed its checks and still has files."""
        adapter = await self._store.live_versions.rollback(key)
        # Without another read: if it failed, the caller would repeat the call, which goes back once more.
        await self._sync_pointers(key, adapter.live, adapter.canary)
        return adapter

    async def pin(self, key: str, version: int, pinned: bool) -> Version:
        """Pin or unpin a version. A pinned version keeps its files and, once loaded, its slot in the engine.

        Args:
            key: The adapter.
            version: Number of the version.
            pinned: Whether it is pinned from now on.

        Raises:
            FilesGone: Its files are removed already.
        """
        stored = await self._store.retention.pin(key, version, pinned)
        await self.residency.pin(self._storage.ref(stored), pinned)
        return stored

    async def download(self, key: str, version: int) -> IO[bytes]:
        """Return a version as a zip, in an open temporary file; `storage.read_chunks` sends and closes it.

        Raises:
            FilesGone: The version has no files.
            ArtifactUnavailable: This server cannot get them now.
        """
        return await self._storage.open_archive(await self._get_with_files(key, version))

    async def _get_with_files(self, key: str, number: int) -> VersionRecord:
        version = await self._store.versions.get(key, number)
        if not version.files:
            raise FilesGone(key, number)
        return version

    async def _reload_pointers(self, key: str) -> None:
        await self._sync_pointers(key, *_numbers(await self._store.live_versions.get(key)))

    async def _sync_pointers(self, key: str, live: int | None, canary: int | None) -> None:
        """Apply the store's pointers to this process: unload versions that they no longer name, once they are idle."""
        now = live, canary
        if self._serving.get(of_tenant(key), (None, None)) == now:
            return
        for number in {*self._serving.pop(of_tenant(key), ())} - {*now, None}:
            self._health.reset(engine_name(current_tenant(), VersionRef.of(key, number)))
        if now != (None, None):
            self._serving[of_tenant(key)] = now
        await self.residency.keep_only(key, [number for number in now if number is not None])

    async def _prune(self, key: str) -> None:
        # A failure leaves files for the next time: the new version is in service already.
        try:
            await self._storage.prune(key, keep=self._settings.keep_versions, is_needed=self.residency.is_needed)
        except (StoreError, OSError, ArtifactUnavailable) as error:
            log.warning("old versions were not removed", adapter=key, why=str(error))

    # --- health ---

    async def report_outcome(self, adapter: AdapterRef | None, outcome: Outcome) -> None:
        """Record how an answer of a version in service went.

        A version that crosses a bound is withdrawn; a canary with enough good answers is promoted. Errors of the
        store are logged and do not reach the answer.

        Args:
            adapter: The version that answered. None, and a version that is not in service, is ignored.
            outcome: How the answer went.
        """
        if adapter is None or adapter.version not in self._serving.get((adapter.tenant, adapter.key), ()):
            return
        self._metrics.served.labels(outcome=outcome).inc()
        alarm = self._health.record(adapter.engine_name, outcome)
        try:
            if alarm is not None:
                await self._withdraw(adapter, alarm)
            elif self._health.count_fine(adapter.engine_name) >= self._settings.canary_requests:
                await self._promote_canary(adapter)
        except StoreError as error:
            log.error("the pointer did not move", adapter=adapter.name, why=str(error))

    async def _withdraw(self, adapter: AdapterRef, check: Check) -> None:
        log.error("version withdrawn", adapter=adapter.name, check=check.name, value=check.value, bound=check.bound)
        self._metrics.withdrawn.labels(check=check.name).inc()
        left = await self._store.live_versions.withdraw(adapter.key, adapter.version, check)
        log.info("pointers after the withdrawal", adapter=adapter.key, live=left.live, canary=left.canary)
        await self._reload_pointers(adapter.key)

    async def _promote_canary(self, adapter: AdapterRef) -> None:
        if self._serving.get((adapter.tenant, adapter.key), (None, None))[1] != adapter.version:
            return
        pointers = await self._store.live_versions.get(adapter.key)
        if pointers.canary is not None and pointers.canary.version == adapter.version:
            # The request that reports this outcome holds the version, so it is loaded.
            await self._store.live_versions.set_live(adapter.key, adapter.version)
            await self._reload_pointers(adapter.key)
            log.info("canary promoted", adapter=adapter.name, good=self._settings.canary_requests)


def _numbers(pointers: Pointers) -> tuple[int | None, int | None]:
    live, canary = pointers.live, pointers.canary
    return live.version if live else None, canary.version if canary else None
