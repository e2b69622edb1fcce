"""TODO."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set

from mindprint.types import Sample, Trace
from mindprint_server.memory import UserHistory
from mindprint_server.prompts import thinking
from mindprint_server.prompts.templates import opening_without_reminders


def slow_sample(trace: Trace, mode_opening: str, choices: Sequence[str] = (), *, answered: bool = True) -> Sample:
    """An accepted trace as the writer saw and wrote it; without `answered` its thinking alone is learned."""
    assert trace.engagement_id is not None
    lead = str(trace.provenance.sampling.get("answer_lead", ""))
    begun, body = thinking.split(trace.thinking, str(trace.provenance.sampling.get("opening", "")))
    opening = opening_without_reminders(begun, mode_opening)
    return Sample(
        kind="slow",
        user_id=trace.user_id,
        engagement_id=trace.engagement_id,
        trace_id=trace.id,
        prompt=trace.prompt + thinking.OPEN,
        opening=opening,
        recalled=begun.removeprefix(opening),
        thinking=body,
        closing=thinking.CLOSE + lead,
        answer=thinking.answer_suffix(lead, trace.answer) if answered else "",
        choices=[thinking.answer_suffix(lead, choice) for choice in choices],
    )


def answer_sample(trace: Trace, answer: str, choices: Sequence[str] = ()) -> Sample:
    """The real answer after a rejected trace, whose thinking is only read."""
    assert trace.engagement_id is not None
    lead = str(trace.provenance.sampling.get("answer_lead", ""))
    return Sample(
        kind="slow",
        user_id=trace.user_id,
        engagement_id=trace.engagement_id,
        trace_id=trace.id,
        prompt=trace.prompt + thinking.render_thinking(trace.thinking, lead),
        answer=thinking.answer_suffix(lead, answer),
        choices=[thinking.answer_suffix(lead, choice) for choice in choices],
    )


def choices_of(trace: Trace, timelines: Mapping[str, UserHistory]) -> Sequence[str]:
    """What the user could have answered to the question that this trace is about; empty where it was an open one."""
    engagement = timelines[trace.user_id].by_id.get(str(trace.engagement_id))
    return engagement.choices or () if engagement else ()


def answering_traces(traces: Sequence[Trace], elsewhere: Set[tuple[str | None, str]]) -> set[str]:
    """Of each engagement the first of these traces, unless its answer is learned `elsewhere`.

    Brothers that end in the same step of the engine may all be accepted; an engagement whose
    answer was learned after each of them would count for more than the others.
    """
    first: dict[tuple[str | None, str], str] = {}
    for trace in traces:
        asked = (trace.user_id, str(trace.engagement_id))
        first[asked] = min(trace.id, first.get(asked, trace.id))
    return {id for asked, id in first.items() if asked not in elsewhere}


def asked_by(samples: Sequence[Sample]) -> set[tuple[str | None, str]]:
    """The users' engagements that these samples are of."""
    return {(sample.user_id, sample.engagement_id) for sample in samples}


def engagements_of(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """The engagements, by user, that these samples are of."""
    return _by_user((sample, sample.engagement_id) for sample in samples)


def traces_of(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """The traces, by user, that these samples are of."""
    return _by_user((sample, str(sample.trace_id)) for sample in samples)


def _by_user(named: Iterable[tuple[Sample, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for sample, name in named:
        assert sample.user_id is not None
        found.setdefault(sample.user_id, []).append(name)
    return found


def allocate_evenly(there: Mapping[str, int], total: int) -> dict[str, int]:
    """How many to take of each, at most `total` in all and as evenly as can be: who has few leaves room for others."""
    taken = {}
    smallest_first = sorted(there.items(), key=lambda item: item[1])
    for place, (key, count) in enumerate(smallest_first):
        taken[key] = min(count, math.ceil(total / (len(there) - place)))
        total -= taken[key]
    return taken
