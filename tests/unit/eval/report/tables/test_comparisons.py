from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

import made_evaluation
from made_outcomes import made, outcome, table
from mindprint_eval import results
from mindprint_eval.report import analysis, build
from mindprint_eval.report.table import Table
from mindprint_eval.report.tables import comparisons
from mindprint_eval.results import Outcome

COSINES = {"L-trace": 0.75, "L-generic": 0.5, "L-other": 0.25}
CAPTION = "likeness to different thinking"


def rows(*arms: str, users: tuple[str, ...] = ("ann", "bob")) -> list[Outcome]:
    """Bob's are all higher by 0.1, and his trace's by 0.2."""
    return [
        outcome(
            measure="likeness", arm=arm, user=user, kind="open", logprob=None,
            cosine=COSINES[arm] + (user == "bob") * (0.1 + 0.1 * (arm == "L-trace")),
        )
        for arm in arms
        for user in users
    ]  # fmt: skip


def shown(folder: Path, found: list[Outcome]) -> list[list[tuple[str, str]]]:
    [made_table] = comparisons.similarity_tables(
        analysis.load_analysis(made_evaluation.write(folder / "made", table(found)))
    )
    return [[(cell.text, cell.below) for cell in row] for row in made_table.groups[0].rows]


def test_both_orders_of_the_choices_are_compared(tmp_path: Path) -> None:
    def shown_of(*found: Outcome) -> Table:
        folder = made_evaluation.write(tmp_path / f"made-{len(found)}", table(found))
        return comparisons.choice_order_table(analysis.load_analysis(folder))

    own = outcome(arm="A1", item="a", answer="yes", right=True, logprob=-0.5)
    turned = outcome(arm="A1", item="a", measure="reversed", answer="no", right=False, logprob=-1.0)
    shown = shown_of(own, turned)
    [row] = shown.groups[0].rows
    assert [cell.text for cell in row][2:] == ["100.0", "100.0", "0.0", "0.500", "1", "0"]
    assert "Not measured: A5, A9." in shown.notes[1]
    assert shown_of(own).groups == []


def test_similarity_to_reasons_and_its_differences(tmp_path: Path) -> None:
    assert shown(tmp_path, rows(*COSINES)) == [
        [("the trace", ""), ("0.850", "[0.750, 0.950]"), ("2", ""), ("2", "")],
        [("generic thinking", ""), ("0.550", "[0.500, 0.600]"), ("2", ""), ("2", "")],
        [("the trace, another user's reason", ""), ("0.300", "[0.250, 0.350]"), ("2", ""), ("2", "")],
        [("the first less the second", ""), ("+0.300", "[+0.250, +0.350]"), ("2", ""), ("2", "")],
        [("the first less the third", ""), ("+0.550", "[+0.500, +0.600]"), ("2", ""), ("2", "")],
    ]


def test_differences_are_of_the_same_reasons(tmp_path: Path) -> None:
    found = shown(tmp_path, [*rows("L-trace"), *rows("L-generic", users=("ann",))])
    assert [row[0][0] for row in found] == ["the trace", "generic thinking", "the first less the second"]
    assert found[-1][1:] == [("+0.250", "one user"), ("1", ""), ("1", "")]


def test_report_shows_similarity_only_where_it_was_measured(tmp_path: Path) -> None:
    answers = made(arms=("A1", "A3"), users=("ann",), items=2, seeds=(0,))
    without = made_evaluation.write(tmp_path / "without", answers)
    build.write_report(without)
    assert CAPTION not in (without / "report.md").read_text()
    both = [*(Outcome(**row) for row in answers.to_dict("records")), *rows(*COSINES)]
    build.write_report(made_evaluation.write(tmp_path / "with", table(both)))
    assert CAPTION in (tmp_path / "with" / "report.md").read_text()
    assert CAPTION in (tmp_path / "with" / "report.html").read_text()


@pytest.mark.parametrize("count", [0, 2])
def test_tables_from_before_similarity_was_measured(count: int, tmp_path: Path) -> None:
    old = [{name: value for name, value in asdict(outcome()).items() if name != "cosine"}] * count
    results.write_ndjson(old, tmp_path / "t.jsonl.gz")
    found = results.read_outcomes(tmp_path / "t.jsonl.gz")
    assert found["cosine"].isna().tolist() == [True] * count
    assert found["cosine"].dtype == float
    assert [Outcome(**row) for row in old] == [outcome()] * count
