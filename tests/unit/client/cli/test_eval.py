"""`mindprint eval report` and `join`: from a folder of tables to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made_evaluation
from made_outcomes import made


def test_report_is_computed_from_the_tables(run: Any, tmp_path: Path) -> None:
    folder = made_evaluation.write(tmp_path / "kept", made(arms=("A1",), users=("ann", "bob"), items=2))
    result = run("eval", "report", str(folder))
    assert result.exit_code == 0
    assert result.stdout.strip() == f"report: {folder / 'report.html'}"
    assert (folder / "report.md").exists()


def test_join_writes_the_report_of_the_whole(run: Any, tmp_path: Path) -> None:
    parts = [
        made_evaluation.write(
            tmp_path / str(seed), made(arms=("A1",), users=("ann", "bob"), items=2, seeds=(seed,)), seeds=[seed]
        )
        for seed in (0, 1)
    ]
    result = run("eval", "join", *map(str, parts), "--out", str(tmp_path / "whole"))
    assert result.exit_code == 0
    assert (tmp_path / "whole" / "report.html").exists()


def test_join_into_an_existing_folder_is_refused(run: Any, tmp_path: Path) -> None:
    folder = made_evaluation.write(tmp_path / "kept", made(arms=("A1",), users=("ann",), items=1))
    result = run("eval", "join", str(folder), "--out", str(folder))
    assert result.exit_code == 2
    assert "name a folder for --out that is not" in result.stderr
