"""Send requests to the server concurrently, and take known responses from the cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from mindprint import AsyncMindprintClient
from mindprint.exceptions import MindprintError
from mindprint.local.console import Output
from mindprint_eval.config import EvaluationError
from mindprint_eval.requests import (
    CacheScope,
    EvalRequest,
    answered_outcome,
    cache_key,
    response_of,
    unanswered_outcome,
)
from mindprint_eval.response_cache import ResponseCache
from mindprint_eval.results import Outcome


class RequestExecutor:
    """Sends the requests of one shard and one seed."""

    def __init__(
        self,
        client: AsyncMindprintClient,
        out: Output,
        cache: ResponseCache,
        scope: CacheScope,
        seed: int,
        in_flight: int,
    ) -> None:
        """Prepare an executor.

        Args:
            client: A client of the shard's server.
            out: Shows progress.
            cache: The cache of responses.
            scope: What decides a response besides the request.
            seed: The seed that outcomes are marked with.
            in_flight: Maximum number of concurrent requests.
        """
        self._client, self._out, self._cache = client, out, cache
        self._scope, self._seed = scope, seed
        self._slots = asyncio.Semaphore(in_flight)
        self._last = 0.0

    async def execute(self, title: str, requests: Sequence[EvalRequest]) -> list[Outcome]:
        """Send requests and return their outcomes in the same order. A failed request becomes an outcome.

        Args:
            title: Title of the progress bar.
            requests: The requests.

        Raises:
            EvaluationError: The base model is not the one of the shard.
        """
        if not requests:
            return []
        self._last = time.monotonic()
        new = sum(self._cache.get(self._key(request)) is None for request in requests)
        with self._out.bar(title, len(requests)) as bar:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(request, bar.advance)) for request in requests]
            outcomes = [task.result() for task in tasks]
            answered = sum(outcome.outcome == "answered" for outcome in outcomes)
            bar.finish(f"{answered} of {len(requests)} answered, {len(requests) - new} of them before")
        return outcomes

    def _key(self, request: EvalRequest) -> str:
        return cache_key(request, self._scope)

    async def _one(self, request: EvalRequest, tick: Callable[[], None]) -> Outcome:
        async with self._slots:
            try:
                return await self._answer(request)
            except MindprintError as error:
                return unanswered_outcome(request, self._seed, "failed", str(error))
            finally:
                tick()

    async def _answer(self, request: EvalRequest) -> Outcome:
        key = self._key(request)
        if (reply := self._cache.get(key)) is None:
            trace = await self._client.traces.create(request.request)
            provenance = trace.provenance
            if provenance.base_digest != self._scope.base["digest"]:
                raise EvaluationError(
                    f"the base model's digest was {self._scope.base['digest'][:19]} and is "
                    f"{provenance.base_digest[:19]}: "
                    "what was measured before does not belong to it; start again with another --out"
                )
            if provenance.adapter_digest != request.digest:
                return unanswered_outcome(
                    request, self._seed, "failed", f"{provenance.model} answered in the adapter's place"
                )
            now = time.monotonic()
            reply = response_of(trace, now - self._last)
            self._last = now
            self._cache.add(key, reply)
        return answered_outcome(request, reply, self._seed)
