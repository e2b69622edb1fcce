"""`mindprint batches watch`, on a terminal and elsewhere."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
from rich.console import Console


@pytest.fixture
def watched(server: Any, samples: Any, body: Any) -> Any:
    """Makes the server tell these states."""

    def tell(*states: dict[str, Any]) -> None:
        server.answers_with(httpx.Response(200, stream=body(*map(samples.event, states))))

    return tell


def test_lines_where_there_is_no_terminal(run: Any, watched: Any, samples: Any) -> None:
    tokens = {"generated_tokens": 420, "prompt_tokens": 800, "cached_tokens": 600}
    states = [("queued", 0), ("running", 1), ("running", 2), ("done", 4)]
    watched(*(samples.batch(state, done, **tokens) for state, done in states))
    result = run("batches", "watch", "b1")
    assert result.exit_code == 0
    first, last, *table = result.stdout.splitlines()
    assert first.startswith("queued: 0/4 engagements")
    assert first.endswith("time left unknown")
    assert last == (
        "done: 4/4 engagements, 6 candidates (2.0 each), 4 accepted (66.7 %), 42 tokens/s, 0.30 accepted/s, "
        "75.0 % of prompts cached"
    ), "a line now and then is enough"
    rows = [line.split() for line in table]
    assert ["rejected:", "loop", "2", "33.3", "%"] in rows
    assert ["prompt", "tokens", "cached", "75.0", "%"] in rows
    assert ["ran", "for", "10", "s"] in rows
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("width", [80, 140])
def test_live_on_a_terminal(run: Any, watched: Any, samples: Any, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    shown = io.StringIO()
    screen = Console(file=shown, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr("mindprint.cli.batch_progress.console", lambda: screen)
    evil = {"generated": 6, "rejected": {"[bold]\x07loop": 2}, "accepted": 1}
    watched(samples.batch("running", 1, generated_tokens=420, funnel=evil), samples.batch("done", 4))
    assert run("batches", "watch", "b1").exit_code == 0
    told = shown.getvalue()
    assert "4/4" in told
    assert "about 30 s" in told
    assert "rejected: [bold]\N{REPLACEMENT CHARACTER}loop" in told
    assert "\x07" not in told
    assert max(map(len, told.splitlines())) <= width * 2, "control sequences aside, no line is wider than the screen"


def test_json_is_a_state_a_line(run: Any, watched: Any, samples: Any) -> None:
    watched(samples.batch("running", 1), samples.batch("done", 4))
    lines = run("batches", "watch", "b1", "--json").stdout.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["running", "done"]


def test_starting_and_watching(run: Any, server: Any, samples: Any, body: Any) -> None:
    stream = httpx.Response(200, stream=body(samples.event(samples.batch("done", 4))))
    server.answers_with(httpx.Response(201, json=samples.batch("queued", 0)), stream)
    assert run("batches", "start", "-u", "ann", "-u", "bob", "--watch").stdout.startswith("done: 4/4")
    assert json.loads(server.asked[0].content)["users"] == ["ann", "bob"]


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ("failed", "batch b1 failed: the engine died"),
        ("cancelled", "batch b1 was cancelled after 2 of 4 engagements"),
    ],
)
def test_a_bad_end_is_a_failure(run: Any, watched: Any, samples: Any, state: str, line: str) -> None:
    watched(samples.batch(state, 2, error="the engine died"))
    result = run("batches", "watch", "b1")
    assert (result.exit_code, result.stderr) == (1, f"error: {line}\n")


def test_leaving_does_not_stop_the_batch(run: Any, server: Any, samples: Any, body: Any) -> None:
    class Impatient(body):  # type: ignore[misc]
        def __iter__(self) -> Any:
            yield samples.event(samples.batch())
            raise KeyboardInterrupt

    server.answers_with(httpx.Response(200, stream=Impatient()))
    result = run("batches", "watch", "b1")
    assert result.exit_code == 130
    assert result.stderr == "error: the batch goes on: `mindprint batches watch b1` follows it again\n"


def test_skipped_as_unlikely_is_reported_with_how_to_include_it(run: Any, watched: Any, samples: Any) -> None:
    left = {"no_history": 1, "rare_answer": 2, "prior_too_low": 3}
    watched(samples.batch("running", 1, skipped=left), samples.batch("done", 4, items=10, skipped=left))
    told = [line for line in run("batches", "watch", "b1").stdout.splitlines() if "--exhaustive" in line]
    assert told == ["left out as unlikely: 5 of 10; `mindprint batches start --exhaustive` tries them too"]
    watched(samples.batch("done", 4))
    assert "--exhaustive" not in run("batches", "watch", "b1").stdout


@pytest.mark.parametrize(("flags", "sent"), [((), None), (("--exhaustive",), True), (("--no-exhaustive",), False)])
def test_batch_may_be_exhaustive(
    run: Any, server: Any, samples: Any, flags: tuple[str, ...], sent: bool | None
) -> None:
    server.answers_with(httpx.Response(201, json=samples.batch("queued", 0)))
    assert run("batches", "start", *flags).exit_code == 0
    assert json.loads(server.asked[0].content).get("exhaustive") is sent


@pytest.mark.parametrize(
    ("flags", "sent"),
    [
        ((), {}),
        (("--unhinted", "0"), {"unhinted": 0}),
        (("--unhinted", "3", "--hints"), {"unhinted": 3, "hints": True}),
        (("--no-hints",), {"hints": False}),
    ],
)
def test_batch_sends_only_the_hint_options_that_are_given(
    run: Any, server: Any, samples: Any, flags: tuple[str, ...], sent: dict[str, Any]
) -> None:
    server.answers_with(httpx.Response(201, json=samples.batch("queued", 0)))
    assert run("batches", "start", *flags).exit_code == 0
    body = json.loads(server.asked[0].content)
    assert {name: value for name, value in body.items() if name in ("unhinted", "hints") and value is not None} == sent
