"""`mindprint.training_rows`: traces become rows that TRL trains on."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from mindprint.training_rows import completion_of, conversation_rows, preference_rows, sft_rows
from mindprint.types import Trace


@pytest.fixture
def trace(samples: Any) -> Any:
    def make(id: str = "t1", **changes: Any) -> Trace:
        sampling = changes.pop("sampling", {"answer_prefix": "Answer:"})
        provenance = {**samples.trace()["provenance"], "sampling": sampling, "seed": 7}
        return Trace.model_validate(samples.trace(id=id, prompt="P", provenance=provenance, **changes))

    return make


def rejected(trace: Any, id: str = "t2", **changes: Any) -> Trace:
    lost = {"thinking": "Hm.", "verdict": "rejected", "reason": "wrong_answer", "state": "stored", **changes}
    made: Trace = trace(id, **lost)
    return made


def test_a_completion_is_what_the_trainer_learns_after_the_prompt(trace: Any) -> None:
    left_out = Counter[str]()
    (row,) = sft_rows([trace(scores={"gain": 0.5}, versions=["user/ann@2"])], left_out)
    assert (row.prompt, row.completion) == ("P", "<think>\nAnn drinks tea.\n</think>\nAnswer: tea")
    assert (row.trace_id, row.user_id, row.engagement_id, row.versions, row.seed) == (
        "t1",
        "ann",
        "e1",
        ["user/ann@2"],
        7,
    )
    assert (row.model, row.base_digest, json.loads(row.scores)) == ("base", "sha256:b", {"gain": 0.5})
    assert not left_out


def test_a_prompt_that_opens_the_thinking_is_not_opened_twice(trace: Any) -> None:
    opened = trace().model_copy(update={"prompt": "P<think>\n"})
    assert completion_of(opened) == "Ann drinks tea.\n</think>\nAnswer: tea"


def test_a_direct_answer_has_no_thinking(trace: Any) -> None:
    assert completion_of(trace(mode="direct", thinking="")) == "tea"


def test_traces_that_are_not_trained_make_no_row_unless_asked_for(trace: Any) -> None:
    traces = [
        trace(),
        rejected(trace),
        trace("t3", state="stored", mode="generic"),
        trace("t4", thinking="", answer=""),
    ]
    left_out = Counter[str]()
    assert [row.trace_id for row in sft_rows(traces, left_out)] == ["t1"]
    assert left_out == {"rejected": 1, "not for training": 1, "without thinking and answer": 1}
    assert [row.trace_id for row in sft_rows(traces, Counter(), all_states=True)] == ["t1", "t2", "t3"]


def test_messages_hold_the_question_and_the_answer(trace: Any) -> None:
    (row,) = conversation_rows([trace()], Counter())
    assert [(message.role, message.content) for message in row.messages] == [
        ("user", "Tea or coffee?"),
        ("assistant", "<think>\nAnn drinks tea.\n</think>\ntea"),
    ]


def test_a_pair_is_an_accepted_and_a_rejected_trace_of_one_prompt(trace: Any) -> None:
    traces = [
        rejected(trace, "t0"),
        trace("t1", scores={"gain": 0.1}),
        trace("t2", scores={"gain": 0.9}, thinking="Always tea."),
        rejected(trace, "t3", reason="loop"),
    ]
    left_out = Counter[str]()
    rows = list(preference_rows(traces, left_out))
    assert [(row.chosen_trace_id, row.rejected_trace_id, row.rejected_reason) for row in rows] == [
        ("t2", "t0", "wrong_answer"),
        ("t2", "t3", "loop"),
    ]
    assert (rows[0].prompt, rows[0].chosen) == ("P", "<think>\nAlways tea.\n</think>\nAnswer: tea")
    assert rows[0].rejected == "<think>\nHm.\n</think>\nAnswer: tea"
    assert not left_out


def test_traces_of_others_are_no_pair(trace: Any) -> None:
    other_prompt = rejected(trace, "t4").model_copy(update={"prompt": "Q"})
    traces = [
        trace(),
        rejected(trace, "t2", user_id="bob"),
        rejected(trace, "t3", engagement_id="e2"),
        other_prompt,
        rejected(trace, "t5", reason="duplicate"),
        trace("t6", verdict="unjudged", state="stored"),
    ]
    left_out = Counter[str]()
    assert not list(preference_rows(traces, left_out))
    assert left_out == {"rejected without an accepted trace of the same prompt": 3, "duplicate": 1, "unjudged": 1}
