"""Generic thinking of the base model about nobody, mixed into training so that thinking in general stays alive.

Written once for a base model and prompt version, in the background from the first claim on: trainers ask long before
the first traces wait for them, so that it is mostly there when it is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from mindprint_server.context import ServerContext
from mindprint_server.engine import GenerationOutput, Priority, PromptTooLong, Sampling
from mindprint_server.prompts import thinking
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.templates import PROMPT_VERSION
from mindprint_server.prompts.types import Prompt, Question, RecalledMemory
from mindprint_server.store import Replay
from mindprint_server.training_data.replay_prompts import QUESTIONS
from mindprint_server.verdicts import checks

log = structlog.get_logger(__name__)
TRIES = 3
"""Candidates for one question before it is left without a replay, until the next start."""


class ReplayBuffer:
    def __init__(self, ctx: ServerContext, *, prompts: PromptBuilder) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._prompts = prompts
        self._there: Sequence[Replay] = ()
        self._writing: asyncio.Task[bool] | None = None

    @property
    def total(self) -> int:
        """How many there are once all are written, but for questions to which the base has no good answer."""
        return len(QUESTIONS)

    def begin(self) -> None:
        """Sees to it that they are there or are being written; a writing that failed begins anew."""
        if not self._settings.replay_share:
            return
        if self._writing is None or (self._writing.done() and not self._writing.result()):
            self._writing = asyncio.create_task(self._write(), name="replays")

    async def ready(self, wait_s: float) -> Sequence[Replay]:
        """Those that are there within `wait_s` seconds, by question."""
        self.begin()
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=wait_s)
        return self._there

    async def stop(self) -> None:
        if self._writing is not None and not self._writing.done():
            self._writing.cancel()
            await asyncio.wait([self._writing])

    async def _write(self) -> bool:
        """Whether every question was gone through."""
        try:
            self._there = await self._store.replays.list_all(self._engine.info().base_digest, PROMPT_VERSION)
            missing = set(range(len(QUESTIONS))) - {replay.position for replay in self._there}
            at_once = asyncio.Semaphore(self._settings.replay_at_once)
            async with asyncio.TaskGroup() as group:
                for place in sorted(missing):
                    group.create_task(self._keep(place, at_once))
        except Exception as error:
            log.warning("replays could not be written", there=len(self._there), error=repr(error))
            return False
        if missing:
            log.info("replays are written", asked=len(missing), there=len(self._there))
        return True

    async def _keep(self, place: int, at_once: asyncio.Semaphore) -> None:
        async with at_once:
            if (replay := await self._replay(place)) is not None:
                self._there = await self._store.replays.add(self._engine.info().base_digest, PROMPT_VERSION, [replay])

    async def _replay(self, place: int) -> Replay | None:
        """The first candidate that neither loops nor is empty, with a whole answer; None: there was none."""
        s = self._settings
        question = Question("", QUESTIONS[place], None, None, RecalledMemory(), None)
        try:
            prompt = self._prompts.build(question, "generic", thinking_tokens=s.max_thinking_tokens)
        except PromptTooLong:
            return None
        opening = s.openings.get("generic", "")
        for attempt in range(TRIES):
            lead, seed = thinking.thinking_prefix(opening), place + attempt * len(QUESTIONS)
            written = await self._generate(prompt, lead, s.max_thinking_tokens, seed)
            thought = thinking.finalize_thinking(opening, written.text, written.finish)
            if checks.of_thinking(
                thought, opening, written.finish, min_words=s.min_thinking_words, answer_lead=s.answer_lead
            ):
                continue
            turn = thinking.render_thinking(thought, s.answer_lead)
            answered = await self._generate(prompt, turn, s.max_answer_tokens, None)
            answer = thinking.finalize_thinking("", answered.text, answered.finish)
            cut = answered.finish == "length" and answer == answered.text.strip()
            if answer and not cut and answered.finish != "loop" and not checks.loops(answer):
                return Replay(place, prompt.text, thought, answer)
        return None

    async def _generate(self, prompt: Prompt, turn: str, max_tokens: int, seed: int | None) -> GenerationOutput:
        """Continues the assistant's `turn`; greedily without a seed."""
        s = self._settings
        sampled = seed is not None and s.temperature > 0
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=s.temperature if sampled else 0.0,
            top_p=s.top_p if sampled else 1.0,
            min_p=s.min_p if sampled else 0.0,
            seed=seed if sampled else None,
            stop=(thinking.STOP,),
            detect_loops=True,
        )
        ids = prompt.ids + self._engine.tokenizer.encode(turn)
        return await self._engine.generate(ids, sampling, adapter=None, priority=Priority.BATCH)
