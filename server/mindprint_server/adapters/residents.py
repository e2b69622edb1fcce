"""Which versions the engine holds, and who is using them. Retired and unused ones leave (invariant 4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mindprint_server.engine import AdapterRef, Engine
from mindprint_server.metrics import Metrics


@dataclass
class Resident:
    adapter: AdapterRef
    users: int = 0
    retired: bool = False
    loaded: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Residents:
    """Reference counts over the engine's adapters."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._residents: dict[int, Resident] = {}

    @asynccontextmanager
    async def hold(self, adapter: AdapterRef, *, retired: bool = False) -> AsyncIterator[AdapterRef]:
        """Keeps a version in the engine while the block runs, loading it if need be.

        `retired` says that it is not the live one: then it leaves after its last user.
        Raises ValueError if the engine refuses its files.
        """
        resident = self._residents.setdefault(adapter.engine_id, Resident(adapter))
        resident.users += 1
        resident.retired = retired
        try:
            await self._load(resident)
            yield adapter
        finally:
            resident.users -= 1
            await self._leave(resident)

    async def retire(self, key: str, *, but: int | None) -> None:
        """Every version of `key` except `but` leaves the engine as soon as nobody uses it."""
        for resident in list(self._residents.values()):
            if resident.adapter.key == key:
                resident.retired = resident.adapter.version != but
                await self._leave(resident)

    async def _load(self, resident: Resident) -> None:
        async with resident.lock:
            if resident.loaded:
                return
            try:
                await self._engine.load(resident.adapter)
            except BaseException:
                self._metrics.adapter_loads.labels(outcome="failed").inc()
                resident.retired = True
                raise
            resident.loaded = True
            self._metrics.adapter_loads.labels(outcome="loaded").inc()
            self._count()

    async def _leave(self, resident: Resident) -> None:
        if not resident.retired or resident.users:
            return
        async with resident.lock:
            # Somebody may have come while the lock was awaited.
            if (
                not resident.retired
                or resident.users
                or self._residents.get(resident.adapter.engine_id) is not resident
            ):
                return
            if resident.loaded:
                await self._engine.unload(resident.adapter)
                resident.loaded = False
                self._metrics.adapter_unloads.inc()
            if resident.users == 0:
                del self._residents[resident.adapter.engine_id]
        self._count()

    def _count(self) -> None:
        self._metrics.resident_adapters.set(sum(resident.loaded for resident in self._residents.values()))

    def loaded(self) -> list[str]:
        """Names of the versions that the engine holds."""
        return sorted(resident.adapter.name for resident in self._residents.values() if resident.loaded)
