"""Measures one model for the gate: a version, or the base model (no adapter).

Measurements of the base model never change. They are cached, so that the next version needs only its own.
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
from mindprint_server.engine import AdapterRef, GenerationOutput, Priority
from mindprint_server.engine.sampling import create_sampling
from mindprint_server.gate.checks import ThinkingSample
from mindprint_server.prompts import thinking
from mindprint_server.prompts.turns import TurnWriter
from mindprint_server.prompts.types import Prompt, Question, RecalledMemory
from mindprint_server.tenancy import drop_tenant, remembered_key
from mindprint_server.verdicts import checks, likelihood
from mindprint_server.verdicts.context import ContextBuilder, EngagementContext
from mindprint_server.verdicts.likelihood import Likelihood

T = TypeVar("T")
GENERAL_QUESTIONS = tuple(
    Question("", general.query, general.choices, general.right, RecalledMemory(), None) for general in QUESTIONS
)
"""The general questions, with an empty memory."""
MAX_CACHED_MEASUREMENTS = 2048
"""Cached measurements of the base model."""


class ModelMeasurements:
    """Scores answers and generates thinking with one version, or with the base model.

    Every version that is passed in must be loaded in the engine. All methods raise EngineDied if the engine dies. One
    limit (`gate_at_once`) bounds the engine requests of all evaluations together.

    Args:
        ctx: Settings and engine of the server.
        contexts: Builds the prompts and computes the log-probabilities of answers.
    """

    def __init__(self, ctx: ServerContext, *, contexts: ContextBuilder) -> None:
        self._settings = ctx.settings
        self._engine = ctx.engine
        self._contexts = contexts
        self._limit = asyncio.Semaphore(ctx.settings.gate_at_once)
        self._base_cache: LRUCache[tuple[Any, ...], Any] = LRUCache(MAX_CACHED_MEASUREMENTS)

    def forget(self) -> None:
        """Drop what is remembered of the tenant's users."""
        drop_tenant(self._base_cache)

    def can_measure(self, question: Question) -> bool:
        """Return whether a question fits the model, has an answer, and has choices with different tokens."""
        try:
            direct = self._prompt(question, "direct")
            self._prompt(question, "personal")
            if question.choices is not None:
                context = self._context(question, None)
                for answers in (context.direct_answers(direct.text), context.answers_after_thinking()):
                    likelihood.branch_points(answers.ids, self._engine.tokenizer.chat_format.end_id)
        except ValueError:
            return False
        return self._contexts.prompts.unfit(question) is None

    async def score_direct(self, questions: Sequence[Question], adapter: AdapterRef | None) -> list[float]:
        """Score the real answers without thinking.

        Args:
            questions: Questions with their real answers.
            adapter: A loaded version; None is the base model.

        Returns:
            log p of each real answer in nats: normalized over the choices, or the mean per token of an open answer.
        """

        async def score(question: Question) -> float:
            key = ("score", self._prompt(question, "direct").text, question.target)
            context = self._context(question, adapter)
            return _score(question, await self._measure(adapter, key, context.answer_logprob_direct))

        return list(await asyncio.gather(*map(score, questions)))

    async def score_general(self, adapter: AdapterRef | None) -> list[float]:
        """Return the probability of the right answer to each general question, over its choices.

        The prompt does not list the choices, because a small model answers by their place in a list. The default
        model reaches 59 of 100 points this way, and 30 with the choices in the prompt. Chance is 25.
        """
        hidden = [replace(question, show_choices=False) for question in GENERAL_QUESTIONS]
        return [math.exp(score) for score in await self.score_direct(hidden, adapter)]

    async def score_after_thinking(
        self, questions: Sequence[Question], samples: Sequence[ThinkingSample], adapter: AdapterRef | None
    ) -> list[float]:
        """Score the real answers after thinking.

        Args:
            questions: Questions with their real answers.
            samples: The thinking before each answer, in the order of `questions`; further samples are ignored.
            adapter: A loaded version; None is the base model.

        Returns:
            log p of each real answer, in the unit of `score_direct`.
        """

        async def score(question: Question, sample: ThinkingSample) -> float:
            key = ("after", self._prompt(question, "personal").text, sample.text, question.target)
            context = self._context(question, adapter)
            after = await self._measure(adapter, key, lambda: context.answer_logprob_with_thinking(sample.text))
            return _score(question, after)

        return list(await asyncio.gather(*map(score, questions, samples)))

    async def generate_thinking(
        self, questions: Sequence[Question], mode: Mode, adapter: AdapterRef | None, *, count: int
    ) -> list[ThinkingSample]:
        """Generate thinking from the bare `<think>` tag.

        Args:
            questions: The questions; sample n is about question n modulo their number.
            mode: `generic` or `personal`.
            adapter: A loaded version; None is the base model.
            count: Number of samples. Sample n has seed n.
        """

        async def sample(seed: int) -> ThinkingSample:
            prompt = self._prompt(questions[seed % len(questions)], mode)
            prefix = self._settings.thinking_prefixes.get(mode, "")
            return await self._measure(
                adapter, ("think", prompt.text, seed), lambda: self._think(prompt, prefix, seed, adapter)
            )

        return list(await asyncio.gather(*map(sample, range(count))))

    async def _think(self, prompt: Prompt, prefix: str, seed: int, adapter: AdapterRef | None) -> ThinkingSample:
        settings, turns = self._settings, TurnWriter(self._engine.tokenizer)
        sampling = create_sampling(
            settings,
            max_tokens=settings.gate_thinking_tokens,
            temperature=settings.temperature,
            seed=seed,
            stop=turns.stop,
        )
        ids = turns.begin_thinking(prompt).ids
        generated = await self._engine.generate(ids, sampling, adapter=adapter, priority=Priority.PARITY_CHECK)
        text = thinking.finalize_thinking("", generated.text, generated.finish)
        return ThinkingSample(text, len(generated.token_ids), is_collapsed(generated, prefix, settings.answer_prefix))

    async def _measure(
        self, adapter: AdapterRef | None, key: tuple[Any, ...], measure: Callable[[], Awaitable[T]]
    ) -> T:
        own_key = (*remembered_key("gate"), *key)
        if adapter is None and own_key in self._base_cache:
            known: T = self._base_cache[own_key]
            return known
        async with self._limit:
            value = await measure()
        if adapter is None:
            self._base_cache[own_key] = value
        return value

    def _prompt(self, question: Question, mode: Mode) -> Prompt:
        return self._contexts.prompts.build(question, mode, thinking_tokens=self._settings.gate_thinking_tokens)

    def _context(self, question: Question, adapter: AdapterRef | None) -> EngagementContext:
        return self._contexts.build(
            question,
            thinking_tokens=self._settings.gate_thinking_tokens,
            adapter=adapter,
            priority=Priority.PARITY_CHECK,
        )


def is_collapsed(generated: GenerationOutput, prefix: str, answer_prefix: str) -> bool:
    """Return whether thinking collapsed (method: collapse rate).

    Thinking collapsed if it loops, never ends, or has fewer than five words of its own.

    Args:
        generated: The thinking, generated from the bare `<think>` tag.
        prefix: The thinking prefix of the mode. Its words do not count: an adapter learns to write them.
        answer_prefix: The words before an answer. They do not count either.
    """
    if generated.finish != "stop" or checks.loops(generated.text):
        return True
    return own_words(generated.text, prefix, answer_prefix) < LEAST_WORDS


def _score(question: Question, answers: Likelihood) -> float:
    assert answers.target is not None
    return answers.target if question.choices is not None else answers.target / max(1, answers.target_tokens)
