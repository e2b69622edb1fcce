from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mindprint.datasets import UserDataset
from mindprint.types import Engagement, ImportedTrace
from mindprint_eval.metrics import human_rationales
from mindprint_eval.requests import answered_outcome, unanswered_outcome
from mindprint_eval.results import Outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def user(name: str, count: int, reason: str | None = "because of {n}") -> UserDataset:
    return UserDataset(
        name,
        [
            Engagement(
                id=f"{name}/{n}", prompt=f"Question {n}?", response="A", choices=["A", "B"],
                occurred_at=NOW + timedelta(days=n), reason=reason and reason.format(n=n),
            )
            for n in range(count)
        ],
        [],
    )  # fmt: skip


def lessons(name: str, count: int) -> list[ImportedTrace]:
    return [ImportedTrace(engagement_id=f"{name}/{n}", thinking=f"thinking {n}") for n in range(count)]


def generic(of: list[human_rationales.HumanRationale]) -> list[Outcome]:
    reply = {
        "answer": "A", "choices": None, "logprob": None, "tokens": 1, "thinking": "in general",
        "thinking_tokens": 2, "finish": "stop", "reason": None, "prompt_tokens": 1, "seconds": 0.0,
    }  # fmt: skip
    return [answered_outcome(human_rationales.generic_thinking_request(one), reply, 0) for one in of]


def test_only_traces_of_engagements_with_a_reason_are_looked_at() -> None:
    assert human_rationales.collect_rationales(user("a", 3, reason=None), lessons("a", 3)) == []
    assert human_rationales.collect_rationales(user("a", 3, reason="  "), lessons("a", 3)) == []
    found = human_rationales.collect_rationales(user("a", 20), lessons("a", 20))
    assert [one.reason for one in found] == [f"because of {n}" for n in range(12, 20)]


def test_a_reason_is_scored_after_every_kind_of_thinking() -> None:
    told = [
        *human_rationales.collect_rationales(user("a", 1), lessons("a", 1)),
        *human_rationales.collect_rationales(user("b", 1, "for {n}"), lessons("b", 1)),
    ]
    asked = human_rationales.rationale_requests(told, generic(told))
    of_a = {one.arm: (one.request.thinking, one.request.target) for one in asked if one.user == "a"}
    assert of_a == {
        "R-none": ("", "because of 0"),
        "R-trace": ("thinking 0", "because of 0"),
        "R-generic": ("in general", "because of 0"),
        "R-other-none": ("", "for 0"),
        "R-other-trace": ("thinking 0", "for 0"),
    }
    assert all(one.request.asked_at == NOW and one.request.choices is None for one in asked)
    assert "This user answered: A. Why?" in str(asked[0].request.query)


def test_without_generic_thinking_or_other_users_those_are_left_out() -> None:
    told = human_rationales.collect_rationales(user("a", 2), lessons("a", 2))
    failed = [unanswered_outcome(human_rationales.generic_thinking_request(one), 0, "failed", "gone") for one in told]
    assert {one.arm for one in human_rationales.rationale_requests(told, failed)} == {"R-none", "R-trace"}
