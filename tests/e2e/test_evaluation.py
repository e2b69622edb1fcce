"""`mindprint eval` with its real server and trainer on a tiny model: what it shows is that every part is wired up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mindprint_demo import synthetic
from mindprint_eval import results
from tiny import make_model
from tiny_servers import SERVER

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ARMS = ("A0", "A1", "A3", "A5", "A6", "A9", "A9-direct", "C3-none")
SETTINGS = SERVER | {"EARLY_STOP_MARGIN_NATS": "null", "REPLAY_SHARE": "0"}


def evaluate(folder: Path, model: Path) -> subprocess.CompletedProcess[str]:
    words = ["eval", "run", "--data", str(folder / "data"), "--out", str(folder / "eval"), "--model", str(model)]
    words += ["--users", "2", "--rows", "2", "--engagements", "6", "--pool", "0", "--general", "2"]
    words += ["--arms", ",".join(ARMS), "--train", "epochs=6", "--train", "learning_rate=0.01"]
    settings = {f"MINDPRINT_{name}": value for name, value in SETTINGS.items()}
    return subprocess.run(
        [sys.executable, "-m", "mindprint", *words],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **settings},
        capture_output=True,
        text=True,
        timeout=800,
    )


def test_an_evaluation_runs_through_and_goes_on_where_it_was(tmp_path: Path) -> None:
    synthetic.write_dataset(tmp_path / "data", 2, 6, 2, 0)
    model = make_model(tmp_path / "model")
    first = evaluate(tmp_path, model)
    assert first.returncode == 0, first.stdout + first.stderr

    table = results.read_outcomes(tmp_path / "eval" / "outcomes.jsonl.gz")
    answers = table[table["measure"] == "answer"]
    assert set(ARMS) <= set(answers["arm"])
    assert set(Counter(answers["arm"]).values()) == {4}  # the baselines' too: two users with two questions each
    of_fast = answers[answers["arm"].isin(["A0", "A1", "A3", "A5", "A6"])]
    assert set(of_fast["outcome"]) == {"answered"}
    assert answers.loc[answers["outcome"] != "answered", "why"].str.len().min() != 0
    document = json.loads((tmp_path / "eval" / "evaluation.json").read_text())
    assert {one["state"] for one in document["adapters"] if one["recipe"] == "fast"} == {"live"}
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "<script" not in page
    assert all(arm in page for arm in ARMS)

    again = evaluate(tmp_path, model)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "done before" in again.stdout
    assert results.read_outcomes(tmp_path / "eval" / "outcomes.jsonl.gz").equals(table)
