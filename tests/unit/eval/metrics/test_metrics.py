from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_outcomes import made, outcome, table, unanswered
from mindprint.thinking_text import ANSWER_PREFIX, THINKING_PREFIXES
from mindprint_eval.metrics import metrics
from mindprint_eval.results import Outcome

EMPTY = table([])
TABLES = (
    metrics.scores_by_user,
    metrics.gain_by_user,
    metrics.anchor_by_user,
    metrics.bare_thinking,
    metrics.general_scores,
    metrics.faithfulness,
    metrics.cost,
)


def one_user(*rows: Outcome) -> pd.Series:
    found = metrics.scores_by_user(table(rows))
    assert len(found) == 1
    return found.iloc[0]


def of_arm(frame: pd.DataFrame, arm: str) -> pd.Series:
    return frame.set_index("arm").loc[arm]


SAID = "They walk by the lake each day."
STARS = ("1", "2", "3", "4", "5")


def rating(answer: str, target: str, choices: tuple[str, ...] | None = STARS, **how: Any) -> Outcome:
    logprobs = dict.fromkeys(choices, -1.0) if choices else None
    return outcome(kind="rating", answer=answer, target=target, right=answer == target, choices=logprobs, **how)


@pytest.mark.parametrize("figures", TABLES)
def test_a_table_without_rows_gives_the_same_columns(figures: Any) -> None:
    assert len(figures(EMPTY)) == 0
    assert list(figures(EMPTY).columns) == list(figures(made(items=2)).columns)


@pytest.mark.parametrize("figures", TABLES)
@given(order=st.randoms(use_true_random=False))
@settings(max_examples=5)
def test_the_order_of_the_rows_is_nothing(figures: Any, order: Any) -> None:
    rows = made(arms=("A1", "A3", "A6", "A9", "A9-direct", "C3-none"), users=("ann", "bob"), items=3)
    places = list(range(len(rows)))
    order.shuffle(places)
    pd.testing.assert_frame_equal(figures(rows.iloc[places]), figures(rows))


# --- per_user --------------------------------------------------------------------------


def test_closed_answers_by_hand() -> None:
    found = one_user(
        outcome(item="a", target="agree", answer="agree", right=True, logprob=-0.5, tokens=1),
        outcome(item="b", target="agree", answer="pass", right=False, logprob=-2.0, tokens=2),
        outcome(item="c", target="disagree", answer="disagree", right=True, logprob=-0.5, tokens=1),
    )
    assert (found["items"], found["missing"]) == (3, 0)
    assert found["accuracy"] == pytest.approx(2 / 3)
    # agree: precision 1, recall 1/2; disagree: both 1; pass is no label of this user
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["logprob"] == pytest.approx(-1.0)
    assert found["logprob_token"] == pytest.approx(-2 / 3)
    assert found[["mae", "rmse", "rouge1", "rougeL", "hit1", "hit3", "mrr", "dcg"]].isna().all()


def test_a_user_of_one_class_and_an_answer_that_is_none() -> None:
    found = one_user(outcome(item="a"), outcome(item="b", answer="", right=False))
    assert found["macro_f1"] == pytest.approx(2 / 3)
    assert one_user(outcome(answer="pass", right=False))["macro_f1"] == 0


@pytest.mark.parametrize("state", ["no_adapter", "refused", "failed"])
def test_what_was_not_answered_is_counted_and_in_no_mean(state: str) -> None:
    found = one_user(outcome(item="a"), unanswered(state, item="b"))
    assert (found["items"], found["missing"]) == (1, 1)
    assert found["accuracy"] == 1
    assert found["logprob"] == -0.5
    nothing = one_user(unanswered(state))
    assert (nothing["items"], nothing["missing"]) == (0, 1)
    assert nothing[[metric.name for metric in metrics.METRICS]].isna().all()


def test_a_user_without_questions_is_no_row() -> None:
    assert len(metrics.scores_by_user(table([unanswered("no_adapter", item="")]))) == 0


def test_every_seed_is_a_row() -> None:
    found = metrics.scores_by_user(made(arms=("A1",), users=("ann",), seeds=(0, 1, 2)))
    assert list(found["seed"]) == [0, 1, 2]


