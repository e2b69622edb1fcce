"""Puts questions to the server, many at once, and only those that nobody has answered yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from mindprint import AsyncMindprintClient
from mindprint.exceptions import MindprintError
from mindprint.local.console import Output
from mindprint_eval.config import EvaluationError
from mindprint_eval.requests import EvalRequest, answered_outcome, cache_key, response_of, unanswered_outcome
from mindprint_eval.response_cache import ResponseCache
from mindprint_eval.results import Outcome


class RequestExecutor:
    """`memories`: digests of the users' histories. `base`: all of the server that decides its replies."""

    def __init__(
        self,
        client: AsyncMindprintClient,
        out: Output,
        book: ResponseCache,
        memories: Mapping[str, str],
        base: Mapping[str, str],
        seed: int,
        in_flight: int,
    ) -> None:
        self._client, self._out, self._book = client, out, book
        self._memories, self._base, self._seed = memories, base, seed
        self._at_once = asyncio.Semaphore(in_flight)
        self._last = 0.0

    async def ask(self, title: str, questions: Sequence[EvalRequest]) -> list[Outcome]:
        """In the order of the questions. An error becomes an outcome. Raises CannotEvaluate if the base changed."""
        if not questions:
            return []
        self._last = time.monotonic()
        new = sum(self._book.get(self._key(asked)) is None for asked in questions)
        with self._out.bar(title, len(questions)) as bar:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(asked, bar.advance)) for asked in questions]
            outcomes = [task.result() for task in tasks]
            answered = sum(outcome.outcome == "answered" for outcome in outcomes)
            bar.finish(f"{answered} of {len(questions)} answered, {len(questions) - new} of them before")
        return outcomes

    def _key(self, asked: EvalRequest) -> str:
        return cache_key(asked, self._memories, self._base)

    async def _one(self, asked: EvalRequest, tick: Callable[[], None]) -> Outcome:
        async with self._at_once:
            try:
                return await self._answer(asked)
            except MindprintError as error:
                return unanswered_outcome(asked, self._seed, "failed", str(error))
            finally:
                tick()

    async def _answer(self, asked: EvalRequest) -> Outcome:
        key = self._key(asked)
        if (reply := self._book.get(key)) is None:
            trace = await self._client.traces.create(asked.request)
            made_by = trace.provenance
            if made_by.base_digest != self._base["digest"]:
                raise EvaluationError(
                    f"the base model's digest was {self._base['digest'][:19]} and is {made_by.base_digest[:19]}: "
                    "what was measured before does not belong to it; start again with another --out"
                )
            if made_by.adapter_digest != asked.digest:
                return unanswered_outcome(
                    asked, self._seed, "failed", f"{made_by.model} answered in the adapter's place"
                )
            now = time.monotonic()
            reply = response_of(trace, now - self._last)
            self._last = now
            self._book.put([(key, reply)])
        return answered_outcome(asked, reply, self._seed)
