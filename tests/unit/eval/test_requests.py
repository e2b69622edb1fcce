from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mindprint.datasets import HeldOutQuestion
from mindprint.types import Provenance, Trace
from mindprint_eval.arms import ARMS
from mindprint_eval.requests import (
    CacheScope,
    EvalRequest,
    answered_outcome,
    bare_thinking_params,
    build_request,
    cache_key,
    general_questions,
    memory_param,
    perturb_thinking,
    response_of,
    skipped_outcome,
    unanswered_outcome,
)
from mindprint_eval.results import Outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROW = HeldOutQuestion("ann/1", "Tea?", ["yes", "no"], "yes", NOW, seen=True)
MEMORIES = {"ann": "m-ann", "bob": "m-bob"}
BASE = {"digest": "b"}
MADE: Any = {
    "model": "base", "adapter_digest": None, "base_digest": "b", "prompt_version": "1", "mode": "personal",
    "sampling": {}, "seed": None, "engine": "fake",
}  # fmt: skip
TRACE = Trace(
    id="t", user_id="ann", mode="personal", query="Tea?", thinking="it likes tea a lot and always did", answer="yes",
    choice_logprobs={"yes": -0.1, "no": -2.4}, verdict="accepted", scores={"target_logprob": -0.1, "target_tokens": 2},
    thinking_tokens=9, finish="stop", provenance=Provenance(**MADE), created_at=NOW,
)  # fmt: skip


def question(**changes: Any) -> EvalRequest:
    given = {"model": "base", "digest": None, "memory": "own", "user": "ann"} | changes
    return build_request("answer", ARMS["A3"], given.pop("user"), ROW, given.pop("model"), given.pop("digest"),
               given.pop("memory"), **given)  # fmt: skip


def answer(item: str = "1", **changes: Any) -> Outcome:
    return replace(answered_outcome(question(), response_of(TRACE, 0.5), seed=3), item=item, **changes)


def test_a_reply_becomes_an_outcome() -> None:
    found = answer()
    assert (found.arm, found.seed, found.user, found.target) == ("A3", 3, "ann", "yes")
    assert (found.right, found.logprob, found.tokens, found.seconds) == (True, -0.1, 2, 0.5)
    wrong = TRACE.model_copy(update={"answer": "no", "reason": "wrong_answer"})
    assert answered_outcome(question(), response_of(wrong, 0.0), 0).right is False
    assert answered_outcome(question(), response_of(wrong, 0.0), 0).reason is None


def test_what_was_not_answered_says_why() -> None:
    lost = unanswered_outcome(question(), 0, "failed", "the server is gone")
    assert (lost.outcome, lost.why, lost.item, lost.right) == ("failed", "the server is gone", "ann/1", None)
    none = skipped_outcome(ARMS["A9"], "ann", None, 0, "failed", "no held-out questions")
    assert (none.arm, none.item, none.outcome) == ("A9", "", "failed")


def test_the_content_of_a_question_decides_its_key() -> None:
    def key(asked: EvalRequest, base: dict[str, str] = BASE, memories: dict[str, str] = MEMORIES) -> str:
        return cache_key(asked, CacheScope(memories, base))

    same = key(question(model="user/ann.fast-1@1", digest="d"))
    assert key(question(model="user/other-name@7", digest="d")) == same
    others = [
        key(question()),
        key(question(digest="e")),
        key(question(digest="d", memory="none")),
        key(question(digest="d", memory="user/bob")),
        key(question(digest="d", temperature=0.0)),
        key(question(digest="d"), base={"digest": "c"}),
        key(question(digest="d"), memories={"ann": "grown"}),
    ]
    assert len({same, *others}) == 1 + len(others)
    assert key(question(user="bob", memory="own")) == key(question(memory="user/bob"))


def test_thinking_is_changed_in_three_ways() -> None:
    answers = [answer("1"), answer("2", thinking="b b b b"), answer("3", outcome="failed")]
    found = [(measure, one.item, thinking) for measure, one, thinking in perturb_thinking(answers)]
    assert found == [
        ("early_end", "1", "it likes tea a"),
        ("filler", "1", "... ... ... ... ... ... ... ..."),
        ("other_trace", "1", "b b b b"),
        ("early_end", "2", "b b"),
        ("filler", "2", "... ... ... ..."),
        ("other_trace", "2", "it likes tea a lot and always did"),
    ]
    assert [measure for measure, *_ in perturb_thinking(answers[:1])] == ["early_end", "filler"]


def test_bare_thinking_has_a_seed_of_the_question_s_own() -> None:
    assert bare_thinking_params(ROW) == bare_thinking_params(ROW)
    assert bare_thinking_params(ROW)["seed"] != bare_thinking_params(replace(ROW, id="ann/2"))["seed"]
    assert question(**bare_thinking_params(ROW)).request.thinking_prefix == ""


def test_general_questions_stand_at_the_time_of_another() -> None:
    found = general_questions(ROW, 3)
    assert [row.id for row in found] == ["general/0", "general/1", "general/2"]
    assert all(row.asked_at == NOW and row.choices and row.target in row.choices for row in found)


def test_memories_are_named_as_requests_name_them() -> None:
    assert memory_param("own", {}) == "own"
    assert memory_param("none", {}) == "none"
    assert memory_param("nearest", {"nearest": "bob"}) == "user/bob"
    assert memory_param("random", {}) is None