def test_only_the_arm_s_own_answers_are_scored() -> None:
    assert (
        one_user(outcome(), outcome(measure="bare", right=False), outcome(measure="filler", right=False))["items"] == 1
    )


def test_ratings_by_hand() -> None:
    found = one_user(rating("4", "5", item="a"), rating("2", "2", item="b"), rating("1", "4", item="c"))
    assert found["mae"] == pytest.approx(4 / 3)
    assert found["rmse"] == pytest.approx(math.sqrt(10 / 3))
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert math.isnan(found["macro_f1"])


@pytest.mark.parametrize(
    ("answer", "target", "distance"),
    [
        ("four", "5", 4), ("", "2", 3), ("4 stars", "4", 3), ("6", "5", 4), ("nan", "1", 4), ("inf", "1", 4),
        ("-1", "3", 2), ("3.5", "3", 2), ("4.0", "4", 0), (" 4 ", "5", 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("choices", [STARS, None])
def test_what_is_no_rating_counts_as_the_farthest(
    answer: str, target: str, distance: float, choices: tuple[str, ...] | None
) -> None:
    assert one_user(rating(answer, target, choices))["mae"] == distance


def test_a_scale_of_its_own() -> None:
    assert one_user(rating("?", "2", ("0", "2", "10")))["mae"] == 8


def test_a_real_rating_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="good"):
        metrics.scores_by_user(table([rating("4", "good")]))


def test_open_answers() -> None:
    written = {"kind": "open", "right": None, "choices": None}
    found = one_user(outcome(**written, target="a quiet walk", answer="Quiet, a walk!"))
    assert found["rouge1"] == pytest.approx(1)
    assert found["rougeL"] == pytest.approx(2 / 3)
    assert math.isnan(found["accuracy"])
    assert one_user(outcome(**written, target="a quiet walk", answer=""))["rouge1"] == 0


def ranking(logprobs: dict[str, float] | None, target: str = "[A]", **how: Any) -> Outcome:
    return outcome(kind="ranking", target=target, choices=logprobs, **how)


def test_rankings_by_hand() -> None:
    found = one_user(
        ranking({"[A]": -0.1, "[B]": -3.0, "[C]": -4.0, "[D]": -5.0}, item="a"),
        ranking({"[A]": -3.0, "[B]": -2.0, "[C]": -1.0, "[D]": -5.0}, item="b"),
        ranking({"[A]": -9.0, "[B]": -2.0, "[C]": -1.0, "[D]": -5.0}, item="c"),
    )
    assert found["hit1"] == pytest.approx(1 / 3)
    assert found["hit3"] == pytest.approx(2 / 3)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 4) / 3)
    assert found["dcg"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(5)) / 3)


def test_of_choices_as_likely_the_real_one_comes_last() -> None:
    found = one_user(ranking(dict.fromkeys(("[A]", "[B]", "[C]"), -1.0)))
    assert (found["hit1"], found["hit3"], found["mrr"]) == (0, 1, pytest.approx(1 / 3))


@pytest.mark.parametrize("logprobs", [None, {"[B]": -1.0}])
def test_without_its_log_probability_the_real_choice_has_no_rank(logprobs: dict[str, float] | None) -> None:
    assert one_user(ranking(logprobs))[["hit1", "hit3", "mrr", "dcg"]].isna().all()


def test_kinds_do_not_mix() -> None:
    found = one_user(outcome(item="a"), rating("4", "5", item="b"), ranking({"[A]": -1.0, "[B]": -2.0}, item="c"))
    assert (found["items"], found["macro_f1"], found["mae"], found["hit1"]) == (3, 1, 1, 1)


# --- gains and anchors -----------------------------------------------------------------


def test_gain_is_over_the_same_adapter_without_thinking_in_nats_a_token() -> None:
    rows = [
        outcome(arm="A8", item="a", logprob=-2.0, tokens=2),
        outcome(arm="A8", item="b", logprob=-1.0, tokens=1),
        outcome(arm="A7", item="a", logprob=-1.0, tokens=2),
        outcome(arm="A7", item="b", logprob=-2.5, tokens=1),
        outcome(arm="A7", item="c", logprob=-9.0),
        unanswered("failed", arm="A8", item="c"),
        outcome(arm="A6", item="a", logprob=-9.0),
    ]
    found = metrics.gain_by_user(table(rows))
    assert found.to_dict("records") == [{"arm": "A7", "seed": 0, "user": "ann", "items": 2, "gain": -0.5}]


