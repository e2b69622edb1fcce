"""Turn stored traces into rows that TRL trains on: prompt and completion, messages, or preference pairs.

Every row says where it comes from: its trace, engagement and user, what wrote it, and what was trained on it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import BaseModel

from mindprint.types import Trace

RowFormat = Literal["trl-sft", "trl-dpo", "messages"]
"""`trl-sft`: prompt and completion for `SFTTrainer`. `messages`: conversations for `SFTTrainer`. `trl-dpo`: prompt,
chosen and rejected for `DPOTrainer`."""

_OPEN, _CLOSE = "<think>\n", "\n</think>\n"
_NO_PREFERENCE = ("duplicate", "not_selected")
"""Reasons that do not say that the candidate is worse."""
NOT_TRAINED = "not for training"
EMPTY = "without thinking and answer"
NO_ACCEPTED = "rejected without an accepted trace of the same prompt"


class Message(BaseModel):
    """A message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class TraceRow(BaseModel):
    """Where a row of one trace comes from."""

    trace_id: str
    user_id: str
    engagement_id: str | None
    batch_id: str | None
    mode: str
    verdict: str
    reason: str | None
    state: str
    versions: list[str]
    """Versions that were trained on the trace."""
    model: str
    """What wrote the thinking."""
    adapter_digest: str | None
    base_digest: str
    prompt_version: str
    engine: str
    seed: int | None
    saw_answer: bool
    scores: str
    """Scores by name, as JSON."""
    created_at: str


class CompletionRow(TraceRow):
    """The prompt as the model saw it, and what follows: thinking and answer."""

    prompt: str
    completion: str


class ConversationRow(TraceRow):
    """The question and the answer with its thinking, without the memory that the prompt showed."""

    messages: list[Message]


class PreferenceRow(BaseModel):
    """An accepted and a rejected completion of the same prompt."""

    prompt: str
    chosen: str
    rejected: str
    user_id: str
    engagement_id: str
    mode: str
    chosen_trace_id: str
    rejected_trace_id: str
    rejected_reason: str | None
    chosen_model: str
    rejected_model: str
    chosen_scores: str
    rejected_scores: str
    versions: list[str]
    """Versions that were trained on the chosen trace."""
    base_digest: str
    prompt_version: str


def completion_of(trace: Trace) -> str:
    """Return what follows a trace's prompt, as the trainer learns it: thinking, answer prefix and answer."""
    if trace.mode == "direct" and not trace.thinking:
        return trace.answer
    opened = "" if trace.prompt.rstrip().endswith(_OPEN.strip()) else _OPEN
    answer_prefix = str(trace.provenance.sampling.get("answer_prefix", ""))
    answer = f"{answer_prefix} {trace.answer}" if answer_prefix else trace.answer
    return f"{opened}{trace.thinking}{_CLOSE}{answer}"


def sft_rows(traces: Iterable[Trace], left_out: Counter[str], *, all_states: bool = False) -> Iterator[CompletionRow]:
    """Yield the prompt and completion of each trace.

    Args:
        traces: The traces.
        left_out: Counts those that make no row, by reason.
        all_states: Also take traces that are not meant for training, such as rejected ones.
    """
    for trace in _trained(traces, left_out, all_states):
        yield CompletionRow(prompt=trace.prompt, completion=completion_of(trace), **_lineage(trace).model_dump())


def conversation_rows(
    traces: Iterable[Trace], left_out: Counter[str], *, all_states: bool = False
) -> Iterator[ConversationRow]:
    """Yield the question and answer of each trace as messages.

    Args:
        traces: The traces.
        left_out: Counts those that make no row, by reason.
        all_states: Also take traces that are not meant for training, such as rejected ones.
    """
    for trace in _trained(traces, left_out, all_states):
        said = trace.answer if trace.mode == "direct" else f"{_OPEN}{trace.thinking}{_CLOSE}{trace.answer}"
        messages = [Message(role="user", content=trace.query), Message(role="assistant", content=said)]
        yield ConversationRow(messages=messages, **_lineage(trace).model_dump())


def preference_rows(traces: Iterable[Trace], left_out: Counter[str]) -> Iterator[PreferenceRow]:
    """Yield a pair for each rejected trace with an accepted one of the same user, engagement and prompt.

    Of several accepted ones the likeliest to lead to the real answer is taken. The traces are held in memory.

    Args:
        traces: Traces of one user, or of a few.
        left_out: Counts those that make no pair, by reason.
    """
    accepted: dict[tuple[str, str | None, str, str], Trace] = {}
    rejected: dict[tuple[str, str | None, str, str], list[Trace]] = defaultdict(list)
    for trace in traces:
        key = (trace.user_id, trace.engagement_id, trace.mode, trace.prompt)
        if trace.engagement_id is None or not (trace.thinking or trace.answer):
            left_out[EMPTY] += 1
        elif trace.verdict == "accepted":
            best = accepted.get(key)
            accepted[key] = trace if best is None or _merit(trace) > _merit(best) else best
        elif trace.verdict == "unjudged" or trace.reason in _NO_PREFERENCE:
            left_out[trace.reason or trace.verdict] += 1
        else:
            rejected[key].append(trace)
    for prompt_key, others in rejected.items():
        if (chosen := accepted.get(prompt_key)) is None:
            left_out[NO_ACCEPTED] += len(others)
            continue
        for other in others:
            if completion_of(other) != completion_of(chosen):
                yield _pair(chosen, other)


def _trained(traces: Iterable[Trace], left_out: Counter[str], all_states: bool) -> Iterator[Trace]:
    for trace in traces:
        if not all_states and (trace.verdict != "accepted" or trace.state == "stored"):
            left_out[trace.verdict if trace.verdict != "accepted" else NOT_TRAINED] += 1
        elif not (trace.thinking or trace.answer) or not trace.prompt:
            left_out[EMPTY] += 1
        else:
            yield trace


def _merit(trace: Trace) -> float:
    return trace.scores.get("gain", trace.scores.get("target_logprob", float("-inf")))


def _pair(chosen: Trace, rejected: Trace) -> PreferenceRow:
    return PreferenceRow(
        prompt=chosen.prompt,
        chosen=completion_of(chosen),
        rejected=completion_of(rejected),
        user_id=chosen.user_id,
        engagement_id=str(chosen.engagement_id),
        mode=chosen.mode,
        chosen_trace_id=chosen.id,
        rejected_trace_id=rejected.id,
        rejected_reason=rejected.reason,
        chosen_model=chosen.provenance.model,
        rejected_model=rejected.provenance.model,
        chosen_scores=_json(chosen.scores),
        rejected_scores=_json(rejected.scores),
        versions=chosen.versions,
        base_digest=chosen.provenance.base_digest,
        prompt_version=chosen.provenance.prompt_version,
    )


def _lineage(trace: Trace) -> TraceRow:
    provenance = trace.provenance
    return TraceRow(
        trace_id=trace.id,
        user_id=trace.user_id,
        engagement_id=trace.engagement_id,
        batch_id=trace.batch_id,
        mode=trace.mode,
        verdict=trace.verdict,
        reason=trace.reason,
        state=trace.state,
        versions=trace.versions,
        model=provenance.model,
        adapter_digest=provenance.adapter_digest,
        base_digest=provenance.base_digest,
        prompt_version=provenance.prompt_version,
        engine=provenance.engine,
        seed=provenance.seed,
        saw_answer=provenance.saw_answer,
        scores=_json(trace.scores),
        created_at=trace.created_at.isoformat(),
    )


def _json(scores: dict[str, float]) -> str:
    return json.dumps(scores, sort_keys=True)
