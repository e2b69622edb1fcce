"""Scheduling of engine steps on a CPU, so that one tenant's requests do not delay another's (docs/decisions/034).

On a CPU a step takes longer with every sequence and every prompt in it. vLLM puts all that waits into one step. Here a
tenant that has nothing running gets the first step of its request alone, and steps are small while somebody asks. vLLM
loads this module in its engine process, through `scheduler_cls`.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from functools import partial
from itertools import chain
from typing import Any, Protocol, TypeVar

from vllm.config import VllmConfig
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import create_request_queue
from vllm.v1.core.sched.scheduler import Scheduler

from mindprint_server.engine.types import Priority
from mindprint_server.tenancy import salted_tenant

ASKED_WITHIN_S = 10.0
"""Seconds after an interactive request for which steps stay small."""
RESERVED_SHARE = 0.25
"""Share of the places that batches leave free while steps are small: who asks then waits for no place."""
SHARED_STEP_TOKENS = "mindprint_shared_step_tokens"
"""Name of the setting `cpu_shared_step_tokens` in vLLM's `additional_config`."""


class QueuedRequest(Protocol):
    """What the choice needs of vLLM's `Request`."""

    priority: int
    cache_salt: str | None
    is_prefill_chunk: bool
    """It runs, and a part of its prompt is still to be computed."""


R = TypeVar("R", bound=QueuedRequest)


def choose_alone(waiting: Iterable[R], running: Collection[R]) -> R | None:
    """Return the request that gets the next step alone; None if no request does.

    It is an interactive request whose prompt is not computed yet, while anything else runs. Its tenant has no other
    interactive request that runs.

    Args:
        waiting: Requests that wait, the next one first.
        running: Requests that run.
    """
    asked = Counter(tenant_of(request) for request in running if is_interactive(request))
    begun = (one for one in running if is_interactive(one) and one.is_prefill_chunk and asked[tenant_of(one)] == 1)
    new = (one for one in waiting if is_interactive(one) and not asked[tenant_of(one)])
    chosen = next(chain(begun, new), None)
    return None if all(one is chosen for one in running) else chosen


def is_interactive(request: QueuedRequest) -> bool:
    """Return whether somebody waits for the answer."""
    return request.priority <= Priority.INTERACTIVE


def tenant_of(request: QueuedRequest) -> str | None:
    """Return what all requests of one tenant have in common."""
    return salted_tenant(request.cache_salt)


class TurnScheduler(Scheduler):  # type: ignore[misc]
    """vLLM's scheduler, with steps of its own for a tenant that begins to ask, and small ones for what runs beside."""

    running: list[Any]
    waiting: Any
    max_num_active_reqs: int
    max_num_scheduled_tokens: int
    block_size: int
    kv_cache_manager: Any

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(vllm_config, *args, **kwargs)
        self._shared_step_tokens = vllm_config.additional_config[SHARED_STEP_TOKENS]
        self._was_alone = False
        self._has_held = False
        self.asked_at: dict[str | None, float] = {}
        """When each tenant last had an interactive request, in seconds of the monotonic clock."""

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """Choose the requests of the next step, and their tokens."""
        # What is kept out of a step is in the next one.
        may_be_alone = not self._was_alone and self._has_free_blocks()
        chosen = choose_alone(self.waiting, self.running) if may_be_alone else None
        self._was_alone = chosen is not None and self._fits(chosen)
        schedule = partial(super().schedule, *args, **kwargs)
        return self._schedule_alone(chosen, schedule) if self._was_alone else self._schedule_together(schedule)

    def _fits(self, chosen: Any) -> bool:
        """Return whether a request and all that run, with their adapters, fit into one step."""
        together = {one.request_id: one for one in (*self.running, chosen)}.values()
        adapters = {one.lora_request.lora_int_id for one in together if one.lora_request}
        has_place = self.lora_config is None or len(adapters) <= self.lora_config.max_loras
        return has_place and len(together) <= self.max_num_active_reqs

    def _has_free_blocks(self) -> bool:
        """Return whether a step finds its blocks without preempting a request.

        vLLM preempts the running request of the lowest priority. It must then see all that run.
        """
        needed = self.max_num_scheduled_tokens // self.block_size + len(self.running) + 1
        free: int = self.kv_cache_manager.block_pool.get_num_free_blocks()
        return free >= needed

    def _schedule_alone(self, chosen: Any, schedule: Callable[[], SchedulerOutput]) -> SchedulerOutput:
        running, waiting, limit = self.running, self.waiting, self.max_num_active_reqs
        others = [one for one in running if one is not chosen]
        self.running, self.waiting = [one for one in running if one is chosen], create_request_queue(self.policy)
        self.max_num_active_reqs = 1
        if not self.running:
            waiting.remove_request(chosen)
            self.waiting.add_request(chosen)
        try:
            return schedule()
        finally:
            # Without a free block the request waits, and no other request was preempted for it.
            waiting.prepend_requests(self.waiting)
            self.running, self.waiting, self.max_num_active_reqs = [*others, *self.running], waiting, limit

    def _schedule_together(self, schedule: Callable[[], SchedulerOutput]) -> SchedulerOutput:
        most, places, held = self.max_num_scheduled_tokens, self.max_num_active_reqs, list[Any]()
        if self._is_shared():
            self.max_num_scheduled_tokens = min(most, self._shared_step_tokens + len(self.running))
            asked = sum(map(is_interactive, chain(self.running, self.waiting)))
            for_batches = max(1, places - math.ceil(RESERVED_SHARE * places))
            self.max_num_active_reqs = min(places, asked + for_batches)
            # vLLM goes on with prompts that are begun before it begins another, and so small a step holds no more.
            if not self._has_held and self._has_free_blocks() and any(map(is_interactive, self.waiting)):
                held = [one for one in self.running if one.is_prefill_chunk and not is_interactive(one)]
        self._has_held = bool(held)
        self.max_num_active_reqs -= len(held)
        # One token for each answer first. What is left is for prompts.
        self.running = sorted(
            (one for one in self.running if one not in held), key=lambda request: request.is_prefill_chunk
        )
        try:
            return schedule()
        finally:
            self.running += held
            self.max_num_active_reqs = places
            self.max_num_scheduled_tokens = most

    def _is_shared(self) -> bool:
        """Return whether somebody asks, or did a moment ago, beside work of another tenant."""
        now = time.monotonic()
        present = [*self.running, *self.waiting]
        self.asked_at |= {tenant_of(one): now for one in present if is_interactive(one)}
        self.asked_at = {tenant: at for tenant, at in self.asked_at.items() if now - at < ASKED_WITHIN_S}
        return bool(self.asked_at) and len({*map(tenant_of, present), *self.asked_at}) > 1