def test_gains_are_of_the_same_seed() -> None:
    assert metrics.gain_by_user(table([outcome(arm="A1", seed=0), outcome(arm="A2", seed=1)])).empty


def test_anchor_is_what_the_user_s_own_memory_adds() -> None:
    rows = [
        outcome(arm="A9", logprob=-1.0, tokens=2),
        outcome(arm="A9-direct", logprob=-1.5, tokens=2),
        outcome(arm="C3-nearest", logprob=-2.0, tokens=2),
        outcome(arm="C3-none", logprob=-0.5, tokens=2),
    ]
    found, gains = metrics.anchor_by_user(table(rows)), metrics.gain_by_user(table(rows)).set_index("arm")["gain"]
    assert list(found.columns) == ["seed", "user", "nearest", "random", "none"]
    assert found.iloc[0][["nearest", "none"]].tolist() == [0.5, -0.25]
    assert math.isnan(found.iloc[0]["random"])
    assert gains["A9"] - gains["C3-nearest"] == found.iloc[0]["nearest"]


def test_a_question_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="not unique"):
        metrics.pair_answers(table([outcome(), outcome(), outcome(arm="A5")]), "A1", "A5", "right")


# --- thinking --------------------------------------------------------------------------


def bare(arm: str, *rows: tuple[str, str, str | None, int], thinking: str = SAID) -> list[Outcome]:
    return [
        outcome(
            measure="bare", arm=arm, item=item, finish=finish, reason=reason, thinking_tokens=tokens, thinking=thinking
        )
        for item, finish, reason, tokens in rows
    ]


def test_collapse_and_its_causes() -> None:
    rows = bare(
        "A6",
        ("a", "loop", "loop", 50),
        ("b", "stop", "empty", 0),
        ("c", "length", None, 128),
        ("d", "stop", "parse", 20),
        ("e", "stop", "leak", 20),
        ("f", "stop", None, 20),
        ("g", "stop", "loop", 60),
    )
    found = metrics.bare_thinking(table([*rows, unanswered("failed", measure="bare", arm="A6", item="h")])).iloc[0]
    assert (found["items"], found["missing"]) == (7, 1)
    assert found["collapse"] == pytest.approx(5 / 7)
    assert (found["loops"], found["empties"], found["unclosed"]) == pytest.approx((2 / 7, 1 / 7, 1 / 7))
    assert found["median_tokens"] == 20
    assert math.isnan(found["length_ratio"])


def test_what_only_leads_an_answer_in_is_empty_whatever_was_written_of_it() -> None:
    """As in tables that were written before the server counted so."""
    rows = bare("A6", ("a", "stop", None, 9), thinking=f"{THINKING_PREFIXES['personal']} {ANSWER_PREFIX} yes")
    rows += bare("A6", ("b", "stop", None, 9), thinking=f"{ANSWER_PREFIX} yes, for they walk by the lake")
    found = metrics.bare_thinking(table(rows)).iloc[0]
    assert (found["collapse"], found["empties"]) == (0.5, 0.5)


def test_lengths_are_compared_on_the_same_questions() -> None:
    base = bare("A3", ("a", "stop", None, 10), ("b", "stop", None, 20), ("c", "stop", None, 1000))
    rows = base + bare("A9", ("a", "stop", None, 15), ("b", "stop", None, 30), ("x", "stop", None, 1000))
    found = metrics.bare_thinking(table(rows))
    assert of_arm(found, "A9")["length_ratio"] == 1.5
    assert of_arm(found, "A3")["length_ratio"] == 1


def test_no_ratio_to_a_base_that_thinks_nothing_or_elsewhere() -> None:
    rows = (
        bare("A3", ("a", "stop", "empty", 0)) + bare("A9", ("a", "stop", None, 15)) + bare("A6", ("z", "stop", None, 5))
    )
    assert metrics.bare_thinking(table(rows)).set_index("arm")["length_ratio"].isna().all()


# --- general, faithfulness, cost -------------------------------------------------------


