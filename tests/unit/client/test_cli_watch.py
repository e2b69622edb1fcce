"""`mindprint batches watch`, on a terminal and elsewhere."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
from rich.console import Console

from mindprint.cli.watching import funnel_rows
from mindprint.types import Batch


@pytest.fixture
def watched(server: Any, samples: Any, body: Any) -> Any:
    """Makes the server tell these states."""

    def tell(*states: dict[str, Any]) -> None:
        server.answers_with(httpx.Response(200, stream=body(*map(samples.event, states))))

    return tell


def test_the_funnel_is_told_in_the_order_of_the_way(samples: Any) -> None:
    batch = Batch.model_validate(samples.batch())
    assert funnel_rows(batch) == [
        ("attempted", 3),
        ("  skipped: no_history", 1),
        ("generated", 6),
        ("  rejected: loop", 2),
        ("accepted", 1),
        ("trained", 0),
        ("live", 0),
    ]


def test_lines_where_there_is_no_terminal(run: Any, watched: Any, samples: Any) -> None:
    watched(samples.batch("running", 1), samples.batch("running", 2), samples.batch("done", 4))
    result = run("batches", "watch", "b1")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "running: 1/4 engagements, 6 candidates, 1 accepted, 42 tokens/s"
    assert lines[1] == "done: 4/4 engagements, 6 candidates, 4 accepted, 42 tokens/s", "a line now and then is enough"
    assert "rejected: loop" in result.stdout


def test_live_on_a_terminal(run: Any, watched: Any, samples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    screen = Console(file=shown, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr("mindprint.cli.watching.console", lambda: screen)
    watched(samples.batch("running", 1), samples.batch("done", 4))
    assert run("batches", "watch", "b1").exit_code == 0
    assert "4/4" in shown.getvalue()
    assert "42 tokens/s" in shown.getvalue()
    assert "rejected: loop" in shown.getvalue()


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
