"""A verifier on a scripted engine, with known likelihoods."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from builders import context_builder
from mindprint_server.context import ServerContext
from mindprint_server.engine import Priority
from mindprint_server.memory.neighbors import Neighbors
from mindprint_server.observability.metrics import Metrics
from mindprint_server.prompts.thinking import finalize_thinking
from mindprint_server.prompts.types import Question, RecalledMemory
from mindprint_server.settings import Settings
from mindprint_server.verdicts.context import EngagementContext
from mindprint_server.verdicts.verifier import CandidateVerifier, Verdict
from scripted import Scripted

PREFIX = "Shown:"


GENERATED = " ann took the quiet walk by the lake"


THINKING = PREFIX + GENERATED


CLOSED = Question(
    user_id="ann",
    query="A walk?",
    choices=("yes", "no"),
    target="yes",
    memory=RecalledMemory(profile="of ann"),
    profile_version=None,
)


OPEN = replace(CLOSED, choices=None, target="Gladly, at noon.")


OPEN_TOKENS = 5


YES = {
    ("ann", "at once"): 0.5,
    ("ann", "after"): 0.9,
    ("bob", "at once"): 0.4,
    ("bob", "after"): 0.5,
    ("cat", "at once"): 0.3,
    ("cat", "after"): 0.6,
}
"""Probability of the real answer: under whose memory, and before or after the thinking."""


GAIN = math.log(0.9 / 0.5)


NEAREST = GAIN - math.log(0.5 / 0.4)


RANDOM = GAIN - math.log(0.6 / 0.3)


UNSEEN = -2.5
"""log p of every token of the thinking, for a writer that was not shown the answer."""


def stage(before: str) -> tuple[str, str]:
    """Whose memory is in a prompt, and what the prompt is at."""
    whose = next(user for user in ("ann", "bob", "cat") if f"of {user}" in before)
    return whose, "after" if "</think>" in before else "thinking" if "<think>" in before else "at once"


class Room:
    """A verifier over scripted scores; other users are bob (the nearest) and cat."""

    def __init__(self, neighbours: Neighbors = Neighbors("bob", "cat"), **settings: Any) -> None:
        bounds = {"min_anchor": -9.0, "max_hindsight_gap": 9.0, "anchor_random_share": 1.0}
        self.settings = Settings.model_validate(bounds | settings)
        self.neighbours = neighbours
        self.yes = dict(YES)
        self.engine = Scripted(self.rule)
        self.reminder: list[str] = []
        self.sought = 0
        ctx = ServerContext(self.settings, cast(Any, None), self.engine, Metrics())
        self.contexts = context_builder(ctx, memory=self, neighbors=self)
        self.verifier = CandidateVerifier(self.settings)

    def rule(self, before: str, token: str) -> float:
        whose, at = stage(before)
        if at == "thinking":
            return UNSEEN
        p = self.yes[whose, at]
        return math.log(1 - p if token.strip() == "no" else p)

    async def recall(self, user_id: str, *, before: datetime | None) -> tuple[RecalledMemory, int | None]:
        self.reminder.append(user_id)
        return RecalledMemory(profile=f"of {user_id}"), None

    async def get(self, user_id: str) -> Neighbors:
        self.sought += 1
        await asyncio.sleep(0)
        return self.neighbours

    def context(self, question: Question = CLOSED, accepted: Sequence[str] = ()) -> EngagementContext:
        return self.contexts.build(question, thinking_tokens=64, priority=Priority.BATCH, accepted=set(accepted))

    async def verify(
        self,
        context: EngagementContext | None = None,
        generated: str = GENERATED,
        *,
        seen: Sequence[float] | None = None,
        finish: Any = "stop",
    ) -> Verdict:
        output = self.engine.written(generated, finish, seen)
        thinking = finalize_thinking(PREFIX, generated, finish)
        return await self.verifier.verify(
            context or self.context(), output, thinking=thinking, thinking_prefix=PREFIX, hinted=seen is not None
        )

    def asked(self) -> Counter[tuple[str, str]]:
        return Counter(stage(before) for before, _ in self.engine.asked)


def tokens(text: str = GENERATED) -> int:
    return len(Scripted().tokenizer.encode(text))


SIBLINGS = [f" ann walks by the lake on day {number}" for number in range(4)]


SHARED = {("ann", "at once"): 1, ("bob", "at once"): 1, ("cat", "at once"): 1}
