"""Shares a limited number of adapter slots fairly.

`SlotAllocator` decides which requests are admitted and which slots are evicted. It is pure: callers pass the time.
`SlotQueue` lets asyncio tasks wait for these decisions. Two parts of the server use it: `AdapterResidency` for the
adapters that the engine keeps loaded, and `ActiveAdapterLimiter` for the adapters of one engine step.

Rules:

- All requests of one adapter share one slot.
- A request whose adapter has an open slot is admitted at once. Other requests wait in order of arrival, and no later
  request gets a slot first.
- While requests wait, idle slots are evicted, the least recently used first.
- When every slot stays in use for longer than `max_starvation_s`, the slot with the oldest admission is closed. New
  requests for its adapter join the queue, and the slot is evicted when its last request ends. This bounds every wait.
- A pinned slot is evicted only when every slot is pinned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from mindprint_server.engine.types import AdapterRef


@dataclass(eq=False)
class SlotRequest:
    """One use of an adapter, waiting or admitted.

    Attributes:
        adapter_id: Engine id of the adapter (`AdapterRef.engine_id`).
        requested_at: Time of the request, in seconds of the caller's clock.
        admitted: The request has its slot.
        queued: On arrival no slot was free or about to become free.
    """

    adapter_id: int
    requested_at: float
    admitted: bool = False
    queued: bool = False


@dataclass
class Slot:
    """The slot of one adapter.

    Attributes:
        admitted_at: Time when the adapter got the slot.
        last_used_at: Time of the newest admission or release.
        active: Number of admitted requests.
        pinned: Evict this slot only when every slot is pinned.
        closed: Admit no new requests.
        evicting: The adapter is being removed; the slot becomes free with `finish_eviction`.
    """

    admitted_at: float
    last_used_at: float
    active: int = 0
    pinned: bool = False
    closed: bool = False
    evicting: bool = False


class SlotAllocator:
    """Decides who is admitted and who is evicted. Pure: it keeps state but no clock.

    Call `schedule` after every change and act on what it returns.

    Args:
        count: Number of slots, at least 1.
        max_starvation_s: Seconds that a request waits before a slot in use is closed for it.
    """

    def __init__(self, count: int, max_starvation_s: float) -> None:
        self.count = count
        self.max_starvation_s = max_starvation_s
        self._slots: dict[int, Slot] = {}
        self._queue: dict[SlotRequest, None] = {}

    # --- events ---

    def request(self, adapter_id: int, now: float) -> SlotRequest:
        """Queue a new request. The next `schedule` may admit it."""
        request = SlotRequest(adapter_id, now)
        self._queue[request] = None
        return request

    def release(self, request: SlotRequest, now: float) -> None:
        """End an admitted request, or withdraw one that still waits."""
        if request.admitted:
            slot = self._slots[request.adapter_id]
            slot.active -= 1
            slot.last_used_at = now
        else:
            self._queue.pop(request, None)

    def pin(self, adapter_id: int, pinned: bool) -> None:
        """Set or clear the pin of an adapter's slot. An adapter without a slot is ignored."""
        if slot := self._slots.get(adapter_id):
            slot.pinned = pinned

    def begin_eviction(self, adapter_id: int) -> bool:
        """Mark an idle slot as being evicted. Return False, and change nothing, if the slot is in use or unknown."""
        slot = self._slots.get(adapter_id)
        if slot is None or slot.active or slot.evicting:
            return False
        slot.evicting = True
        return True

    def finish_eviction(self, adapter_id: int) -> None:
        """Free the slot of an adapter that has been removed."""
        del self._slots[adapter_id]

    # --- decisions ---

    def schedule(self, now: float) -> tuple[list[SlotRequest], list[int]]:
        """Admit waiting requests and choose the slots to evict for the others.

        Returns:
            The requests admitted now, and the ids of the adapters to remove. Call `finish_eviction` for each of the
            latter when it is removed.
        """
        if not self._queue:
            return [], []
        admitted = self._admit(now)
        while self._reopen():
            admitted += self._admit(now)
        wanted = self._wanted()
        evicted = self._evictable()[: max(0, len(wanted) - self._evicting())]
        for adapter_id in evicted:
            self._slots[adapter_id].evicting = True
        starved = sum(now - requested_at >= self.max_starvation_s for requested_at in wanted.values())
        for slot in self._oldest_in_use()[: max(0, starved - self._evicting() - len(self._closed()))]:
            slot.closed = True
        soon_free = set(list(wanted)[: self._evicting()])
        for request in self._queue:
            request.queued |= request.adapter_id not in soon_free
        return admitted, evicted

    def is_pinned(self, adapter_id: int) -> bool:
        """Return whether the adapter has a pinned slot."""
        return adapter_id in self._slots and self._slots[adapter_id].pinned

    def _admit(self, now: float) -> list[SlotRequest]:
        admitted = []
        for request in list(self._queue):
            slot = self._slots.get(request.adapter_id)
            if slot is None and len(self._slots) < self.count:
                slot = self._slots[request.adapter_id] = Slot(admitted_at=now, last_used_at=now)
            if slot is not None and not slot.closed and not slot.evicting:
                slot.active += 1
                slot.last_used_at = now
                request.admitted = True
                del self._queue[request]
                admitted.append(request)
        return admitted

    def _wanted(self) -> dict[int, float]:
        """Return the adapters that need a slot, in order of arrival, with the time of their first request."""
        wanted: dict[int, float] = {}
        for request in self._queue:
            if request.adapter_id not in self._slots or self._slots[request.adapter_id].evicting:
                wanted.setdefault(request.adapter_id, request.requested_at)
        return wanted

    def _reopen(self) -> bool:
        """Open the slots that were closed for requests which no longer wait. Return whether there were any."""
        closed = self._closed()
        needed = max(0, len(self._wanted()) - self._evicting())
        for slot in closed[needed:]:
            slot.closed = False
        return len(closed) > needed

    def _candidates(self) -> dict[int, Slot]:
        """Return the slots that may be evicted at some time: not pinned, unless all are."""
        all_pinned = all(slot.pinned for slot in self._slots.values())
        return {
            adapter_id: slot
            for adapter_id, slot in self._slots.items()
            if not slot.evicting and (all_pinned or not slot.pinned)
        }

    def _evictable(self) -> list[int]:
        """Return the adapters that may be evicted now: closed ones first, then the least recently used."""
        idle = [
            (not slot.closed, slot.last_used_at, adapter_id)
            for adapter_id, slot in self._candidates().items()
            if not slot.active
        ]
        return [adapter_id for *_, adapter_id in sorted(idle)]

    def _oldest_in_use(self) -> list[Slot]:
        used = [slot for slot in self._candidates().values() if slot.active and not slot.closed]
        return sorted(used, key=lambda slot: slot.admitted_at)

    def _closed(self) -> list[Slot]:
        return [slot for slot in self._slots.values() if slot.closed and not slot.evicting]

    def _evicting(self) -> int:
        return sum(slot.evicting for slot in self._slots.values())


