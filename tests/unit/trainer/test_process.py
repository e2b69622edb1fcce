from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mindprint_trainer import process
from mindprint_trainer.errors import Stopped
from mindprint_trainer.settings import Settings


@pytest.fixture(autouse=True)
def wired(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "create_client", lambda settings, once_s=None: server.client())


def test_once_works_the_queue_off_and_shows_a_table(
    server: Any, settings: Settings, lease_of: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server.queue = [lease_of()]
    assert process.run(settings) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "training" in shown.err
    assert "user/anna" in shown.err
    assert "version 1" in shown.err
    assert len(server.completed) == 1


def test_another_base_is_refused_in_one_line(
    server: Any, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    server.info = server.info.model_copy(update={"base_digest": "sha256:feed"})
    assert process.run(settings) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the server's base model is sha256:feed, the trainer's sha256:")
    assert line.endswith("start `mindprint train` with the --model that `mindprint serve` runs")
    assert server.claims == []


def test_a_missing_model_is_one_line(settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert process.run(settings.model_copy(update={"model": str(tmp_path)})) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: model ")


def test_a_server_that_does_not_come_up_is_one_line(
    server: Any, settings: Settings, refusal: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["readyz"] = refusal(503, "starting")
    assert process.run(settings) == 1
    assert "start one with `mindprint serve`" in capsys.readouterr().err.splitlines()[-1]


def test_loss_that_is_not_a_number_is_reported(
    server: Any, settings: Settings, lease_of: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server.queue = [lease_of()]
    assert process.run(settings.model_copy(update={"learning_rate": 1e30})) == 1
    assert "not finite" in capsys.readouterr().err.splitlines()[-1]
    assert server.released == []


def test_a_dry_run_shows_what_would_be_trained_on(
    server: Any, settings: Settings, lease_of: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server.queue = [lease_of(held_out={"anna": ["e8", "e9"]})]
    assert process.run(settings.model_copy(update={"dry_run": True})) == 0
    shown = capsys.readouterr().err
    assert "what user/anna would be trained on" in shown
    assert "held out for the gate: 2 engagements of 1 users" in shown
    assert (server.released, server.completed, len(server.claims)) == (["lease-anna"], [], 1)
    assert process.run(settings.model_copy(update={"dry_run": True})) == 0
    assert "nothing to train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"min_traces": 8}, "fewer than 8 accepted traces wait for any adapter (`--set min_traces=N` takes fewer)"),
        ({"min_traces": 1}, "no accepted trace waits for any adapter"),
        ({"min_traces": 1, "adapter": ("user/ann", "user/ben")}, "no accepted trace waits for user/ann or user/ben"),
    ],
)
def test_nothing_to_train_is_explained(
    server: Any, settings: Settings, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], told: str
) -> None:
    assert process.run(settings.model_copy(update=changes)) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert f"nothing to train: {told}" in shown
    assert {claim["min_traces"] for claim in server.claims} == {changes["min_traces"]}


def test_logger_that_is_not_installed_is_one_line(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert process.run(settings.model_copy(update={"wandb_project": "p"})) == 1
    assert "needs wandb, which is not installed" in capsys.readouterr().err.splitlines()[-1]


# A signal that arrives in a callback of the garbage collector raises where Python swallows it, with a warning;
# the check raises it again at the next step, which this test sees in both cases.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_releases_the_lease_and_ends_promptly(
    server: Any, settings: Settings, lease_of: Any, number: signal.Signals
) -> None:
    server.queue = [lease_of()]
    before = signal.getsignal(number)

    def when_training() -> None:
        while not server.beats:
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=when_training)
    thread.start()
    started = time.monotonic()
    assert process.run(settings.model_copy(update={"epochs": 5000, "ttl_s": 0.3})) == 128 + number
    thread.join()
    assert time.monotonic() - started < 10
    assert server.released == ["lease-anna"]
    assert server.completed == []
    assert signal.getsignal(number) is before


def test_a_swallowed_signal_is_raised_again_by_the_check() -> None:
    with process.stop_on_signals() as check:
        check()
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # the second does not disturb the cleaning up
        with pytest.raises(Stopped, match="signal 15"):
            check()


def test_brief_clients_take_no_longer_than_asked(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.undo()
    asked = settings.model_copy(update={"server": "http://127.0.0.1:9"})
    with process.create_client(asked, 4.0) as brief, process.create_client(asked) as usual:
        assert brief._timeouts.connect_s + brief._timeouts.read_s == 4.0
        assert brief._retries.attempts == 1
        assert usual._retries.attempts > 1
