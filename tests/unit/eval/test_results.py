from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mindprint_eval import results
from mindprint_eval.results import Outcome

ROW = Outcome(
    measure="answer", arm="A1", seed=0, user="ann", item="1", kind="closed", seen=None, outcome="answered", why="",
    target="yes", answer="nö", right=False, logprob=-1.5, tokens=1, choices={"yes": -1.5, "nö": -0.25}, thinking="",
    thinking_tokens=0, finish="stop", reason=None, prompt_tokens=7, seconds=0.5,
)  # fmt: skip


def test_the_table_comes_back_as_it_was(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, item="2", outcome="refused", why="gate", right=None, logprob=None, choices=None)]
    results.write_outcomes(rows, tmp_path / "t.jsonl.gz")
    table = results.read_outcomes(tmp_path / "t.jsonl.gz")
    assert list(table.columns) == list(results.COLUMNS)
    assert [Outcome(**row) for row in results.read_ndjson(tmp_path / "t.jsonl.gz")] == rows
    assert table["logprob"].isna().tolist() == [False, True]


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    results.write_outcomes([ROW], tmp_path / "one.gz")
    results.write_outcomes([ROW], tmp_path / "other.gz")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "other.gz").read_bytes()


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    results.write_outcomes([], tmp_path / "t.jsonl.gz")
    table = results.read_outcomes(tmp_path / "t.jsonl.gz")
    assert len(table) == 0
    assert list(table.columns) == list(results.COLUMNS)
