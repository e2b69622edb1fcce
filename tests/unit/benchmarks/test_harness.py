from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from mindprint.local.console import Output
from support import environment
from support.harness import Bar, CannotMeasure, Report, Spread, alternate, format_number, measure, spread


def report() -> Report:
    made = Report("speed", "python benchmarks/speed.py --quick")
    made.row(side="planned", seconds=spread([3.0, 1.0, 2.0]), prompts=12)
    made.row(side="random", seconds=spread([4.0, 6.0]), prompts=None)
    made.bar("planned over random", 0.4, at_most=0.5)
    made.bar("share", 0.4, at_least=0.5)
    return made


def text(made: Report) -> str:
    console = Console(width=118, file=StringIO(), record=True)
    for table in made.tables():
        console.print(table)
    return console.export_text()


def test_a_spread_holds_median_and_ends() -> None:
    assert spread(iter([5.0, 1.0, 2.0])) == Spread(2.0, 1.0, 5.0)
    assert spread([7]) == Spread(7, 7, 7)


@pytest.mark.parametrize(
    ("value", "shown"), [(12345, "12,345"), (7, "7"), (1234.5, "1,234"), (99.96, "100"), (0.12345, "0.123"), (2.0, "2")]
)
def test_numbers_have_three_figures(value: float, shown: str) -> None:
    assert format_number(value) == shown


def test_a_bar_is_met_at_its_bound() -> None:
    assert Bar("b", 1.1, at_most=1.1).holds
    assert not Bar("b", 1.11, at_most=1.1).holds
    assert Bar("b", 0.9, at_least=0.9).holds
    assert not Bar("b", 0.89, at_least=0.9).holds


@pytest.mark.parametrize("bounds", [{}, {"at_least": 1.0, "at_most": 2.0}])
def test_a_bar_has_one_bound(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="takes either"):
        Bar("b", 1.0, **bounds)


def test_the_file_has_all_of_the_report(tmp_path: Path) -> None:
    path = tmp_path / "new" / "speed.json"
    report().write(path)
    read = json.loads(path.read_text())
    assert list(read) == ["name", "command", "machine", "versions", "rows", "bars"]
    assert read["rows"][0] == {"side": "planned", "seconds": {"median": 2.0, "min": 1.0, "max": 3.0}, "prompts": 12}
    assert read["bars"] == [
        {"name": "planned over random", "value": 0.4, "at_most": 0.5, "holds": True},
        {"name": "share", "value": 0.4, "at_least": 0.5, "holds": False},
    ]
    assert {"cpu", "cores", "memory_gib", "device"} <= read["machine"].keys()
    assert {"python", "mindprint"} <= read["versions"].keys()


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    path.write_text("old")
    broken = report()
    broken.row(seconds=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        broken.write(path)
    assert [file.name for file in tmp_path.iterdir()] == ["speed.json"]
    assert path.read_text() == "old"


def test_rows_of_other_columns_are_another_table() -> None:
    made = report()
    made.row(tenth=1, rss_mib=104.2)
    shown = text(made)
    assert len(made.tables()) == 3
    assert "2 (1..3)" in shown
    assert "rss mib" in shown
    assert "at most 0.5" in shown
    assert "NO" in shown


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["/there/x.py", "--quick"], "python benchmarks/x.py --quick"),
        (["benchmarks/x.py", "--json", "/home/ann/x.json", "--users", "2,4"], "python benchmarks/x.py --users 2,4"),
        (["x.py", "--json=out/x.json", "--data", "../data"], "python benchmarks/x.py --data ../data"),
        (["x.py", "--data", "/home/ann/data", "--model=/m/tiny"], "python benchmarks/x.py --data data --model=tiny"),
    ],
)
def test_command_shows_no_path_of_this_machine(given: list[str], told: str) -> None:
    assert environment.command(given) == told


def test_a_path_is_shown_as_given_or_by_name() -> None:
    assert environment.shareable_path(Path("../shared/data")) == "../shared/data"
    assert environment.shareable_path(Path("/home/ann/data")) == "data"


def sides(ran: list[str]) -> dict[str, Callable[[], Awaitable[int]]]:
    def side(name: str) -> Callable[[], Awaitable[int]]:
        async def run() -> int:
            ran.append(name)
            return len(ran)

        return run

    return {name: side(name) for name in "abc"}


async def test_sides_take_turns_in_an_order_that_turns_round() -> None:
    ran: list[str] = []
    told: list[str] = []
    results = await alternate(sides(ran), 3, warm_up=False, tell=told.append)
    assert "".join(ran) == "abccbaabc"
    assert results == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}
    assert told[0] == "a, round 1 of 3"


async def test_the_warm_up_is_not_counted() -> None:
    ran: list[str] = []
    results = await alternate(sides(ran), 1)
    assert len(ran) == 6
    assert results == {"a": [4], "b": [5], "c": [6]}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "results" / "speed.json"
    monkeypatch.setattr(sys, "argv", ["/there/benchmarks/speed.py", "--json", str(path)])
    return path


def test_a_script_says_what_it_does_and_writes_what_it_found(called: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def work(out: Output, made: Report) -> None:
        out.say("at work")
        made.bar("share", 0.4, at_least=0.5)

    measure("How fast is it?\n\n    By a clock.", "a second", called, work)
    said = capsys.readouterr().out
    assert said.index("How fast") < said.index("By a clock") < said.index("a second") < said.index("at work")
    assert "at least 0.5" in said
    read: dict[str, Any] = json.loads(called.read_text())
    assert read["name"] == "speed"
    assert read["command"] == "python benchmarks/speed.py"
    assert str(called.parent) not in called.read_text()


def test_what_could_not_be_measured_ends_with_1(called: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def work(out: Output, made: Report) -> None:
        raise CannotMeasure("no engine here")

    with pytest.raises(typer.Exit) as ended:
        measure("What?", "a second", called, work)
    assert ended.value.exit_code == 1
    assert "could not measure: no engine here" in capsys.readouterr().out
    assert not called.exists()


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_who_ends_a_script_gets_what_was_measured_until_then(
    called: Path, capsys: pytest.CaptureFixture[str], told: signal.Signals
) -> None:
    closed = False

    async def work(out: Output, made: Report) -> None:
        nonlocal closed
        made.row(side="first", seconds=1.0)
        made.bar("first", 1.0, at_most=2.0)
        os.kill(os.getpid(), told)
        try:
            await asyncio.sleep(60)
        finally:
            closed = True
        made.row(side="second", seconds=2.0)

    with pytest.raises(typer.Exit) as ended:
        measure("What?", "a minute", called, work)
    assert ended.value.exit_code == 1
    assert closed, "its engines end with it"
    assert "ended before it was done; until then:" in capsys.readouterr().out
    read: dict[str, Any] = json.loads(called.read_text())
    assert read["ended_early"] is True
    assert [row["side"] for row in read["rows"]] == ["first"]
    assert [bar["name"] for bar in read["bars"]] == ["first"]


def test_who_ends_a_script_before_it_measured_gets_no_file(called: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def work(out: Output, made: Report) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)

    with pytest.raises(typer.Exit):
        measure("What?", "a minute", called, work)
    assert "nothing had been measured" in capsys.readouterr().out
    assert not called.exists()
