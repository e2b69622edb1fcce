"""Tracks which versions the engine has loaded and which requests use them.

There may be more versions than slots in the engine. `engine.slots` decides which requests wait and which versions are
evicted. A version that is no longer served is unloaded when its last request ends, so that no sequence mixes two
versions. Loading and unloading run in tasks of their own and finish even if the request that caused them is cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.engine.slots import SlotAllocator, SlotQueue, SlotRequest
from mindprint_server.exceptions import Busy
from mindprint_server.tenancy import of_tenant

log = structlog.get_logger(__name__)


@dataclass
class _Resident:
    adapter: AdapterRef
    loading: asyncio.Task[None]
    unloading: asyncio.Task[None] | None = None

    @property
    def is_loaded(self) -> bool:
        return self.loading.done() and not self.has_failed

    @property
    def has_failed(self) -> bool:
        return self.loading.done() and (self.loading.cancelled() or self.loading.exception() is not None)


class AdapterResidency:
    """Counts the requests of each loaded version; loads and unloads versions as needed.

    Args:
        ctx: Settings, engine and metrics of the server.
    """

    def __init__(self, ctx: ServerContext) -> None:
        self._settings = ctx.settings
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._supervisor = ctx.supervisor
        self._kept: dict[tuple[str, str], set[int]] = {}
        """Numbers of the versions that stay loaded, by tenant and adapter."""
        self._residents: dict[int, _Resident] = {}
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._slots = SlotQueue(
            SlotAllocator(ctx.settings.max_cpu_loras, ctx.settings.adapter_max_starvation_s), self._unload_for_another
        )
        self._unloading: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Wait for versions that are being loaded or unloaded."""
        loading = [resident.loading for resident in self._residents.values()]
        await asyncio.gather(*loading, *self._unloading, return_exceptions=True)

    @asynccontextmanager
    async def pin_for_request(self, adapter: AdapterRef, *, pinned: bool = False) -> AsyncIterator[AdapterRef]:
        """Keep a version loaded while the block runs, and load it first if needed.

        Args:
            adapter: The version.
            pinned: Whether the version also keeps its slot between requests, as `pin` says.

        Raises:
            ValueError: The engine refuses the files.
            OSError: The files cannot be read.
            Busy: No slot came free in time.
        """
        version = adapter.tenant, adapter.key, adapter.version
        self._requests[version] += 1
        try:
            request = await self._acquire_slot(adapter)
            try:
                self._slots.allocator.pin(adapter.engine_id, pinned)
                await self._ensure_loaded(adapter)
                yield adapter
            finally:
                self._slots.release(request)
                await self._unload_if_unused(adapter.engine_id)
        finally:
            self._requests[version] -= 1
            if not self._requests[version]:
                del self._requests[version]

    def keep(self, key: str, version: int) -> None:
        """Keep a version loaded between requests, in addition to those of its adapter that are kept already."""
        self._kept.setdefault(of_tenant(key), set()).add(version)

    async def keep_only(self, key: str, versions: Collection[int]) -> None:
        """Keep just these versions of an adapter loaded between requests. Unload its others once they are idle."""
        self._kept[of_tenant(key)] = set(versions)
        if not versions:
            del self._kept[of_tenant(key)]
        for engine_id, resident in list(self._residents.items()):
            if (resident.adapter.tenant, resident.adapter.key) == of_tenant(key):
                await self._unload_if_unused(engine_id)

    async def drop(self, key: str, version: int) -> None:
        """Keep a version no longer: it is unloaded once its last request ends, also if it was pinned."""
        self._kept.get(of_tenant(key), set()).discard(version)
        for engine_id, resident in list(self._residents.items()):
            adapter = resident.adapter
            if (adapter.tenant, adapter.key, adapter.version) == (*of_tenant(key), version):
                self._slots.allocator.pin(engine_id, False)
                await self._unload_if_unused(engine_id)

    async def pin(self, adapter: AdapterRef, pinned: bool) -> None:
        """Set or clear the pin of a version. A pinned version that is loaded keeps its slot."""
        self._slots.allocator.pin(adapter.engine_id, pinned)
        await self._unload_if_unused(adapter.engine_id)

    def loaded(self) -> list[str]:
        """Return the names of the loaded versions of all tenants, as the engine knows them."""
        return sorted(resident.adapter.engine_name for resident in self._residents.values() if resident.is_loaded)

    def holds(self, path: Path) -> bool:
        """Return whether the engine has the files of a folder loaded, or loads or unloads them."""
        return any(resident.adapter.path == path for resident in self._residents.values())

    def is_needed(self, key: str, version: int) -> bool:
        """Return whether a version is loaded, being loaded, or requested."""
        wanted = (*of_tenant(key), version)
        adapters = (resident.adapter for resident in self._residents.values())
        is_resident = any((one.tenant, one.key, one.version) == wanted for one in adapters)
        return is_resident or wanted in self._requests

    async def _acquire_slot(self, adapter: AdapterRef) -> SlotRequest:
        began = time.monotonic()
        resident = self._residents.get(adapter.engine_id)
        hit = resident is not None and resident.is_loaded and resident.unloading is None
        try:
            request = await self._slots.acquire(adapter.engine_id, max_wait_s=self._settings.adapter_wait_s)
        except TimeoutError:
            self._metrics.adapter_requests.labels(outcome="busy").inc()
            message = (
                f"every adapter slot of the engine was in use for {self._settings.adapter_wait_s:g} s: "
                "retry in a moment, or raise max_cpu_loras"
            )
            raise Busy("adapters_busy", message) from None
        outcome = "wait" if request.queued else "hit" if hit else "load"
        self._metrics.adapter_requests.labels(outcome=outcome).inc()
        self._metrics.adapter_wait_seconds.observe(time.monotonic() - began)
        return request

    async def _ensure_loaded(self, adapter: AdapterRef) -> None:
        resident = self._residents.get(adapter.engine_id)
        if resident is None:
            resident = _Resident(adapter, asyncio.create_task(self._load(adapter)))
            resident.loading.add_done_callback(_retrieve_exception)
            self._residents[adapter.engine_id] = resident
        # Shield the load: a cancelled request must not leave the engine with a half-loaded adapter.
        await asyncio.shield(resident.loading)

    async def _load(self, adapter: AdapterRef) -> None:
        try:
            await self._engine.load(adapter)
        except BaseException:
            self._metrics.adapter_loads.labels(outcome="failed").inc()
            raise
        self._metrics.adapter_loads.labels(outcome="loaded").inc()
        self._metrics.resident_adapters.inc()

    async def _unload_if_unused(self, engine_id: int) -> None:
        resident = self._residents.get(engine_id)
        if resident is None:
            return
        adapter = resident.adapter
        named = adapter.version in self._kept.get((adapter.tenant, adapter.key), ())
        kept = named or self._slots.allocator.is_pinned(engine_id)
        if (resident.has_failed or not kept) and self._slots.allocator.begin_eviction(engine_id):
            self._start_unloading(engine_id)
            assert resident.unloading is not None
            await asyncio.shield(resident.unloading)

    def _unload_for_another(self, engine_id: int) -> None:
        self._metrics.adapter_evictions.inc()
        self._start_unloading(engine_id)

    def _start_unloading(self, engine_id: int) -> None:
        unloading = asyncio.create_task(self._unload(engine_id))
        self._unloading.add(unloading)
        unloading.add_done_callback(self._unloading.discard)
        if resident := self._residents.get(engine_id):
            resident.unloading = unloading

    async def _unload(self, engine_id: int) -> None:
        # A slot has no resident if its request was cancelled at the moment of its admission.
        resident = self._residents.get(engine_id)
        try:
            if resident is not None:
                await asyncio.wait([resident.loading])
                await self._engine.unload(resident.adapter)
                if resident.is_loaded:
                    self._metrics.adapter_unloads.inc()
        except Exception as error:
            log.error("adapter could not be unloaded", adapter=resident and resident.adapter.name)
            self._supervisor.report("adapter unloading", error)
        finally:
            if resident is not None:
                if resident.is_loaded:
                    self._metrics.resident_adapters.dec()
                del self._residents[engine_id]
            self._slots.finish_eviction(engine_id)


def _retrieve_exception(task: asyncio.Task[None]) -> None:
    """Retrieve the exception of a load, so that asyncio does not log it if no request waits for the load."""
    if not task.cancelled():
        task.exception()
