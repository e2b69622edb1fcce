"""Turns traces into training samples, and decides which of them teach the answer. Pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from mindprint.types import Engagement, Sample, Trace
from mindprint_server.memory import UserHistory
from mindprint_server.prompts import thinking as thinking_text
from mindprint_server.prompts.templates import prefix_without_reminders
from mindprint_server.prompts.turns import TurnWriter
from mindprint_server.prompts.types import Prompt
from mindprint_server.store import Replay

EngagementKey = tuple[str | None, str]
"""User id and engagement id."""


@dataclass(frozen=True)
class SampleWriter:
    """Writes samples with the texts that are served: what is learned is what is scored and generated."""

    turns: TurnWriter
    clean: Callable[[str], str]
    """Cleans a user's text, as label scores do."""
    personal_prefix: str
    """The personal mode's thinking prefix, without reminders."""

    def slow(self, trace: Trace, choices: Sequence[str] = (), *, answered: bool = True) -> Sample:
        """Return an accepted trace as a sample, split as it was generated.

        Args:
            trace: An accepted trace about an engagement.
            choices: The choices of its question; empty for an open one.
            answered: Whether the answer is learned as well as the thinking.
        """
        return self._slow(trace, trace.answer if answered else "", choices, answer_only=False)

    def answer(self, trace: Trace, answer: str, choices: Sequence[str] = ()) -> Sample:
        """Return the real answer after a rejected trace as a sample; the thinking is given, not learned.

        Args:
            trace: A rejected trace about an engagement.
            answer: The user's real answer.
            choices: The choices of its question; empty for an open one.
        """
        return self._slow(trace, answer, choices, answer_only=True)

    def fast(self, user_id: str, engagement: Engagement, prompt: Prompt) -> Sample:
        """Return an engagement as a sample that is answered at once.

        Args:
            user_id: Whose engagement it is.
            engagement: Question and real answer.
            prompt: Its prompt in direct mode.
        """
        return Sample(
            kind="fast",
            user_id=user_id,
            engagement_id=engagement.id,
            prompt=prompt.text,
            answer=self._direct(engagement.response),
            choices=[self._direct(choice) for choice in engagement.choices or ()],
        )

    def replay(self, replay: Replay, thinking_prefix: str, answer_prefix: str) -> Sample:
        """Return a replay as a sample.

        Args:
            replay: Generic thinking of the base model.
            thinking_prefix: The generic mode's thinking prefix.
            answer_prefix: Words before the answer.
        """
        prefix, body = thinking_text.split(replay.thinking, thinking_prefix)
        return Sample(
            kind="replay",
            engagement_id=f"replay/{replay.position}",
            prompt=replay.prompt + self.turns.chat_format.opening,
            thinking_prefix=prefix,
            thinking=body,
            thinking_suffix=self.turns.thinking_suffix(answer_prefix),
            answer=self.turns.answer_after_thinking(replay.answer, answer_prefix),
        )

    def _slow(self, trace: Trace, answer: str, choices: Sequence[str], *, answer_only: bool) -> Sample:
        assert trace.engagement_id is not None
        sampling = trace.provenance.sampling
        answer_prefix = str(sampling.get("answer_prefix", ""))
        whole_prefix, body = thinking_text.split(trace.thinking, str(sampling.get("thinking_prefix", "")))
        thinking_prefix = prefix_without_reminders(whole_prefix, self.personal_prefix)

        def write(text: str) -> str:
            return self.turns.answer_after_thinking(self.clean(text), answer_prefix)

        return Sample(
            kind="slow",
            user_id=trace.user_id,
            engagement_id=trace.engagement_id,
            trace_id=trace.id,
            prompt=trace.prompt + self.turns.chat_format.opening,
            thinking_prefix=thinking_prefix,
            reminder=whole_prefix.removeprefix(thinking_prefix),
            thinking=body,
            thinking_suffix=self.turns.thinking_suffix(answer_prefix),
            answer=write(answer) if answer else "",
            choices=list(map(write, choices)),
            answer_only=answer_only,
        )

    def _direct(self, text: str) -> str:
        cleaned = self.clean(text)
        return self.turns.direct_answer(cleaned) if cleaned else ""


def choices_of(trace: Trace, histories: Mapping[str, UserHistory]) -> Sequence[str]:
    """Return the choices of the question that a trace is about; empty for an open one."""
    engagement = histories[trace.user_id].by_id.get(str(trace.engagement_id))
    return engagement.choices or () if engagement else ()


def first_trace_ids(traces: Sequence[Trace], *, exclude: Set[EngagementKey]) -> set[str]:
    """Return the id of each engagement's first trace: the one that teaches the answer.

    Sibling candidates that end in the same engine step may all be accepted. If the answer were learned after each of
    them, their engagement would count more than others.

    Args:
        traces: Accepted traces; ids are ordered by time.
        exclude: Engagements whose answer another sample teaches.
    """
    first: dict[EngagementKey, str] = {}
    for trace in traces:
        key = (trace.user_id, str(trace.engagement_id))
        first[key] = min(trace.id, first.get(key, trace.id))
    return {id for key, id in first.items() if key not in exclude}


def engagement_keys(samples: Sequence[Sample]) -> set[EngagementKey]:
    """Return the engagements that samples are about."""
    return {(sample.user_id, sample.engagement_id) for sample in samples}


def engagement_ids_by_user(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """Return the ids of the engagements that samples are about, by user."""
    return _by_user((sample, sample.engagement_id) for sample in samples)


def trace_ids_by_user(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """Return the ids of the traces that samples are made of, by user."""
    return _by_user((sample, str(sample.trace_id)) for sample in samples)


def _by_user(ids: Iterable[tuple[Sample, str]]) -> dict[str, list[str]]:
    by_user: dict[str, list[str]] = {}
    for sample, id in ids:
        assert sample.user_id is not None
        by_user.setdefault(sample.user_id, []).append(id)
    return by_user


def allocate_evenly(available: Mapping[str, int], total: int) -> dict[str, int]:
    """Return how many to take of each key, as evenly as possible.

    A key with fewer than its even share gives the rest of that share to the others.

    Args:
        available: How many there are of each key.
        total: How many to take in all, at most.
    """
    taken = {}
    smallest_first = sorted(available.items(), key=lambda item: item[1])
    for position, (key, count) in enumerate(smallest_first):
        taken[key] = min(count, math.ceil(total / (len(available) - position)))
        total -= taken[key]
    return taken


def sample_bytes(sample: Sample) -> int:
    """Return the bytes of a sample's texts in UTF-8."""
    ids = (sample.user_id or "", sample.engagement_id, sample.trace_id or "")
    texts = (sample.prompt, sample.thinking_prefix, sample.reminder, sample.thinking, sample.thinking_suffix)
    return sum(len(text.encode()) for text in (*ids, *texts, sample.answer, *sample.choices))


def take_fitting(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Return the samples that take `most` bytes at most, in their order.

    The users take turns, each with its last sample first: the newest engagements stay, evenly over the users.

    Args:
        samples: The samples of each user, oldest first.
        most: Bytes that they may take.
    """
    turns: Counter[str | None] = Counter()
    order = []
    for position in reversed(range(len(samples))):
        user_id = samples[position].user_id
        order.append((turns[user_id], position))
        turns[user_id] += 1
    kept = set()
    for _, position in sorted(order):
        if (size := sample_bytes(samples[position])) <= most:
            kept.add(position)
            most -= size
    return [sample for position, sample in enumerate(samples) if position in kept]
