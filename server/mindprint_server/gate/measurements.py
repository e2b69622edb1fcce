"""Asks the engine what the gate wants to know of one model, be it a version or the base (no adapter).

What the base does never changes, so that it is remembered for the next version's examination.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from cachetools import LRUCache

from mindprint.general_questions import QUESTIONS
from mindprint.thinking_text import LEAST_WORDS, own_words
from mindprint.types import Mode
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, GenerationOutput, Priority, Sampling
from mindprint_server.gate.checks import Thought
from mindprint_server.prompts import thinking
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.types import Prompt, Question, RecalledMemory
from mindprint_server.verdicts import checks, likelihood
from mindprint_server.verdicts.context import EngagementContext
from mindprint_server.verdicts.likelihood import Likelihood
from mindprint_server.verdicts.verifier import CandidateVerifier

T = TypeVar("T")
GENERAL = tuple(Question("", q.query, q.choices, q.right, RecalledMemory(), None) for q in QUESTIONS)
"""The general questions, put to the memory of nobody."""
REMEMBERED = 2048
"""Figures of the base that are kept."""


class ModelMeasurements:
    def __init__(self, ctx: ServerContext, *, prompts: PromptBuilder, judge: CandidateVerifier) -> None:
        self._settings = ctx.settings
        self._engine = ctx.engine
        self._prompts = prompts
        self._judge = judge
        self._at_once = asyncio.Semaphore(ctx.settings.gate_at_once)
        self._base: LRUCache[tuple[Any, ...], Any] = LRUCache(REMEMBERED)

    def can_ask(self, question: Question) -> bool:
        """Whether it fits the model, has an answer, and has choices that the model can tell apart."""
        try:
            self._prompt(question, "direct")
            self._prompt(question, "personal")
            if question.choices is not None:
                for lead in ("", self._settings.answer_lead):
                    likelihood.branch_points(self._judge.answers(question, lead).ways, self._engine.tokenizer.eos_id)
        except ValueError:
            return False
        return self._prompts.unfit(question) is None

    async def scores(self, questions: Sequence[Question], adapter: AdapterRef | None) -> list[float]:
        """log p of each real answer given at once, in nats: over the choices, or a token of an open one."""

        async def one(question: Question) -> float:
            key = ("score", self._prompt(question, "direct").text, question.target)
            case = self._case(question, adapter)
            return _score(question, await self._measure(adapter, key, lambda: self._judge.prior(case, "self")))

        return list(await asyncio.gather(*map(one, questions)))

    async def general(self, adapter: AdapterRef | None) -> list[float]:
        """Probability of the right answer to each general question, over the choices.

        The choices are not shown: a small model that has to pick from a list answers by the list. The default model
        gets 59 of 100 points this way, and 30 with the choices in the prompt, where chance gets 25.
        """
        hidden = [replace(question, show_choices=False) for question in GENERAL]
        return [math.exp(score) for score in await self.scores(hidden, adapter)]

    async def scores_after(
        self, questions: Sequence[Question], thoughts: Sequence[Thought], adapter: AdapterRef | None
    ) -> list[float]:
        """The same, given after each question's thought."""

        async def one(question: Question, thought: Thought) -> float:
            key = ("after", self._prompt(question, "personal").text, thought.text, question.target)
            case = self._case(question, adapter)
            after = await self._measure(adapter, key, lambda: self._judge.after(case, "self", "personal", thought.text))
            return _score(question, after)

        return list(await asyncio.gather(*map(one, questions, thoughts)))

    async def thoughts(
        self, questions: Sequence[Question], mode: Mode, adapter: AdapterRef | None, *, count: int
    ) -> list[Thought]:
        """`count` thinkings from the bare `<think>`, the first ones one for each question, seeded by their place."""

        async def one(seed: int) -> Thought:
            prompt = self._prompt(questions[seed % len(questions)], mode)
            opening = self._settings.openings.get(mode, "")
            return await self._measure(
                adapter, ("think", prompt.text, seed), lambda: self._think(prompt, opening, seed, adapter)
            )

        return list(await asyncio.gather(*map(one, range(count))))

    async def _think(self, prompt: Prompt, opening: str, seed: int, adapter: AdapterRef | None) -> Thought:
        s = self._settings
        sampling = Sampling(
            max_tokens=s.gate_thinking_tokens,
            temperature=s.temperature,
            top_p=s.top_p,
            min_p=s.min_p if s.temperature else 0.0,
            seed=seed if s.temperature else None,
            stop=(thinking.STOP,),
            detect_loops=True,
        )
        bare = prompt.ids + self._engine.tokenizer.encode(thinking.thinking_prefix(""))
        written = await self._engine.generate(bare, sampling, adapter=adapter, priority=Priority.PARITY_CHECK)
        text = thinking.finalize_thinking("", written.text, written.finish)
        return Thought(text, len(written.token_ids), collapsed(written, opening, s.answer_lead))

    async def _measure(
        self, adapter: AdapterRef | None, key: tuple[Any, ...], measure: Callable[[], Awaitable[T]]
    ) -> T:
        if adapter is None and key in self._base:
            known: T = self._base[key]
            return known
        async with self._at_once:
            figure = await measure()
        if adapter is None:
            self._base[key] = figure
        return figure

    def _prompt(self, question: Question, mode: Mode) -> Prompt:
        return self._prompts.build(question, mode, thinking_tokens=self._settings.gate_thinking_tokens)

    def _case(self, question: Question, adapter: AdapterRef | None) -> EngagementContext:
        return EngagementContext(question, self._settings.gate_thinking_tokens, adapter, Priority.PARITY_CHECK, set())


def collapsed(written: GenerationOutput, opening: str, lead: str) -> bool:
    """`method.md`: it loops, never closed, or is under five words of its own, which a learned opening's are not."""
    if written.finish != "stop" or checks.loops(written.text):
        return True
    return own_words(written.text, opening, lead) < LEAST_WORDS


def _score(question: Question, found: Likelihood) -> float:
    assert found.target is not None
    return found.target if question.choices is not None else found.target / max(1, found.tokens)
