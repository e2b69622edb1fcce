from __future__ import annotations

import pandas as pd
import pytest

from made_outcomes import made, outcome, table
from mindprint_eval.metrics import metrics, statistics
from mindprint_eval.report.hypotheses import Hypothesis, check_hypotheses

NAMES = (
    "A6 collapses",
    "A7 does not collapse",
    "A9 does not collapse",
    "A9 beats A1",
    "A9 beats A3",
    "A9 beats A6",
    "A8 no worse than A5",
    "thinking pays: A9 reaches A5",
    "failure 1: A2 below A1",
)


def of(rows: pd.DataFrame) -> dict[str, Hypothesis]:
    return {
        claim.name: claim for claim in check_hypotheses(metrics.bare_thinking(rows), statistics.compare_pairs(rows))
    }


def thinking(**collapse: float) -> pd.DataFrame:
    return pd.DataFrame({"arm": list(collapse), "collapse": list(collapse.values())})


def compared(one: str, other: str, metric: str, low: float, high: float, users: int = 8) -> pd.DataFrame:
    known = statistics.ArmComparison(one, other, metric, (low + high) / 2, low, high, 0.5, users, 20, 0.1)
    return pd.DataFrame([vars(known)]).assign(p_holm=0.75)


NOTHING = compared("x", "y", "right", 0, 0)


def test_where_the_arms_are_as_the_method_says_every_claim_holds() -> None:
    found = of(made(items=12, users=[f"u{n}" for n in range(8)]))
    assert tuple(found) == NAMES
    assert {name for name, claim in found.items() if not claim.holds} == set()


def test_where_nothing_was_asked_nothing_is_said() -> None:
    found = of(table([]))
    assert tuple(found) == NAMES
    assert {claim.holds for claim in found.values()} == {None}
    assert {claim.value for claim in found.values()} == {None}
    assert found["A9 beats A1"].detail == "no question that both A9 and A1 answered"
    assert found["A6 collapses"].detail == "no bare thinking of A6 and A3"


def test_one_arm_that_is_missing_leaves_the_other_claims() -> None:
    found = of(made(arms=("A1", "A3", "A9"), items=6))
    assert {name for name, claim in found.items() if claim.holds is not None} == {
        "A9 does not collapse", "A9 beats A1", "A9 beats A3",
    }  # fmt: skip


def test_one_user_gives_no_interval_and_so_no_verdict() -> None:
    found = of(made(users=("ann",)))
    assert found["A9 beats A1"].holds is None
    assert found["A9 beats A1"].detail.startswith("one user gives no interval: ")
    assert found["A6 collapses"].holds


@pytest.mark.parametrize(("a6", "holds"), [(0.25, True), (0.249, False), (1.0, True), (0.0, False)])
def test_a_collapse_has_to_be_large(a6: float, holds: bool) -> None:
    claim = check_hypotheses(thinking(A3=0.05, A6=a6), NOTHING)[0]
    assert (claim.holds, claim.bound) == (holds, 0.2)
    assert claim.value == pytest.approx(a6 - 0.05)


@pytest.mark.parametrize(("a7", "holds"), [(0.15, True), (0.151, False), (0.0, True)])
def test_thinking_that_is_kept(a7: float, holds: bool) -> None:
    assert check_hypotheses(thinking(A3=0.1, A7=a7), NOTHING)[1].holds is holds


@pytest.mark.parametrize(
    ("pair", "metric", "place"),
    [
        (("A9", "A1"), "logprob", 3),
        (("A8", "A5"), "logprob", 6),
        (("A9", "A5"), "right", 7),
        (("A2", "A1"), "logprob", 8),
    ],
)
@pytest.mark.parametrize(
    ("low", "high", "above", "reaches", "below", "verdict"),
    [
        (0.1, 0.3, True, True, False, "better"),
        (-0.1, 0.3, False, True, False, "not "),
        (-0.3, -0.1, False, False, True, "worse"),
        (0.0, 0.0, False, True, False, "not "),
    ],
)
def test_where_an_interval_ends(
    pair: tuple[str, str], metric: str, place: int, low: float, high: float, above: bool, reaches: bool, below: bool,
    verdict: str,
) -> None:  # fmt: skip
    claim = check_hypotheses(thinking(), compared(*pair, metric, low, high))[place]
    assert claim.holds is {3: above, 6: reaches, 7: reaches, 8: below}[place]
    assert claim.value == (low if place == 3 else high)
    assert claim.detail.startswith(f"{pair[0]} {verdict}")
    assert ("not shown worse" in claim.detail) == (verdict == "not " and place in (6, 7))


def test_another_metric_does_not_decide() -> None:
    assert check_hypotheses(thinking(), compared("A9", "A1", "right", 0.1, 0.2))[3].holds is None


def test_the_detail_says_how_much_and_of_whom() -> None:
    claim = check_hypotheses(thinking(), compared("A9", "A1", "logprob", 0.1, 0.3))[3]
    assert claim.detail == "A9 better: +0.20 nats [+0.10, +0.30]; p 0.750 after Holm, 8 users, 20 questions"
    claim = check_hypotheses(thinking(), compared("A9", "A1", "logprob", -0.1, 0.1))[3]
    assert claim.detail.endswith(", 8 users, 20 questions, which would show 0.10 nats")


def test_unanswered_bare_thinking_is_no_thinking() -> None:
    rows = table([outcome(measure="bare", arm="A3"), outcome(measure="bare", arm="A6", outcome="failed")])
    assert of(rows)["A6 collapses"].holds is None
