from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from made_outcomes import outcome, table, unanswered
from mindprint_eval.report.examples import Example, select_examples
from mindprint_eval.results import Outcome


def pair(item: str, difference: float, user: str = "ann", seed: int = 0) -> list[Outcome]:
    """A3 at -1 and A9 by so much above."""
    same = {"item": item, "user": user, "seed": seed}
    return [outcome(arm="A3", logprob=-1.0, **same), outcome(arm="A9", logprob=difference - 1.0, **same)]


def rows(differences: Mapping[str, float], user: str = "ann") -> list[Outcome]:
    return [row for item, difference in differences.items() for row in pair(item, difference, user)]


def chosen(*made: Outcome, users: tuple[str, ...] = ("ann",)) -> list[Example]:
    return select_examples(table(made), users, {})


def places(found: list[Example]) -> list[tuple[str, str, str]]:
    return [(one.user, one.place, one.item) for one in found]


def test_the_largest_the_median_and_the_smallest() -> None:
    found = chosen(*rows({"a": 0.1, "b": 0.9, "c": -0.5, "d": 0.3, "e": 0.2}))
    assert places(found) == [("ann", "largest", "b"), ("ann", "median", "e"), ("ann", "smallest", "c")]
    assert [round(one.difference, 6) for one in found] == [0.9, 0.2, -0.5]


def test_of_two_in_the_middle_the_lower_and_ties_by_name() -> None:
    assert places(chosen(*rows({"d": 0.1, "a": 0.1, "c": 0.1, "b": 0.1}))) == [
        ("ann", "largest", "d"),
        ("ann", "median", "b"),
        ("ann", "smallest", "a"),
    ]


def test_few_questions_make_few_places() -> None:
    assert places(chosen(*rows({"a": 0.1}))) == [("ann", "largest", "a")]
    assert places(chosen(*rows({"a": 0.1, "b": 0.2}))) == [("ann", "largest", "b"), ("ann", "median", "a")]


def test_seeds_are_averaged_and_the_first_with_both_is_shown() -> None:
    lost = unanswered("failed", arm="A9", item="b", seed=0)
    found = chosen(lost, *pair("a", 0.0), *pair("a", 1.0, seed=1), *pair("b", 0.4, seed=1), *pair("c", -1.0))
    assert [(one.item, one.difference, one.seed) for one in found] == [("a", 0.5, 0), ("b", 0.4, 1), ("c", -1.0, 0)]


def test_the_first_two_users_who_have_both() -> None:
    made = [row for user in ("ann", "bob", "cid") for row in rows({"a": 0.1}, user)]
    silent = unanswered("no_adapter", arm="A9", user="dee", item="a")
    found = chosen(silent, *made, users=("dee", "cid", "ann", "bob"))
    assert [one.user for one in found] == ["cid", "ann"]


def test_nothing_without_the_two_arms() -> None:
    assert chosen(outcome(arm="A9")) == []
    assert select_examples(table([]), [], {}) == []


def test_what_each_arm_made_of_it() -> None:
    made = [
        outcome(arm="A2", item="a", thinking="so so so", reason="loop", right=False, answer="pass", logprob=-2.0),
        unanswered("refused", arm="A6", item="a"),
        *pair("a", 0.5),
    ]
    [found] = select_examples(table(made), ["ann"], {("ann", "a"): "Walk?"})
    assert (found.query, found.target) == ("Walk?", "agree")
    a2, a3, a6, a9 = found.shown
    assert (a2.arm, a2.flaw, a2.right, a2.logprob, a2.thinking) == ("A2", "loop", False, -2.0, "so so so")
    assert (a3.arm, a3.outcome, a3.right, a3.flaw) == ("A3", "answered", True, "")
    assert (a6.outcome, a6.why, a6.right, a6.logprob) == ("refused", "made to be refused", None, None)
    assert (a9.arm, a9.logprob) == ("A9", -0.5)


def test_an_arm_that_was_not_run_says_so() -> None:
    [found] = chosen(*pair("a", 0.5))
    assert [shown.outcome for shown in found.shown] == ["not measured", "answered", "not measured", "answered"]
    assert found.query is None


def test_other_measures_are_no_answers() -> None:
    bare = [outcome(arm=arm, measure="bare", item="a") for arm in ("A3", "A9")]
    assert chosen(*bare) == []


def test_choices_are_those_of_the_question() -> None:
    made: pd.DataFrame = table(pair("a", 0.5))
    made["choices"] = [{"agree": -0.5, "pass": -1.0}] * 2
    assert select_examples(made, ["ann"], {})[0].choices == ["agree", "pass"]
