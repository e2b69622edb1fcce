from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

import made_evaluation
import made_outcomes
from mindprint_eval.report import summary


def shown(folder: Path) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    for table in summary.summary_tables(folder):
        console.print(table)
    return console.export_text()


def test_every_arm_and_claim_has_a_row(tmp_path: Path) -> None:
    text = shown(made_evaluation.write(tmp_path, made_outcomes.made()))
    for name in ("A0", "A9", "tfidf", "A6 collapses", "held"):
        assert name in text
    assert "nan" not in text.lower()


def test_figures_that_are_not_there_are_gaps() -> None:
    assert summary.format_number(float("nan"), 100, 0) == summary.GAP
    assert summary.format_number(0.125, 100, 1) == "12.5"
    assert pytest.approx(float(summary.format_number(-1.234, 1, 2))) == -1.23
