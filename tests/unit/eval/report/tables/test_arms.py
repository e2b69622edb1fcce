from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import made_evaluation
from made_outcomes import made
from mindprint_eval.metrics import metrics
from mindprint_eval.metrics.metrics import ALL_KINDS, Metric
from mindprint_eval.report import analysis
from mindprint_eval.report.analysis import Analysis
from mindprint_eval.report.table import NOT_APPLICABLE_CELL, Cell, Table
from mindprint_eval.report.tables import arms


def half(rows: pd.DataFrame) -> pd.Series:
    return pd.Series(0.5, index=rows.index)


@pytest.fixture
def found(tmp_path: Path) -> Analysis:
    answers = made(arms=("A1", "A3"), users=("ann", "bob"), items=2, seeds=(0,))
    return analysis.load_analysis(made_evaluation.write(tmp_path / "made", answers))


def add(monkeypatch: pytest.MonkeyPatch, metric: Metric, place: int) -> None:
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS[:place], metric, *metrics.METRICS[place:]))


def titles(table: Table) -> list[str]:
    return [column.title for column in table.columns]


def column(table: Table, title: str) -> list[Cell]:
    place = titles(table).index(title)
    return [cells[place] for group in table.groups for cells in group.rows]


def test_arms_table_when_metric_is_added_then_shows_its_column(
    found: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_metric = Metric("half", "half", "%", 1, ALL_KINDS, half, table="arms", scale=100, sign=True)
    add(monkeypatch, half_metric, place=1)
    table = arms.arms_table(found)
    assert titles(table)[2:6] == ["accuracy, %", "half, %", "macro-F1", "log-probability, nats"]
    assert column(table, "half, %") == [Cell("+50.0", "[+50.0, +50.0]")] * 2


def test_arms_table_when_metric_has_no_interval_then_shows_the_mean_alone(
    found: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, Metric("half", "half", "", 2, ALL_KINDS, half, table="arms", has_interval=False), place=0)
    assert column(arms.arms_table(found), "half") == [Cell("0.50")] * 2


def test_arms_table_when_metric_excludes_an_arm_then_shows_a_dash(
    found: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_metric = Metric("half", "half", "", 2, ALL_KINDS, half, table="arms", excluded_arms=("A3",))
    add(monkeypatch, half_metric, place=0)
    assert column(arms.arms_table(found), "half") == [Cell("0.50", "[0.50, 0.50]"), NOT_APPLICABLE_CELL]


def test_kinds_table_when_no_metric_shows_alone_then_is_empty(found: Analysis) -> None:
    assert found.per_user["logprob_token"].notna().any()
    assert not arms.kinds_table(found).rows


def test_kinds_table_when_metric_of_all_kinds_is_added_then_shows_it(
    found: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, Metric("half", "half", "", 2, ALL_KINDS, half), place=len(metrics.METRICS))
    table = arms.kinds_table(found)
    assert titles(table) == ["arm", "log-probability a token", "half"]
    assert column(table, "half") == [Cell("0.50")] * 2


def test_seen_table_when_metrics_are_reordered_then_keeps_its_columns(
    found: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = arms.seen_table(found)
    assert before.rows
    monkeypatch.setattr(metrics, "METRICS", metrics.METRICS[::-1])
    assert arms.seen_table(found) == before
