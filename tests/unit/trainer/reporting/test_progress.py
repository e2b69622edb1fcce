from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console
from structlog.testing import capture_logs

from mindprint.types import Manifest, ParityItem
from mindprint_trainer.reporting.progress import (
    LeaseOutcome,
    LogReporter,
    TerminalReporter,
    create_reporter,
    outcome_table,
)
from mindprint_trainer.training.run import StepReport

MANIFEST = Manifest(
    adapter="user/anna",
    base_digest="sha256:0",
    weights_sha256="0" * 64,
    trace_ids=["a"],
    samples={"slow": 2, "fast": 3, "cut": 1, "dropped": 0},
    settings={},
    losses={"fast_answer_first": 3.0, "fast_answer_last": 1.0},
    tokens=500,
    seconds=2.0,
    trainer="test",
    parity_items=[ParityItem(prompt_ids=[1], target_ids=[2, 3], logprobs=[-1, -2], base_logprobs=[-2, -4])],
)


def report(step: int) -> StepReport:
    return StepReport("user/anna", step, 4, 100 * step, 400, 0.5 * step, {"fast_answer": 1.25})


def test_there_is_a_bar_on_a_terminal_and_lines_elsewhere() -> None:
    assert isinstance(create_reporter(Console(file=io.StringIO(), force_terminal=True), 5), TerminalReporter)
    assert isinstance(create_reporter(Console(file=io.StringIO()), 5), LogReporter)


def test_lines_come_now_and_then_and_at_the_end() -> None:
    view = LogReporter(every_s=3600)
    with capture_logs() as lines, view.live():
        for step in range(1, 5):
            view.step(report(step))
        view.event("version 1", adapter="user/anna")
    assert [line.get("step") for line in lines] == ["1/4", "4/4", None]
    assert lines[0]["tokens_per_second"] == 200
    assert lines[0]["seconds_left"] == 2
    assert lines[0]["fast_answer"] == 1.25
    assert lines[2] == {"event": "version 1", "adapter": "user/anna", "log_level": "info"}


def test_the_bar_shows_loss_and_speed() -> None:
    out = io.StringIO()
    view = TerminalReporter(Console(file=out, force_terminal=True, width=120))
    with view.live():
        for step in range(1, 5):
            view.step(report(step))
        view.event("version 1", adapter="user/anna")
    assert "user/anna" in out.getvalue()
    assert "fast_answer 1.25  200 tokens/s" in out.getvalue()
    assert "version 1  adapter=user/anna" in out.getvalue()


def test_the_table_has_a_line_for_each_lease() -> None:
    out = io.StringIO()
    outcomes = [LeaseOutcome("user/anna", 1, "version 1", MANIFEST), LeaseOutcome("user/ben", 7, "the lease was lost")]
    Console(file=out, width=140).print(outcome_table(outcomes))
    anna = next(line for line in out.getvalue().splitlines() if "user/anna" in line)
    assert [cell.strip() for cell in anna.strip("│").split("│")] == [
        "user/anna",
        "version 1",
        "1",
        "5",
        "fast_answer 3.00 to 1.00",
        "250",
        "1.50",
    ]
    assert "the lease was lost" in out.getvalue()
    assert "parity shift" in out.getvalue()


def test_trainings_side_by_side_have_lines_and_bars_of_their_own() -> None:
    other = replace(report(1), adapter="user/ben", lease_id="b")
    view, out = LogReporter(every_s=3600), io.StringIO()
    bars = TerminalReporter(Console(file=out, force_terminal=True, width=120))
    with capture_logs() as lines, bars.live():
        for one in (report(1), other, report(2), replace(other, step=2)):
            view.step(one)
            bars.step(one)
    assert [line["adapter"] for line in lines] == ["user/anna", "user/ben"]
    assert "user/anna" in out.getvalue()
    assert "user/ben" in out.getvalue()


def test_speed_and_time_left_count_from_where_a_training_was_taken_up() -> None:
    with capture_logs() as lines:
        LogReporter(every_s=0).step(replace(report(3), seconds=1.0, resumed_tokens=200))
    assert lines[0]["tokens_per_second"] == 100
    assert lines[0]["seconds_left"] == 1
