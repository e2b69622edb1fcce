"""Build requests from questions, and outcomes from responses. All functions are pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mindprint.datasets import HeldOutQuestion
from mindprint.general_questions import QUESTIONS
from mindprint.types import Trace, TraceRequest
from mindprint.types.keys import AdapterKey
from mindprint_eval.arms import Arm, MemoryOwner
from mindprint_eval.response_cache import content_digest
from mindprint_eval.results import Measure, Outcome

BARE_MAX_TOKENS = 128
"""Tokens after which bare thinking counts as never closed. The gate uses the same bound: twice what most need."""
FILLER = "..."
"""Replaces each word of thinking in the `filler` perturbation."""


@dataclass(frozen=True)
class CacheScope:
    """What decides a response besides its request.

    Attributes:
        memories: Digest of each user's history, by user id.
        base: The base model, the engine, the prompt version and the server's settings.
    """

    memories: Mapping[str, str]
    base: Mapping[str, str]


@dataclass(frozen=True)
class EvalRequest:
    """A request with what its outcome records."""

    measure: Measure
    arm: str
    user: str
    row: HeldOutQuestion
    request: TraceRequest
    digest: str | None
    """Digest of the adapter that has to answer; None is the base model."""


def build_request(
    measure: Measure, arm: Arm, user: str, row: HeldOutQuestion, model: str, digest: str | None, memory: str, **how: Any
) -> EvalRequest:
    """Build a request.

    Args:
        measure: What is measured.
        arm: The arm that answers.
        user: The user who is asked.
        row: The question.
        model: The model as a request names it.
        digest: Digest of the adapter that has to answer; None is the base model.
        memory: `own`, `none` or `user/<id>`.
        **how: Other fields of the request.
    """
    request = TraceRequest(
        user_id=user,
        query=row.query,
        choices=row.choices,
        target=row.target,
        asked_at=row.asked_at,
        mode=arm.mode,
        model=model,
        memory=memory,
        **how,
    )
    return EvalRequest(measure, arm.name, user, row, request, digest)


def greedy_params() -> dict[str, Any]:
    """Return the parameters of an arm's own answer: greedy decoding."""
    return {"temperature": 0.0}


def bare_thinking_params(row: HeldOutQuestion) -> dict[str, Any]:
    """Return the parameters of bare thinking: no prefix, sampled as the service does, one seed a question."""
    return {"thinking_prefix": "", "max_thinking_tokens": BARE_MAX_TOKENS, "seed": int(content_digest(row.id)[:7], 16)}


