"""The context of one engagement: its prompts, likelihoods and fingerprints, each computed once for all candidates."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from mindprint.token_stretches import CONTEXT_CHARS
from mindprint.types import Mode
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, Priority
from mindprint_server.memory.neighbors import NeighborIndex
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.turns import TurnWriter
from mindprint_server.prompts.types import Prompt, Question
from mindprint_server.verdicts import checks, likelihood
from mindprint_server.verdicts.likelihood import AnswerTokens, Likelihood

T = TypeVar("T")
MemoryOwner = Literal["self", "nearest", "random"]
"""Whose memory the prompt shows: the user's own, the nearest other user's, or a random other user's."""


@dataclass(frozen=True, kw_only=True)
class ContextBuilder:
    """Builds the contexts of engagements from the services that their scores need."""

    ctx: ServerContext
    prompts: PromptBuilder
    questions: QuestionBuilder
    neighbors: NeighborIndex

    def build(
        self,
        question: Question,
        *,
        thinking_tokens: int,
        adapter: AdapterRef | None = None,
        priority: Priority,
        accepted: set[str] | None = None,
    ) -> EngagementContext:
        """Build the context of one question.

        Args:
            question: What is asked, with its memory.
            thinking_tokens: Tokens that the prompts leave free for thinking.
            adapter: The version that generates and scores; None is the base model.
            priority: Priority of the scores in the engine.
            accepted: Fingerprints of the user's accepted thinking. All contexts of one user share the set; each
                accepted candidate is added to it. None starts an empty set.
        """
        accepted = set() if accepted is None else accepted
        return EngagementContext(self, question, thinking_tokens, adapter, priority, accepted)


