"""Ask held-out questions in one arm, and keep the log-probability of the real answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mindprint.async_client import AsyncMindprintClient
from mindprint.datasets import HeldOutQuestion, UserDataset
from mindprint.exceptions import MindprintError
from mindprint.types import Mode, Trace, TraceRequest
from mindprint.types.keys import AdapterKey
from mindprint_demo.comparison import ScoredAnswer

Arm = Literal["base", "adapter"]


@dataclass
class ArmScores:
    """Answers by user and mode, of one arm."""

    arm: Arm
    answers: dict[tuple[str, Mode], list[ScoredAnswer]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """One line for each question that got no answer."""

    def of(self, user_id: str, mode: Mode) -> list[ScoredAnswer]:
        return self.answers.get((user_id, mode), [])


def build_request(user_id: str, row: HeldOutQuestion, mode: Mode, arm: Arm) -> TraceRequest:
    """Return the request of one question: greedy, with the user's memory as it is at the time of the question."""
    return TraceRequest(
        user_id=user_id,
        query=row.query,
        choices=row.choices,
        target=row.target,
        asked_at=row.asked_at,
        mode=mode,
        model="base" if arm == "base" else AdapterKey.user(user_id),
        temperature=0.0,
    )


def score_trace(row: HeldOutQuestion, trace: Trace) -> ScoredAnswer:
    """Return the score of one answer. Raises MindprintError if the reply has no log-probability of the real one."""
    if trace.choice_logprobs is None or row.target not in trace.choice_logprobs:
        raise MindprintError(f"the reply about {row.id} does not score the choices")
    return ScoredAnswer(
        row=row.id,
        right=trace.answer == row.target,
        logprob=trace.choice_logprobs[row.target],
        profile_version=trace.provenance.profile_version,
    )


async def score_arm(
    client: AsyncMindprintClient,
    users: Sequence[UserDataset],
    modes: Sequence[Mode],
    arm: Arm,
    *,
    in_flight: int,
    tick: Callable[[], None],
) -> ArmScores:
    """All held-out rows of `users` in all `modes`, `in_flight` at once; rows stay in order. `tick` after each."""
    gate = asyncio.Semaphore(in_flight)
    scores = ArmScores(arm)

    async def one(user_id: str, row: HeldOutQuestion, mode: Mode) -> ScoredAnswer | None:
        async with gate:
            try:
                return score_trace(row, await client.traces.create(build_request(user_id, row, mode, arm)))
            except MindprintError as error:
                scores.failures.append(f"{arm} {mode} {row.id}: {error}")
                return None
            finally:
                tick()

    async with asyncio.TaskGroup() as group:
        tasks = {
            (user.user_id, mode): [group.create_task(one(user.user_id, row, mode)) for row in user.held_out]
            for mode in modes
            for user in users
        }
    for key, asked in tasks.items():
        scores.answers[key] = [answer for task in asked if (answer := task.result()) is not None]
    return scores