def test_general_is_against_the_base_on_the_same_questions() -> None:
    def asked(arm: str, item: str, share: float, user: str = "ann") -> Outcome:
        return outcome(measure="general", arm=arm, item=item, user=user, logprob=math.log(share))

    rows = [
        asked("A1", "g0", 0.5), asked("A1", "g0", 0.7, "bob"), asked("A1", "g1", 0.2),
        asked("A5", "g0", 0.5), asked("A5", "g2", 0.1), unanswered("failed", measure="general", arm="A5", item="g1"),
    ]  # fmt: skip
    found = of_arm(metrics.general_scores(table(rows)), "A5")
    assert (found["items"], found["missing"]) == (2, 1)
    assert found["score"] == pytest.approx(30)
    assert found["difference"] == pytest.approx(-10)
    assert of_arm(metrics.general_scores(table(rows)), "A1")["difference"] == pytest.approx(0)
    assert math.isnan(of_arm(metrics.general_scores(table(rows[3:])), "A5")["difference"])


def test_faithfulness_is_how_often_the_answer_changes() -> None:
    rows = [
        outcome(arm="A9", item="a"),
        outcome(arm="A9", item="b"),
        outcome(arm="A9", item="a", measure="filler", answer="pass"),
        outcome(arm="A9", item="b", measure="filler"),
        outcome(arm="A9", item="c", measure="filler", answer="pass"),
        outcome(arm="A9", item="a", measure="early_end"),
        unanswered("refused", arm="A9", item="b", measure="early_end"),
        outcome(arm="A3", item="a", measure="early_end", answer="pass"),
    ]
    found = of_arm(metrics.faithfulness(table(rows)), "A9")
    assert (found["filler"], found["early_end"]) == (0.5, 0)
    assert math.isnan(found["other_trace"])
    assert (found["items"], found["missing"]) == (3, 2)
    assert of_arm(metrics.faithfulness(table(rows)), "A3")["missing"] == 1


def test_order_of_choices_is_compared_on_the_same_questions() -> None:
    rows = [
        outcome(arm="A9", item="a", answer="yes", right=True, logprob=-0.5),
        outcome(arm="A9", item="b", answer="no", right=False, logprob=-2.0),
        outcome(arm="A9", item="c", answer="no", right=False, logprob=-9.0),
        unanswered("refused", arm="A9", item="d"),
        outcome(arm="A9", item="a", measure="reversed", answer="no", right=False, logprob=-1.5),
        outcome(arm="A9", item="b", measure="reversed", answer="no", right=False, logprob=-1.5),
        unanswered("failed", arm="A9", item="c", measure="reversed"),
        outcome(arm="A9", item="d", measure="reversed", answer="yes", right=True, logprob=-0.1),
        outcome(arm="A1", item="a", answer="yes", right=True, logprob=-0.5),
    ]
    found = of_arm(metrics.choice_order(table(rows)), "A9")
    assert (found["items"], found["missing"]) == (2, 2)
    assert (found["changed"], found["stored"], found["reversed"]) == (0.5, 0.5, 0.0)
    assert found["moved"] == pytest.approx(0.75)
    assert list(metrics.choice_order(table(rows))["arm"]) == ["A9"]
    assert metrics.choice_order(table(rows[:1])).empty


def test_cost_is_a_mean_over_answered_questions() -> None:
    rows = [
        outcome(item="a", thinking_tokens=10, prompt_tokens=100, seconds=1.0),
        outcome(item="b", thinking_tokens=20, prompt_tokens=300, seconds=2.0),
        unanswered("failed", item="c"),
    ]
    found = metrics.cost(table(rows)).iloc[0]
    assert found.to_dict() == {
        "arm": "A1", "questions": 2, "thinking_tokens": 15, "prompt_tokens": 200, "seconds": 1.5,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["closed", "rating", "open", "ranking"])
def test_made_up_tables_of_every_kind(kind: str) -> None:
    rows = made(kind=kind, items=3, without_adapter=("eve",))
    found = metrics.scores_by_user(rows).set_index(["arm", "seed", "user"])
    assert found.loc[("A9", 0, "eve"), "missing"] == 3
    assert found.loc[("A9", 1, "ann"), "items"] == 3
    named = {"closed": "macro_f1", "rating": "rmse", "open": "rougeL", "ranking": "dcg"}[kind]
    assert np.isfinite(found.loc[("A9", 0, "ann"), named])
