"""README quotes what benchmarks/results/ and docs/evidence/ hold, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import quote

REPORT = """# eval

## 1. What was asked, and of what

4 users were put 80 questions.

The sample is small.

### Claims

| claim | the tables say |
|---|---|
| A6 collapses | held |

A note.

### Arms

| arm | accuracy, % |
|---|---:|
| A0 | 40.0 |
"""


def test_readme_quotes_the_results_that_are_kept() -> None:
    text = (quote.ROOT / "README.md").read_text(encoding="utf-8")
    assert quote.quoted(text, quote.RESULTS, quote.EVIDENCE) == text, "run python benchmarks/quote.py"


def test_of_an_evaluation_it_quotes_sample_claims_and_arms(tmp_path: Path) -> None:
    (tmp_path / "votes" / "figures").mkdir(parents=True)
    (tmp_path / "votes" / "report.md").write_text(REPORT)
    (tmp_path / "votes" / "figures" / "collapse.svg").write_text("<svg/>")
    (tmp_path / "votes" / "outcomes.jsonl.gz").write_bytes(b"many of them")
    (tmp_path / "tuning" / "tuning-votes").mkdir(parents=True)
    (tmp_path / "tuning" / "tuning-votes" / "report.md").write_text(REPORT)
    assert quote.evidence(tmp_path).split("\n\n") == [
        "**[votes](docs/evidence/votes/report.md)**",
        "4 users were put 80 questions.",
        "| claim | the tables say |\n|---|---|\n| A6 collapses | held |",
        "| arm | accuracy, % |\n|---|---:|\n| A0 | 40.0 |",
        "![Accuracy against collapse, votes](docs/evidence/votes/figures/collapse.svg)",
        "What the settings were chosen by: [tuning-votes](docs/evidence/tuning/tuning-votes/report.md).",
    ]


def test_the_evaluation_with_the_most_outcomes_comes_first(tmp_path: Path) -> None:
    for name, outcomes in (("arguments", b"few"), ("votes", b"many of them")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.md").write_text(REPORT)
        (tmp_path / name / "outcomes.jsonl.gz").write_bytes(outcomes)
    text = quote.evidence(tmp_path)
    assert 0 < text.index("docs/evidence/votes/") < text.index("docs/evidence/arguments/")


def test_what_stands_outside_the_marks_stays() -> None:
    readme = "before <!-- evidence: begin -->\nold\n<!-- evidence: end --> after"
    assert quote.between(readme, "evidence", "new") == (
        "before <!-- evidence: begin -->\nnew\n<!-- evidence: end --> after"
    )


def test_a_run_that_was_ended_early_is_quoted_as_such_and_apart(tmp_path: Path) -> None:
    machine = {"cpu": "one", "cores": 2, "memory_gib": 8, "device": "cpu"}
    whole = {"command": "python benchmarks/speed.py", "machine": machine, "versions": {"torch": "2"}}
    for number, more in enumerate(({}, {"ended_early": True}), 1):
        bars = [{"name": "share", "value": float(number), "at_least": 0.5, "holds": True}]
        (tmp_path / f"speed-cpu-{number}.json").write_text(json.dumps(whole | {"bars": bars} | more))
    lines = quote.table(tmp_path).split("\n")
    assert "| **`python benchmarks/speed.py`** | | | |" in lines
    assert "| **`python benchmarks/speed.py`** (ended early) | | | |" in lines
    assert sum("1 of 1" in line for line in lines) == 2
