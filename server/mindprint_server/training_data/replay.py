"""Replays: generic thinking of the base model about general questions, without any user.

Trainers mix them into their samples, so that an adapter does not forget how to think in general. They are generated
once for a base model and prompt version, in the background from the first claim on. Trainers poll long before the first
traces are accepted, so most replays exist when they are needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from mindprint_server.context import ServerContext
from mindprint_server.engine import EngineDied, GenerationOutput, Priority, PromptTooLong
from mindprint_server.engine.sampling import create_sampling
from mindprint_server.prompts import thinking as thinking_text
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.templates import PROMPT_VERSION
from mindprint_server.prompts.turns import TurnWriter
from mindprint_server.prompts.types import Prompt, Question, RecalledMemory
from mindprint_server.store import Replay
from mindprint_server.training_data.replay_prompts import QUESTIONS
from mindprint_server.verdicts import checks
from mindprint_server.verdicts.checks import ThinkingChecker

log = structlog.get_logger(__name__)
MAX_TRIES = 3
"""Candidates for one question. If all are rejected, the question has no replay until the next start."""


class ReplayBuffer:
    """Generates and keeps the replays of the running base model."""

    def __init__(self, ctx: ServerContext, *, prompts: PromptBuilder) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._prompts = prompts
        self._turns = TurnWriter(ctx.engine.tokenizer)
        self._base_digest = ctx.engine.info().base_digest
        self._checker = ThinkingChecker(ctx.settings)
        self._replays: Sequence[Replay] = ()
        self._supervisor = ctx.supervisor
        self._task: asyncio.Task[None] | None = None

    @property
    def total(self) -> int:
        """Number of general questions: the largest number of replays. Questions without a good answer have none."""
        return len(QUESTIONS)

    def ensure_started(self) -> None:
        """Start generating the missing replays, unless that was started before."""
        if self._settings.replay_share and self._task is None:
            self._task = self._supervisor.start_job("replays", self._generate_missing)

    async def get(self, wait_s: float) -> Sequence[Replay]:
        """Return the replays that exist after at most `wait_s` seconds, ordered by question."""
        self.ensure_started()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=wait_s)
        return self._replays

    async def stop(self) -> None:
        """Stop generating. Stored replays stay."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _generate_missing(self) -> None:
        """Generate what is missing. What is stored stays if this fails."""
        self._replays = await self._store.replays.list_all(self._base_digest, PROMPT_VERSION)
        missing = set(range(len(QUESTIONS))) - {replay.position for replay in self._replays}
        limit = asyncio.Semaphore(self._settings.replay_at_once)
        try:
            async with asyncio.TaskGroup() as group:
                for position in sorted(missing):
                    group.create_task(self._generate_and_store(position, limit))
        except* EngineDied:
            pass  # the process ends: nothing is tried again
        if missing:
            log.info("replays are written", asked=len(missing), there=len(self._replays))

    async def _generate_and_store(self, position: int, limit: asyncio.Semaphore) -> None:
        async with limit:
            if (replay := await self._replay(position)) is not None:
                self._replays = await self._store.replays.add(self._base_digest, PROMPT_VERSION, [replay])

    async def _replay(self, position: int) -> Replay | None:
        """Return the first candidate that has complete thinking and a complete answer; None if there is none."""
        question = Question("", QUESTIONS[position], None, None, RecalledMemory(), None)
        try:
            prompt = self._prompts.build(question, "generic", thinking_tokens=self._settings.max_thinking_tokens)
        except PromptTooLong:
            return None
        for attempt in range(MAX_TRIES):
            thinking = await self._think(prompt, seed=position + attempt * len(QUESTIONS))
            if thinking is not None and (answer := await self._answer(prompt, thinking)) is not None:
                return Replay(position, prompt.text, thinking, answer)
        return None

    async def _think(self, prompt: Prompt, seed: int) -> str | None:
        thinking_prefix = self._prompts.thinking_prefix("generic", RecalledMemory())
        output = await self._generate(
            self._turns.begin_thinking(prompt, thinking_prefix),
            max_tokens=self._settings.max_thinking_tokens,
            temperature=self._settings.temperature,
            seed=seed,
        )
        thinking = thinking_text.finalize_thinking(thinking_prefix, output.text, output.finish)
        failed = self._checker.check(thinking, thinking_prefix=thinking_prefix, mode="generic", finish=output.finish)
        return None if failed else thinking

    async def _answer(self, prompt: Prompt, thinking: str) -> str | None:
        before = self._turns.close_thinking(
            prompt,
            thinking,
            thinking_prefix=self._prompts.thinking_prefix("generic", RecalledMemory()),
            answer_prefix=self._settings.answer_prefix,
        )
        output = await self._generate(before, max_tokens=self._settings.max_answer_tokens, temperature=0.0)
        answer = thinking_text.finalize_thinking("", output.text, output.finish)
        is_cut = output.finish == "length" and answer == output.text.strip()
        if not answer or is_cut or output.finish == "loop" or checks.loops(answer):
            return None
        return answer

    async def _generate(
        self, before: Prompt, *, max_tokens: int, temperature: float, seed: int | None = None
    ) -> GenerationOutput:
        """Continue the assistant's turn."""
        sampling = create_sampling(
            self._settings, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=self._turns.stop
        )
        return await self._engine.generate(before.ids, sampling, adapter=None, priority=Priority.BATCH)