def perturb_thinking(answers: Sequence[Outcome]) -> Iterator[tuple[Measure, Outcome, str]]:
    """Yield perturbed thinking for each answer of one arm and user: its first half, fillers, another question's."""
    thought = [answer for answer in answers if answer.outcome == "answered"]
    for place, answer in enumerate(thought):
        words = answer.thinking.split()
        yield "early_end", answer, " ".join(words[: len(words) // 2])
        yield "filler", answer, " ".join([FILLER] * len(words))
        if len(thought) > 1:
            yield "other_trace", answer, thought[(place + 1) % len(thought)].thinking


def reverse_choices(row: HeldOutQuestion) -> HeldOutQuestion | None:
    """Return a question with its choices in reverse order; None for an open one."""
    return replace(row, choices=row.choices[::-1]) if row.choices else None


def general_questions(of: HeldOutQuestion, count: int) -> list[HeldOutQuestion]:
    """Return the first `count` general questions, asked at the time of the question `of`."""
    return [
        replace(
            of, id=f"general/{number}", query=q.query, choices=list(q.choices), target=q.right, seen=None, kind="closed"
        )
        for number, q in enumerate(QUESTIONS[:count])
    ]


def rationale_query(prompt: str, response: str) -> str:
    """Return a query for the reason of a given answer."""
    return f"{prompt}\nThis user answered: {response}. Why?"


def memory_param(whose: MemoryOwner, others: Mapping[str, str]) -> str | None:
    """Return the memory as a request names it; None where there is no such other user."""
    if whose in ("own", "none"):
        return whose
    return AdapterKey.user(others[whose]) if whose in others else None


# --- replies ---------------------------------------------------------------------------


def cache_key(asked: EvalRequest, scope: CacheScope) -> str:
    """Return a digest of all that decides a response: question, memory, adapter, base and settings.

    The adapter counts by its digest, not by its name: the same weights answer the same.
    """
    request = asked.request.model_dump(mode="json", exclude={"user_id", "model", "memory"})
    whose = asked.request.memory
    memory = scope.memories[asked.user] if whose == "own" else scope.memories.get(_user_of(whose), whose)
    return content_digest({"request": request, "memory": memory, "adapter": asked.digest, "base": scope.base})


def response_of(trace: Trace, seconds: float) -> dict[str, Any]:
    """Return the fields of a trace that an outcome needs, with the machine time."""
    return {
        "answer": trace.answer,
        "choices": trace.choice_logprobs,
        "logprob": trace.scores.get("target_logprob"),
        "tokens": max(1, int(trace.scores.get("target_tokens", 1))),
        "thinking": trace.thinking,
        "thinking_tokens": trace.thinking_tokens,
        "finish": trace.finish,
        "reason": None if trace.reason == "wrong_answer" else trace.reason,
        "prompt_tokens": trace.prompt_tokens,
        "seconds": round(seconds, 4),
    }


def answered_outcome(asked: EvalRequest, reply: Mapping[str, Any], seed: int) -> Outcome:
    """Return the outcome of an answered request."""
    right = reply["answer"].strip() == asked.row.target.strip() if asked.row.choices else None
    return Outcome(**_known(asked, seed), outcome="answered", why="", right=right, **reply)


def unanswered_outcome(asked: EvalRequest, seed: int, outcome: str, why: str) -> Outcome:
    """Return the outcome of a request that got no answer.

    Args:
        asked: The request.
        seed: The seed of the shard.
        outcome: `no_adapter`, `refused` or `failed`.
        why: The reason, for the report.
    """
    return Outcome(**_known(asked, seed), **EMPTY_RESPONSE, outcome=outcome, why=why)  # type: ignore[arg-type]


def skipped_outcome(arm: Arm, user: str, row: HeldOutQuestion | None, seed: int, outcome: str, why: str) -> Outcome:
    """Return the outcome of a question that was not sent.

    Args:
        arm: The arm that would answer.
        user: The user.
        row: The question; None if the user has none.
        seed: The seed of the shard.
        outcome: `no_adapter`, `refused` or `failed`.
        why: The reason, for the report.
    """
    known: dict[str, Any] = {"measure": "answer", "arm": arm.name, "seed": seed, "user": user}
    about: dict[str, Any] = {"item": "", "kind": "closed", "seen": None, "target": ""}
    if row is not None:
        about = {"item": row.id, "kind": row.kind, "seen": row.seen, "target": row.target}
    return Outcome(**known, **about, **EMPTY_RESPONSE, outcome=outcome, why=why)  # type: ignore[arg-type]


EMPTY_RESPONSE: dict[str, Any] = {
    "answer": "",
    "right": None,
    "logprob": None,
    "tokens": 1,
    "choices": None,
    "thinking": "",
    "thinking_tokens": 0,
    "finish": "",
    "reason": None,
    "prompt_tokens": 0,
    "seconds": 0.0,
}


def _known(asked: EvalRequest, seed: int) -> dict[str, Any]:
    return {
        "measure": asked.measure,
        "arm": asked.arm,
        "seed": seed,
        "user": asked.user,
        "item": asked.row.id,
        "kind": asked.row.kind,
        "seen": asked.row.seen,
        "target": asked.row.target,
    }


def _user_of(memory: str) -> str:
    """Return whose memory a request names: a user's id, or `none`."""
    return memory if memory == "none" else AdapterKey(memory).name