class SlotQueue:
    """Lets asyncio tasks wait for a slot.

    Args:
        allocator: Decides who is admitted.
        evict: Called with the id of an adapter to remove. Call `finish_eviction` once it is removed.
    """

    def __init__(self, allocator: SlotAllocator, evict: Callable[[int], None]) -> None:
        self.allocator = allocator
        self._evict = evict
        self._admissions: dict[SlotRequest, asyncio.Event] = {}

    async def acquire(self, adapter_id: int, *, max_wait_s: float | None = None) -> SlotRequest:
        """Wait until the adapter has a slot. Every call must be followed by `release`.

        Args:
            adapter_id: Engine id of the adapter.
            max_wait_s: Longest wait in seconds; None waits without a limit.

        Raises:
            TimeoutError: No slot came free within `max_wait_s`.
        """
        request = self.allocator.request(adapter_id, time.monotonic())
        admission = self._admissions[request] = asyncio.Event()
        try:
            self._schedule()
            async with asyncio.timeout(max_wait_s):
                while not request.admitted:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self.allocator.max_starvation_s):
                            await admission.wait()
                    self._schedule()  # the request may have waited too long by now: a slot in use is then closed for it
        except BaseException:
            self.release(request)
            raise
        finally:
            del self._admissions[request]
        return request

    def release(self, request: SlotRequest) -> None:
        """End the use of a slot."""
        self.allocator.release(request, time.monotonic())
        self._schedule()

    def finish_eviction(self, adapter_id: int) -> None:
        """Give the slot of a removed adapter to the next request."""
        self.allocator.finish_eviction(adapter_id)
        self._schedule()

    def _schedule(self) -> None:
        admitted, evicted = self.allocator.schedule(time.monotonic())
        for request in admitted:
            self._admissions[request].set()
        for adapter_id in evicted:
            self._evict(adapter_id)


class ActiveAdapterLimiter:
    """Limits how many different adapters the engine computes at the same time.

    vLLM skips requests of further adapters silently, so that fairness must be kept here.

    Args:
        count: Number of adapters, at least 1.
        max_starvation_s: Seconds after which a waiting adapter displaces the one that was admitted first.
    """

    def __init__(self, count: int, max_starvation_s: float = 2.0) -> None:
        # Nothing has to be unloaded here: an evicted slot is free at once.
        self._queue = SlotQueue(
            SlotAllocator(count, max_starvation_s), evict=lambda adapter_id: self._queue.finish_eviction(adapter_id)
        )

    @asynccontextmanager
    async def acquire(self, adapter: AdapterRef | None) -> AsyncIterator[None]:
        """Hold a slot for the adapter while the block runs, waiting for one if needed. The base model needs no slot."""
        if adapter is None:
            yield
            return
        request = await self._queue.acquire(adapter.engine_id)
        try:
            yield
        finally:
            self._queue.release(request)  # must not await: the caller may be cancelled
