from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from demo_made import COLLAPSED, THINKS, UNSEEN, adapter, results, version
from mindprint_demo.options import DemoOptions
from mindprint_demo.report import find_problems, next_steps, result_tables, results_json
from mindprint_demo.results import DemoResults


def shown(made: DemoResults) -> str:
    console = Console(file=io.StringIO(), width=118)
    for table in result_tables(made):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line_of(text: str, *words: str) -> str:
    return next(line for line in text.splitlines() if all(word in line for word in words))


def test_what_was_made() -> None:
    text = shown(results())
    assert "v1" in line_of(text, "u-0", "8 wrong answer")
    assert "2 loop" in text
    assert "0.012 off trainer" in text
    assert "500" in line_of(text, "u-0", "passed")
    assert "none" in line_of(text, "u-1", "12 wrong answer")
    assert "900" in line_of(text, "all", "1 live")
    assert "123/s" in text


def test_what_changed() -> None:
    text = shown(results())
    line = line_of(text, "u-0", "0% to 100%")
    assert "-1.00 to -0.25" in line
    assert "+0.75 (+0.75 to +0.75)" in line
    assert "better" in line
    assert "100%" in line.rpartition("better")[2]
    assert "no adapter" in text
    assert "beyond chance" in text
    assert "answering directly" in text
    assert "after personal thinking" in text


def test_users_without_a_known_rule_have_no_column_for_it() -> None:
    made = results()
    assert "hidden" in shown(made)
    for user in made.users:
        user.held_out[:] = [type(h)(h.id, h.query, h.choices, h.target, h.asked_at) for h in user.held_out]
    assert "hidden" not in shown(made)


def test_chance_is_named_where_it_is_enough() -> None:
    made = results()
    rows = made.after.answers["u-0", "direct"]
    rows[:] = [type(a)(a.row, n % 2 == 0, -1.0 + (-1) ** n * 0.5, 1) for n, a in enumerate(rows)]
    assert "which chance alone can explain" in shown(made)


def test_without_any_adapter_the_report_says_so() -> None:
    made = results()
    made.after.answers.clear()
    assert "nothing can be said" in shown(made)


def test_the_end_counts_failures_and_traces() -> None:
    made = results(failed=3)
    made.before.failures.append("base direct u-0/e1: [red]busy[/red]")
    made.trainer_killed = "training step=1/4"
    text = shown(made)
    assert "failed requests: 3" in text
    assert "accepted traces: 2, trained in exactly one version: 2, dead: 0; none lost, none twice" in text
    assert "no answer: base direct u-0/e1: [red]busy[/red]" in text
    assert "killed while training step=1/4" in text
    assert "traces 12" in text


def test_another_profile_is_noted() -> None:
    made = results()
    rows = made.after.answers["u-0", "direct"]
    rows[0] = type(rows[0])(rows[0].row, True, -0.1, 2)
    assert "1 questions were answered with another profile" in shown(made)


def test_problems_decide_the_exit_code() -> None:
    assert find_problems(results()) == []
    assert find_problems(results(failed=1)) == ["1 requests failed"]
    made = results()
    made.adapters = {"u-0": adapter(version(["t1", "t2"], state="refused", passed=False))}
    assert find_problems(made) == ["user/u-0@1 was refused: its parity check failed", "no adapter is live"]


def test_refusal_by_the_gate_is_reported_and_is_no_failure() -> None:
    made = results()
    second = version(["t1"], 2, state="refused", checks=[COLLAPSED, UNSEEN])
    made.adapters["u-0"] = adapter(version(["t1", "t2"], checks=[THINKS]), second)
    made.adapters["u-1"] = adapter(version([], 1, "u-1", state="refused", checks=[COLLAPSED]))
    made.cohorts = [adapter(version(["t1"], 4, key="cohort/everyone", checks=[THINKS]))]
    text = shown(made)
    assert find_problems(made) == []
    assert "versions refused by the gate: 2" in text
    assert "user/u-0@2: collapse" in text
    assert "refused" in line_of(text, "u-1", "12 wrong answer")
    assert "0.050" in line_of(text, "collapse", "passed", "1 of 20 thinkings")
    assert "1.000" in line_of(text, "collapse", "FAILED", "the base [1]")
    assert "not judged" in line_of(text, "personal live", "2 engagements held out")
    assert line_of(text, "cohort/everyone@4", "parity", "passed")
    assert results_json(made)["rows"][0]["gate"][1]["checks"][1]["name"] == "collapse"
    assert results_json(made)["cohorts"][0]["version"] == "cohort/everyone@4"


def test_the_document_is_json() -> None:
    document = json.loads(json.dumps(results_json(results()), allow_nan=False))
    first, second = document["rows"]
    assert first["scores"]["direct"]["logprob"] == {"before": -1.0, "after": -0.25, "low": 0.75, "high": 0.75}
    assert (first["version"], first["parity"]["passed"]) == (1, True)
    assert (second["version"], second["scores"]["direct"]) == (None, None)
    assert document["batch"]["tokens_per_second"] == 123.4
    assert document["accounting"] == {"accepted": 2, "trained": 2, "dead": 0, "in_cohorts": 0, "problems": []}


def test_the_end_says_how_to_serve_these_users() -> None:
    said = next_steps(DemoOptions(model="org/name"), results(), Path("runs/run 1"))
    assert "mindprint serve --data-dir 'runs/run 1/server' --model org/name" in said
    assert "mindprint chat --model user/u-0" in said
    assert "--model default" not in next_steps(DemoOptions(), results(), Path("r"))
