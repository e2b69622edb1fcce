"""`mode: auto`: finds the evidence that the router goes by, and remembers what came of it.

Both kinds of a user's queries are remembered together, under the name of what answers them: a pointer that moves to
another version leads to that one's own evidence at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from cachetools import TTLCache

from mindprint.types import AskedMode, AutoModeDecision, AutoModeDecisions, Mode, QueryKind
from mindprint_server.auto_mode import policy
from mindprint_server.auto_mode.policy import Evidence
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.prompts.templates import PROMPT_VERSION

NEWEST = 200
"""Candidates of the base model whose Gain is looked at."""
REMEMBERED = 4096
"""Users, each with what answers, whose routes are kept; what was looked at longest ago is forgotten first."""


class AutoModeSelector:
    def __init__(self, ctx: ServerContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = ctx.store
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._rule = policy.Rule(ctx.settings.auto_min_items, ctx.settings.auto_confidence, ctx.settings.auto_min_gain)
        self._known: TTLCache[tuple[str, str], AutoModeDecisions] = TTLCache(
            REMEMBERED, ctx.settings.auto_refresh_s, clock
        )

    async def settle(
        self, wanted: AskedMode, user_id: str | None, adapter: AdapterRef | None, kind: QueryKind
    ) -> tuple[Mode, str | None]:
        """The mode of a query that `adapter` (None: the base) is about to answer, and why, where that was left open."""
        if wanted != "auto":
            return wanted, None
        route = await self._choose(user_id, adapter, kind)
        self._metrics.routes.labels(mode=route.mode, reason=route.reason).inc()
        return route.mode, route.why

    async def _choose(self, user_id: str | None, adapter: AdapterRef | None, kind: QueryKind) -> AutoModeDecision:
        model = adapter.name if adapter else "base"
        if (route := policy.unmeasured(user_id, model)) is not None:
            return route
        assert user_id is not None
        routes = await self._routes(user_id, model)
        return routes.closed if kind == "closed" else routes.open

    async def routes(self, user_id: str) -> AutoModeDecisions:
        """`GET /v1/users/{id}/route`, for what is live. Raises NotFound."""
        await self._store.users.get(user_id)
        key, pointers = await self._store.live_versions.resolve_for_user(user_id)
        model = f"{key}@{pointers.live.version}" if pointers.live else "base"
        if (route := policy.unmeasured(user_id, model)) is not None:
            return AutoModeDecisions(user_id=user_id, model=model, closed=route, open=route)
        return await self._routes(user_id, model)

    async def _routes(self, user_id: str, model: str) -> AutoModeDecisions:
        if (known := self._known.get((user_id, model))) is not None:
            return known
        routes = self._known[user_id, model] = await self._find(user_id, model)
        return routes

    async def _find(self, user_id: str, model: str) -> AutoModeDecisions:
        key, _, number = model.partition("@")
        measured: Callable[[QueryKind], Evidence]
        if number:
            version = await self._store.versions.get(key, int(number))
            measured = partial(policy.examined, version.checks)
        else:
            gains = await self._store.traces.list_gains(
                user_id, base_digest=self._engine.info().base_digest, prompt_version=PROMPT_VERSION, limit=NEWEST
            )
            measured = partial(policy.judged, gains)
        return AutoModeDecisions(
            user_id=user_id,
            model=model,
            closed=policy.route("closed", measured("closed"), self._rule),
            open=policy.route("open", measured("open"), self._rule),
        )
