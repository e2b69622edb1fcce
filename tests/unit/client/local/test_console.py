from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from mindprint.local import console
from mindprint.local.console import Output, opened, training_progress


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.0)
    screen, copy = io.StringIO(), io.StringIO()
    out = Output(Console(file=screen, width=100), copy)
    out.say("[server,cpu] is no markup")
    with out.bar("traces", 3) as bar:
        bar.advance()
        bar.update(2, "[1] accepted")
        bar.finish("all done")
    assert copy.getvalue() == screen.getvalue()
    assert screen.getvalue().splitlines() == [
        "[server,cpu] is no markup",
        "traces: 1/3",
        "traces: 2/3 [1] accepted",
        "traces: all done (0 s)",
    ]


def test_a_terminal_has_a_bar_and_the_transcript_has_lines() -> None:
    screen, copy = io.StringIO(), io.StringIO()
    out = Output(Console(file=screen, width=100, force_terminal=True), copy)
    with out.bar("server") as bar:
        bar.update(0, "importing")
        bar.finish("ready")
    assert "\x1b[" in screen.getvalue()
    assert copy.getvalue() == "server: ready (0 s)\n"


def test_lines_do_not_come_too_often() -> None:
    screen = io.StringIO()
    with Output(Console(file=screen)).bar("traces", 1000) as bar:
        for _ in range(1000):
            bar.advance()
    assert screen.getvalue() == ""


def test_the_transcript_is_made_with_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(tmp_path / "runs" / "one.txt") as out:
        out.say("hello")
    assert (tmp_path / "runs" / "one.txt").read_text() == capsys.readouterr().out == "hello\n"


def test_what_the_trainer_does_in_few_words() -> None:
    event = "training adapter=user/u-0 fast_answer=1.2 seconds_left=3 step=2/5 tokens_per_second=210"
    assert training_progress(event) == "training user/u-0, step 2/5, 210 tokens/s"
    assert training_progress("leased adapter=user/u-0") == "leased adapter=user/u-0"
    assert training_progress("") == ""