@dataclass
class EngagementContext:
    """One question with everything that its candidates share."""

    builder: ContextBuilder
    question: Question
    thinking_tokens: int
    adapter: AdapterRef | None
    priority: Priority
    accepted: set[str]
    _computed: dict[tuple[str, ...], Any] = field(default_factory=dict)
    _locks: dict[tuple[str, ...], asyncio.Lock] = field(default_factory=dict)

    def with_priority(self, priority: Priority) -> EngagementContext:
        """Return the same context, with the same computed values, whose scores have another priority."""
        return replace(self, priority=priority)

    async def once(self, key: tuple[str, ...], compute: Callable[[], Awaitable[T]]) -> T:
        """Return what `compute` returns, computed at most once for a key.

        Sibling candidates may ask at the same time: one of them computes. If that one is cancelled, the next does.
        """
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key not in self._computed:
                self._computed[key] = await compute()
            result: T = self._computed[key]
            return result

    # --- prompts ---

    async def prompt(self, mode: Mode, owner: MemoryOwner = "self") -> Prompt:
        """Return the prompt in a mode, with the memory of `owner`.

        Raises:
            PromptTooLong: The query does not fit the model.
        """

        async def compute() -> Prompt:
            question = self.question if owner == "self" else await self._question_of(owner)
            assert question is not None
            return self.builder.prompts.build(question, mode, thinking_tokens=self.thinking_tokens)

        return await self.once(("prompt", owner, mode), compute)

    async def has_other(self, owner: MemoryOwner) -> bool:
        """Return whether a user other than the question's own exists for `owner`."""
        return await self._question_of(owner) is not None

    async def _question_of(self, owner: MemoryOwner) -> Question | None:
        async def compute() -> Question | None:
            neighbors = await self.builder.neighbors.get(self.question.user_id)
            other = neighbors.nearest if owner == "nearest" else neighbors.random
            return None if other is None else await self.builder.questions.with_memory_of(self.question, other)

        return await self.once(("question", owner), compute)

    # --- likelihoods ---

    async def answer_logprob_direct(self, owner: MemoryOwner = "self") -> Likelihood:
        """Return log p(y | x, memory): the likelihood of the answers given at once, in direct mode.

        Raises:
            PromptTooLong: The query does not fit the model.
            ValueError: Two choices have the same tokens, or one has none.
        """

        async def compute() -> Likelihood:
            prompt = await self.prompt("direct", owner)
            return await self._likelihood(prompt, self.direct_answers(prompt.text))

        return await self.once(("direct", owner), compute)

    def known_answer_logprob_direct(self) -> Likelihood | None:
        """Return `answer_logprob_direct` of the user's own memory if it was computed already."""
        known: Likelihood | None = self._computed.get(("direct", "self"))
        return known

    async def answer_logprob_with_thinking(
        self, thinking: str, mode: Mode = "personal", owner: MemoryOwner = "self", *, thinking_prefix: str = ""
    ) -> Likelihood:
        """Return log p(y | x, memory, thinking): the likelihood of the answers after a thinking.

        Args:
            thinking: The whole thinking, with its thinking prefix.
            mode: The mode of the prompt.
            owner: Whose memory the prompt shows.
            thinking_prefix: The text with which the thinking was made to begin.

        Raises:
            PromptTooLong: The query does not fit the model.
            ValueError: Two choices have the same tokens, or one has none.
        """
        prompt = await self.prompt(mode, owner)
        answer_prefix = self.builder.ctx.settings.answer_prefix
        before = self.turns.close_thinking(
            prompt, thinking, thinking_prefix=thinking_prefix, answer_prefix=answer_prefix
        )
        return await self._likelihood(before, self.answers_after_thinking(before.text))

    async def prior_shortfall(self, thinking_prefix: str) -> float | None:
        """Return the shortfall of the real answer after the thinking prefix alone, before anything is generated.

        The direct likelihood, which Gain needs later, is computed in the same step of the engine.

        Returns:
            Nats by which the real answer is less likely than the likeliest choice; None for an open question, or
            without a real answer.

        Raises:
            PromptTooLong: The query does not fit the model.
            ValueError: Two choices have the same tokens, or one has none.
        """
        if self.question.choices is None or self.question.target is None:
            return None
        after, _ = await asyncio.gather(
            self.answer_logprob_with_thinking(thinking_prefix, thinking_prefix=thinking_prefix),
            self.answer_logprob_direct(),
        )
        assert after.choices is not None
        return checks.shortfall(after.choices, self.question.target)

    async def thinking_logprobs(
        self, thinking_prefix: str, ids: Sequence[int], positions: Sequence[int]
    ) -> list[float]:
        """Return the log-probabilities of some tokens of a thinking under the prompt without a hint, in nats.

        Args:
            thinking_prefix: The text with which the thinking began.
            ids: Token ids of what was generated after the thinking prefix.
            positions: Indices in `ids` of the tokens to score.
        """
        engine = self.builder.ctx.engine
        prompt = await self.prompt("personal")
        prefix = self.turns.begin_thinking(prompt, thinking_prefix).ids

        async def one(position: int) -> float:
            before = [*prefix, *ids[:position]]
            [value] = await engine.next_logprobs(before, [ids[position]], adapter=self.adapter, priority=self.priority)
            return value

        return list(await asyncio.gather(*(one(position) for position in positions)))

    @property
    def turns(self) -> TurnWriter:
        """Writes the assistant's turn."""
        return TurnWriter(self.builder.ctx.engine.tokenizer)

    def direct_answers(self, before: str) -> AnswerTokens:
        """Return the token ids of the possible answers in direct mode; an open answer is cut to `score_tokens`.

        Args:
            before: The prompt's text.
        """
        return self._answer_tokens(before, self.turns.direct_answer)

    def answers_after_thinking(self, before: str | None = None) -> AnswerTokens:
        """Return the token ids of the possible answers after a thinking; an open answer is cut to `score_tokens`.

        Args:
            before: The text before the answer; None takes what stands between any thinking and its answer.
        """
        answer_prefix, turns = self.builder.ctx.settings.answer_prefix, self.turns
        before = turns.thinking_suffix(answer_prefix) if before is None else before
        return self._answer_tokens(before, lambda answer: turns.answer_after_thinking(answer, answer_prefix))

    def _answer_tokens(self, before: str, write: Callable[[str], str]) -> AnswerTokens:
        # Prompts of several memories end alike, so that the same answers follow the same text.
        key = ("answer tokens", before[-CONTEXT_CHARS:], write(""))
        if (known := self._computed.get(key)) is None:
            known = self._computed[key] = self._tokenize_answers(before, write)
        answers: AnswerTokens = known
        return answers

    def _tokenize_answers(self, before: str, write: Callable[[str], str]) -> AnswerTokens:
        settings, question, turns = self.builder.ctx.settings, self.question, self.turns
        answers = self._answers().items()
        ids = {text: turns.answer_ids(before, write(answer)) if answer else [] for text, answer in answers}
        if question.choices is None:
            ids = {text: tokens[: settings.score_tokens] for text, tokens in ids.items()}
        return AnswerTokens(ids, question.target, question.choices is not None)

    def _answers(self) -> dict[str, str]:
        """Return each possible answer, and its text without what could end a turn."""
        answers: dict[str, str] | None = self._computed.get(("answers",))
        if answers is None:
            question, clean = self.question, self.builder.prompts.clean
            texts = question.choices if question.choices is not None else (question.target or "",)
            answers = self._computed[("answers",)] = {text: clean(text) for text in texts}
        return answers

    async def _likelihood(self, before: Prompt, answers: AnswerTokens) -> Likelihood:
        return await likelihood.score_answers(
            self.builder.ctx.engine, before.ids, answers, adapter=self.adapter, priority=self.priority
        )

    # --- fingerprints ---

    def is_duplicate(self, thinking: str) -> bool:
        """Return whether a thinking of the same words was accepted for this user before."""
        return checks.fingerprint(thinking) in self.accepted

    def add_accepted(self, thinking: str) -> None:
        """Record a thinking as accepted, for all contexts of the user."""
        self.accepted.add(checks.fingerprint(thinking))
