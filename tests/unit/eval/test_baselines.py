from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_outcomes import table
from mindprint.datasets import HeldOutQuestion, UserDataset
from mindprint.types import Engagement
from mindprint_eval.baselines import BASELINES, NO_CHOICES, NO_PAST_ANSWER, ONE_CLASS, answer_with_baselines
from mindprint_eval.metrics import metrics
from mindprint_eval.results import Outcome
from samples import START

CHOICES = ["agree", "disagree", "pass"]
PAST = [
    ("Should dogs be on a leash?", "agree"),
    ("Should taxes on wine rise?", "disagree"),
    ("Should taxes on beer rise?", "disagree"),
    ("Should dogs be let into the park?", "agree"),
    ("Should taxes on land rise?", "disagree"),
]


def person(
    said: Sequence[tuple[str, str]] = PAST, choices: list[str] | None = CHOICES, asked: Sequence[HeldOutQuestion] = ()
) -> UserDataset:
    past = [
        Engagement(id=f"t{n}", prompt=prompt, response=answer, occurred_at=START, choices=choices)
        for n, (prompt, answer) in enumerate(said)
    ]
    return UserDataset("ann", past, list(asked))


def question(
    query: str = "Should taxes on bread rise?", target: str = "disagree", choices: list[str] | None = CHOICES
) -> HeldOutQuestion:
    return HeldOutQuestion("e0", query, choices, target, START, seen=False, kind="closed" if choices else "open")


def answered(user: UserDataset) -> dict[str, Outcome]:
    return {row.arm: row for row in answer_with_baselines([user], 0)}


def test_the_majority_by_hand() -> None:
    found = answered(person(asked=[question()]))["majority"]
    assert (found.outcome, found.answer, found.right) == ("answered", "disagree", True)
    assert found.logprob == pytest.approx(math.log(4 / 8))
    assert found.choices is not None
    assert found.choices["pass"] == pytest.approx(math.log(1 / 8))


def test_of_answers_as_common_the_first_choice() -> None:
    assert answered(person(PAST[:2], asked=[question()]))["majority"].answer == "agree"


def test_only_answers_among_the_choices_count() -> None:
    found = answered(person(asked=[question(target="agree", choices=["agree", "maybe"])]))
    assert [found[name].answer for name in BASELINES] == ["agree"] * 3
    assert found["majority"].logprob == pytest.approx(math.log(3 / 4))


def test_the_copy_is_of_the_most_similar_question() -> None:
    dogs = question("May dogs run free without a leash?", "pass")
    found = answered(person(asked=[dogs]))["copy"]
    assert (found.answer, found.right, found.logprob, found.choices) == ("agree", False, None, None)


def test_of_questions_as_similar_the_newest_is_copied() -> None:
    said = [("Same?", "agree"), ("Same?", "pass"), ("Other words", "disagree")]
    assert answered(person(said, asked=[question("Same?")]))["copy"].answer == "pass"
    assert answered(person(said, asked=[question("Nothing alike")]))["copy"].answer == "disagree"


def test_tfidf_learns_the_words_of_the_user() -> None:
    found = answered(person(PAST * 4, asked=[question("Should dogs be let into shops?", "agree")]))
    assert found["tfidf"].answer == "agree"
    assert found["tfidf"].logprob is not None
    assert found["tfidf"].logprob > (found["majority"].logprob or 0)
    assert found["tfidf"].why == ""


def test_a_choice_never_taken_gets_a_floor() -> None:
    found = answered(person(asked=[question(target="pass")]))["tfidf"]
    assert found.choices is not None
    assert found.logprob == pytest.approx(math.log(1 / 9))  # 1/8 beside what adds up to 1
    assert sum(map(math.exp, found.choices.values())) == pytest.approx(1)


def test_one_class_falls_back_to_the_majority_and_says_so() -> None:
    found = answered(person([("One?", "pass"), ("Two?", "pass")], asked=[question()]))
    assert found["tfidf"].why == ONE_CLASS
    assert (found["tfidf"].answer, found["tfidf"].choices) == ("pass", found["majority"].choices)
    assert found["majority"].why == ""


def test_where_nothing_is_known_of_the_choices_nothing_is_answered() -> None:
    for user in (person([], asked=[question()]), person(asked=[question(target="x", choices=["x", "y"])])):
        for row in answer_with_baselines([user], 0):
            assert (row.outcome, row.why, row.answer, row.right, row.logprob) == (
                "failed",
                NO_PAST_ANSWER,
                "",
                None,
                None,
            )
    open_past = person(choices=None, asked=[question()])
    assert [answered(open_past)[name].outcome for name in BASELINES] == ["failed", "answered", "failed"]


def test_open_questions_can_only_be_copied() -> None:
    asked = question("Should taxes on bread rise?", "No, never.", None)
    found = answered(person([("Taxes on beer?", "No."), ("Dogs?", "Yes.")], None, [asked]))
    assert (found["copy"].answer, found["copy"].right, found["copy"].kind) == ("No.", None, "open")
    assert {found[name].why for name in ("majority", "tfidf")} == {NO_CHOICES}
    assert answered(person([], None, [asked]))["copy"].outcome == "failed"


def test_users_do_not_see_each_other_and_may_have_no_questions() -> None:
    ann = person(asked=[question()])
    bob = UserDataset("bob", person([("Should taxes on bread rise?", "pass")] * 9).engagements, [])
    assert (
        answer_with_baselines([ann, bob], 0) == answer_with_baselines([ann], 0) == answer_with_baselines([bob, ann], 0)
    )


def test_what_the_rows_say_of_themselves() -> None:
    rows = answer_with_baselines([person(asked=[question()])], 3, tokens=len)
    assert [row.arm for row in rows] == list(BASELINES)
    assert {(row.measure, row.seed, row.user, row.item, row.seen, row.tokens) for row in rows} == {
        ("answer", 3, "ann", "e0", False, len("disagree"))
    }
    assert answer_with_baselines([person(asked=[question()])], 0)[0].tokens == 1
    assert list(metrics.scores_by_user(table(rows))["items"]) == [1, 1, 1]


@given(
    st.lists(st.tuples(st.sampled_from(["?", "a b", "b c d", "e"]), st.sampled_from(CHOICES)), min_size=1, max_size=8),
    st.sampled_from(CHOICES),
)
@settings(max_examples=25)
def test_probabilities_add_up_whatever_was_said(said: list[tuple[str, str]], target: str) -> None:
    for row in answer_with_baselines([person(said, asked=[question("b c", target)])], 0):
        assert row.outcome == "answered"
        if row.choices is not None:
            assert sum(map(math.exp, row.choices.values())) == pytest.approx(1)
            assert row.answer == max(CHOICES, key=lambda choice: (row.choices or {})[choice])
            assert row.logprob == row.choices[target]
