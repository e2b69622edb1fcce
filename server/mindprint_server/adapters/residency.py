"""Which versions the engine holds, and who is using them.

There may be more versions than places in the engine (`engine.places` says who waits and who makes room). A version that
is no longer served leaves as soon as its last user is done (invariant 4); loading and unloading run beside everything
else, and go on to their end whatever becomes of those who asked for them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.engine.slots import SlotAllocator, SlotQueue, SlotRequest
from mindprint_server.exceptions import Busy

log = structlog.get_logger(__name__)


@dataclass
class Resident:
    adapter: AdapterRef
    loading: asyncio.Task[None]
    leaving: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        return self.loading.done() and not self.failed

    @property
    def failed(self) -> bool:
        return self.loading.done() and (self.loading.cancelled() or self.loading.exception() is not None)


class AdapterResidency:
    """Reference counts over the engine's adapters. `serves` tells whether requests may still come for a version."""

    def __init__(self, ctx: ServerContext, *, serves: Callable[[AdapterRef], bool]) -> None:
        self._settings = ctx.settings
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._serves = serves
        self._residents: dict[int, Resident] = {}
        self._asking: Counter[tuple[str, int]] = Counter()
        self._slots = SlotQueue(
            SlotAllocator(ctx.settings.max_cpu_loras, ctx.settings.adapter_patience_s), self._unload_for_another
        )
        self._leaving: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Waits for what is being loaded or unloaded."""
        going = [resident.loading for resident in self._residents.values()]
        await asyncio.gather(*going, *self._leaving, return_exceptions=True)

    @asynccontextmanager
    async def hold(self, adapter: AdapterRef, *, pinned: bool = False) -> AsyncIterator[AdapterRef]:
        """Keeps a version in the engine while the block runs, loading it if need be.

        Raises ValueError or OSError if the engine refuses its files, Busy if no place came free in time.
        """
        version = adapter.key, adapter.version
        self._asking[version] += 1
        try:
            request = await self._enter(adapter)
            try:
                self._slots.allocator.pin(adapter.engine_id, pinned)
                await self._loaded(adapter)
                yield adapter
            finally:
                self._slots.release(request)
                await self._leave_if_unserved(adapter.engine_id)
        finally:
            self._asking[version] -= 1
            if not self._asking[version]:
                del self._asking[version]

    async def retire(self, key: str) -> None:
        """Versions of `key` that are no longer served leave the engine, each when nobody uses it any more."""
        for id, resident in list(self._residents.items()):
            if resident.adapter.key == key:
                await self._leave_if_unserved(id)

    async def pin(self, adapter: AdapterRef, pinned: bool) -> None:
        """A pinned version stays in the engine once it is there."""
        self._slots.allocator.pin(adapter.engine_id, pinned)
        await self._leave_if_unserved(adapter.engine_id)

    def loaded(self) -> list[str]:
        """Names of the versions that the engine holds."""
        return sorted(resident.adapter.name for resident in self._residents.values() if resident.loaded)

    def needs(self, key: str, version: int) -> bool:
        """Whether the engine holds a version, or somebody is asking for it."""
        held = any((one.adapter.key, one.adapter.version) == (key, version) for one in self._residents.values())
        return held or (key, version) in self._asking

    # --- how ---

    async def _enter(self, adapter: AdapterRef) -> SlotRequest:
        began = time.monotonic()
        resident = self._residents.get(adapter.engine_id)
        hit = resident is not None and resident.loaded and resident.leaving is None
        try:
            request = await self._slots.acquire(adapter.engine_id, max_wait_s=self._settings.adapter_wait_s)
        except TimeoutError:
            self._metrics.adapter_requests.labels(outcome="busy").inc()
            message = f"every place in the engine has been in use for {self._settings.adapter_wait_s:g} s: retry"
            raise Busy("adapters_busy", message) from None
        outcome = "wait" if request.queued else "hit" if hit else "load"
        self._metrics.adapter_requests.labels(outcome=outcome).inc()
        self._metrics.adapter_wait_seconds.observe(time.monotonic() - began)
        return request

    async def _loaded(self, adapter: AdapterRef) -> None:
        resident = self._residents.get(adapter.engine_id)
        if resident is None:
            resident = Resident(adapter, asyncio.create_task(self._load(adapter)))
            resident.loading.add_done_callback(_heard)
            self._residents[adapter.engine_id] = resident
        # In a task of its own: a caller who goes away must not leave the engine with half an answer.
        await asyncio.shield(resident.loading)

    async def _load(self, adapter: AdapterRef) -> None:
        try:
            await self._engine.load(adapter)
        except BaseException:
            self._metrics.adapter_loads.labels(outcome="failed").inc()
            raise
        self._metrics.adapter_loads.labels(outcome="loaded").inc()
        self._metrics.resident_adapters.inc()

    async def _leave_if_unserved(self, id: int) -> None:
        resident = self._residents.get(id)
        if resident is None:
            return
        wanted = self._serves(resident.adapter) or self._slots.allocator.is_pinned(id)
        if (resident.failed or not wanted) and self._slots.allocator.begin_eviction(id):
            self._unload(id)
            assert resident.leaving is not None
            await asyncio.shield(resident.leaving)

    def _unload_for_another(self, id: int) -> None:
        self._metrics.adapter_evictions.inc()
        self._unload(id)

    def _unload(self, id: int) -> None:
        leaving = asyncio.create_task(self._out(id))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        if resident := self._residents.get(id):
            resident.leaving = leaving

    async def _out(self, id: int) -> None:
        # There is a place but no resident if whoever asked went away in the moment when it was let in.
        resident = self._residents.get(id)
        try:
            if resident is not None:
                await asyncio.wait([resident.loading])
                await self._engine.unload(resident.adapter)
                if resident.loaded:
                    self._metrics.adapter_unloads.inc()
        except Exception as error:
            log.error("adapter could not be unloaded", adapter=resident and resident.adapter.name, why=str(error))
        finally:
            if resident is not None:
                if resident.loaded:
                    self._metrics.resident_adapters.dec()
                del self._residents[id]
            self._slots.finish_eviction(id)


def _heard(task: asyncio.Task[None]) -> None:
    """Those who waited for it have the error; there may be none."""
    if not task.cancelled():
        task.exception()
