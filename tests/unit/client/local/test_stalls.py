"""`mindprint.local.stalls`"""

from __future__ import annotations

from pathlib import Path

import pytest

from mindprint.local.stalls import MAX_CHECK_S, Progress


def test_progress_stalls_only_while_nothing_moves_and_the_server_checks_nothing() -> None:
    now = 0.0
    progress = Progress(60, clock=lambda: now)
    progress.note("training step=1/9")
    now = 60.0
    assert not progress.is_stalled("training step=1/9")
    progress.note("training step=2/9")
    now = 120.0
    assert not progress.is_stalled("training step=2/9")
    now = 121.0
    assert progress.is_stalled("training step=2/9")
    for doing in ("uploaded: the server checks it adapter=user/ann", "check: the gate evaluates it adapter=user/ann"):
        progress.note(doing)
        now += 36_000
        assert not progress.is_stalled(doing)


@pytest.mark.parametrize("doing", ["uploaded: the server checks it", "check: parity of engine and trainer"])
def test_check_that_says_nothing_new_for_a_day_has_stalled(doing: str) -> None:
    now = 0.0
    progress = Progress(60, clock=lambda: now)
    progress.note(doing)
    now = MAX_CHECK_S
    assert not progress.is_stalled(doing)
    now += 1
    assert progress.is_stalled(doing)
    said = progress.explain(doing, Path("trainer.log"), Path("server.log"))
    assert said == f"no progress for 86400 s (last: {doing}): the cause is in server.log"


@pytest.mark.parametrize(
    ("doing", "log"), [("the server is away: waiting for it", "server.log"), ("training step=1/9", "trainer.log")]
)
def test_progress_names_the_log_that_has_the_cause(doing: str, log: str) -> None:
    said = Progress(60).explain(doing, Path("trainer.log"), Path("server.log"))
    assert said == f"no progress for 60 s (last: {doing}): the cause is in {log}"
