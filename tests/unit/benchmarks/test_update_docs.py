"""README and docs quote what benchmarks/results/ and docs/evidence/ hold, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import update_docs

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


def test_readme_and_docs_quote_the_results_that_are_kept() -> None:
    assert update_docs.stale(update_docs.pages()) == [], "run python benchmarks/update_docs.py"


def test_the_five_ratios_of_readme_show_every_kept_run(tmp_path: Path) -> None:
    for prefix, name, _ in update_docs.RATIOS:
        for number in (1, 2):
            bars = [{"name": f"{name}, and more", "value": float(number), "at_least": 1.5, "holds": number == 2}]
            (tmp_path / f"{prefix}-{number}.json").write_text(json.dumps({"bars": bars}))
    lines = update_docs.ratios(tmp_path).split("\n")
    assert len(lines) == 2 + 5
    assert all(line.endswith("| 1, 2 | ≥ 1.5 | 1 of 2 |") for line in lines[2:])


def test_of_an_evaluation_it_quotes_sample_claims_and_arms(tmp_path: Path) -> None:
    (tmp_path / "votes" / "figures").mkdir(parents=True)
    (tmp_path / "votes" / "report.md").write_text(REPORT)
    (tmp_path / "votes" / "figures" / "collapse.svg").write_text("<svg/>")
    (tmp_path / "votes" / "outcomes.jsonl.gz").write_bytes(b"many of them")
    (tmp_path / "tuning" / "tuning-votes").mkdir(parents=True)
    (tmp_path / "tuning" / "tuning-votes" / "report.md").write_text(REPORT)
    assert update_docs.evidence(tmp_path).rstrip().split("\n\n")[2:] == [
        "## [votes](votes/report.md)",
        "4 users were put 80 questions.",
        "### Claims",
        "| claim | the tables say |\n|---|---|\n| A6 collapses | held |",
        "### Arms",
        "| arm | accuracy, % |\n|---|---:|\n| A0 | 40.0 |",
        "![Accuracy against collapse, votes](votes/figures/collapse.svg)",
    ]


def test_the_evaluation_with_the_most_outcomes_comes_first(tmp_path: Path) -> None:
    for name, outcomes in (("arguments", b"few"), ("votes", b"many of them")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.md").write_text(REPORT)
        (tmp_path / name / "outcomes.jsonl.gz").write_bytes(outcomes)
    text = update_docs.evidence(tmp_path)
    assert 0 < text.index("(votes/") < text.index("(arguments/")


def test_what_stands_outside_the_marks_stays() -> None:
    readme = "before <!-- evidence: begin -->\nold\n<!-- evidence: end --> after"
    assert update_docs.between(readme, "evidence", "new") == (
        "before <!-- evidence: begin -->\nnew\n<!-- evidence: end --> after"
    )


def test_a_run_that_was_ended_early_is_quoted_as_such_and_apart(tmp_path: Path) -> None:
    machine = {"cpu": "one", "cores": 2, "memory_gib": 8, "device": "cpu"}
    whole = {"command": "python benchmarks/speed.py", "machine": machine, "versions": {"torch": "2"}}
    for number, more in enumerate(({}, {"ended_early": True}), 1):
        bars = [{"name": "share", "value": float(number), "at_least": 0.5, "holds": True}]
        (tmp_path / f"speed-cpu-{number}.json").write_text(json.dumps(whole | {"bars": bars} | more))
    lines = update_docs.table(tmp_path).split("\n")
    assert "| **`python benchmarks/speed.py`** | | | |" in lines
    assert "| **`python benchmarks/speed.py`** (ended early) | | | |" in lines
    assert sum("1 of 1" in line for line in lines) == 2
