from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import made_evaluation
from made_outcomes import made
from mindprint.cli.errors import Fail
from mindprint.cli.eval import app
from mindprint_eval import merge, results
from mindprint_eval.config import EvaluationError
from mindprint_eval.merge import merge_evaluations
from mindprint_eval.report import analysis


def evaluation(folder: Path, users: tuple[str, ...], seeds: tuple[int, ...] = (0,), **changes: Any) -> Path:
    table = made(arms=("A1", "A3", "A9"), users=users, items=4, seeds=seeds)
    return made_evaluation.write(folder, table, seeds=list(seeds), **changes)


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [evaluation(tmp_path / "one", ("ann", "ben")), evaluation(tmp_path / "two", ("cat",))]


def test_the_whole_is_what_one_evaluation_of_all_users_would_be(two: list[Path], tmp_path: Path) -> None:
    whole = analysis.load_analysis(merge_evaluations(two, tmp_path / "deep" / "whole"))
    at_once = analysis.load_analysis(evaluation(tmp_path / "at-once", ("ann", "ben", "cat")))
    assert whole.about["users"] == ["ann", "ben", "cat"]
    order = ["measure", "arm", "user", "item"]
    got, wanted = (f.outcomes.sort_values(order, ignore_index=True) for f in (whole, at_once))
    assert got.equals(wanted)
    assert whole.comparisons.equals(at_once.comparisons)
    assert len(whole.candidates) == len(at_once.candidates)
    assert whole.queries == at_once.queries
    assert len(whole.about["adapters"]) == 9


def test_merge_lists_the_commands_of_all_parts(two: list[Path], tmp_path: Path) -> None:
    document = json.loads((two[1] / "evaluation.json").read_text())
    later = document | {"made_at": "2026-02-01T00:00:00+00:00", "command": "mindprint eval of two"}
    (two[1] / "evaluation.json").write_text(json.dumps(later))
    about = analysis.load_analysis(merge_evaluations(two, tmp_path / "whole")).about
    assert about["made_at"] == "2026-02-01T00:00:00+00:00"
    assert [one["command"] for one in about["joined"]] == [document["command"], "mindprint eval of two"]


def test_another_seed_of_the_same_users_adds_no_second_answer_of_a_baseline(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / f"seed-{seed}", ("ann",), (seed,)) for seed in (0, 1)]
    baseline = {"measure": "answer", "arm": "majority", "seed": 0, "user": "ann", "item": "i"}
    for folder in folders:
        rows = list(results.read_ndjson(folder / "outcomes.jsonl.gz"))
        results.write_ndjson([*rows, rows[0] | baseline], folder / "outcomes.jsonl.gz")
    whole = analysis.load_analysis(merge_evaluations(folders, tmp_path / "whole"))
    assert whole.about["seeds"] == [0, 1]
    assert (whole.outcomes["arm"] == "majority").sum() == 1
    assert (whole.outcomes["arm"] == "A9").sum() == 2 * (
        analysis.load_analysis(folders[0]).outcomes["arm"] == "A9"
    ).sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_digest": "sha256:11", "rows": 9}, "they differ in rows, base_digest"),
        ({"settings": {"objective": {"EPOCHS": "2"}}}, "they differ in settings"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folders = [evaluation(tmp_path / "one", ("ann",)), evaluation(tmp_path / "two", ("ben",), **changes)]
    with pytest.raises(EvaluationError, match=message):
        merge_evaluations(folders, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_nobody_counts_twice(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="ann with seed 0 is in two of them"):
        merge_evaluations([*two, evaluation(tmp_path / "three", ("ann",))], tmp_path / "whole")


def test_a_folder_without_its_tables_is_refused(two: list[Path], tmp_path: Path) -> None:
    (two[1] / "candidates.jsonl.gz").unlink()
    with pytest.raises(EvaluationError, match=r"candidates\.jsonl\.gz is missing"):
        merge_evaluations(two, tmp_path / "whole")
    (two[1] / "evaluation.json").unlink()
    with pytest.raises(EvaluationError, match=r"has no evaluation\.json"):
        merge_evaluations(two, tmp_path / "whole")


def test_the_command_writes_the_report_and_overwrites_nothing(two: list[Path], tmp_path: Path) -> None:
    asked = ["join", *map(str, two), "--out", str(tmp_path / "whole")]
    made = CliRunner().invoke(app, asked)
    assert made.exit_code == 0, made.output
    assert (tmp_path / "whole" / "report.html").exists()
    with pytest.raises(Fail, match="is there already"):
        CliRunner().invoke(app, asked, catch_exceptions=False)


def test_what_must_be_equal_is_in_every_evaluation(two: list[Path]) -> None:
    assert set(merge.MUST_MATCH) - {"data_digest"} <= set(json.loads((two[0] / "evaluation.json").read_text()))
