"""Chooses the mode of `mode: auto` requests, from evidence that it reads from the store and caches.

The decisions for both kinds of questions are cached per user and model. A new live version has another model name, so
its evidence is used at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from cachetools import TTLCache

from mindprint.types import AskedMode, AutoModeDecision, AutoModeDecisions, Mode, QueryKind
from mindprint.types.keys import ModelName, VersionRef
from mindprint_server.auto_mode import policy
from mindprint_server.auto_mode.policy import Evidence
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.prompts.templates import PROMPT_VERSION
from mindprint_server.tenancy import drop_tenant, remembered_key

MAX_TRACES = 200
"""Newest candidates of the base model whose Gain is evidence."""
MAX_CACHED_DECISIONS = 4096
"""Cached pairs of user and model; the least recently used is dropped first."""


class AutoModeSelector:
    """Decides for each request whether to think first.

    Args:
        ctx: Settings, store, engine and metrics of the server.
        clock: Returns seconds; tests replace it.
    """

    def __init__(self, ctx: ServerContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = ctx.store
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._thresholds = policy.AutoModeThresholds(
            ctx.settings.auto_min_items, ctx.settings.auto_confidence, ctx.settings.auto_min_gain
        )
        self._cache: TTLCache[tuple[str, str, int, str], AutoModeDecisions] = TTLCache(
            MAX_CACHED_DECISIONS, ctx.settings.auto_refresh_s, clock
        )

    async def select(
        self, wanted: AskedMode, user_id: str | None, adapter: AdapterRef | None, kind: QueryKind
    ) -> tuple[Mode, str | None]:
        """Choose the mode of a request that is about to be answered.

        Args:
            wanted: The mode that the caller asked for.
            user_id: The user whose memory is used; None without one.
            adapter: The version that answers; None is the base model.
            kind: Kind of the question.

        Returns:
            The mode, and the reason if `wanted` is `auto`.
        """
        if wanted != "auto":
            return wanted, None
        decision = await self._decide(user_id, adapter, kind)
        self._metrics.auto_decisions.labels(mode=decision.mode, reason=decision.reason).inc()
        return decision.mode, decision.why

    async def _decide(self, user_id: str | None, adapter: AdapterRef | None, kind: QueryKind) -> AutoModeDecision:
        model = adapter.name if adapter else "base"
        if (decision := policy.decide_without_evidence(user_id, model)) is not None:
            return decision
        assert user_id is not None
        decisions = await self._get_decisions(user_id, model)
        return decisions.closed if kind == "closed" else decisions.open

    def forget(self) -> None:
        """Drop what is remembered of the tenant's users."""
        drop_tenant(self._cache)

    async def explain(self, user_id: str) -> AutoModeDecisions:
        """Return what `mode: auto` does for a user with the live version, and why.

        Raises:
            NotFound: There is no such user.
        """
        await self._store.users.get(user_id)
        key, pointers = await self._store.live_versions.resolve_for_user(user_id)
        model = VersionRef.of(key, pointers.live.version) if pointers.live else "base"
        if (decision := policy.decide_without_evidence(user_id, model)) is not None:
            return AutoModeDecisions(user_id=user_id, model=model, closed=decision, open=decision)
        return await self._get_decisions(user_id, model)

    async def _get_decisions(self, user_id: str, model: str) -> AutoModeDecisions:
        key = (*remembered_key(user_id), model)
        if (known := self._cache.get(key)) is not None:
            return known
        decisions = self._cache[key] = await self._read_decisions(user_id, model)
        return decisions

    async def _read_decisions(self, user_id: str, model: str) -> AutoModeDecisions:
        name = ModelName(model)
        evidence: Callable[[QueryKind], Evidence]
        if name.key is not None and name.number is not None:
            version = await self._store.versions.get(name.key, name.number)
            evidence = partial(policy.gate_evidence, version.checks)
        else:
            gains = await self._store.traces.list_gains(
                user_id, base_digest=self._engine.info().base_digest, prompt_version=PROMPT_VERSION, limit=MAX_TRACES
            )
            evidence = partial(policy.trace_evidence, gains)
        return AutoModeDecisions(
            user_id=user_id,
            model=model,
            closed=policy.decide("closed", evidence("closed"), self._thresholds),
            open=policy.decide("open", evidence("open"), self._thresholds),
        )
