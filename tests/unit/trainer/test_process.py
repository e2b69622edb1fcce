from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from mindprint_trainer import forward_check, process
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
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: the server's base model is sha256:feed, the trainer's sha256:")
    assert line.endswith("start `mindprint train` with the --model that `mindprint serve` runs")
    assert server.claims == []


def test_model_whose_forward_differs_on_every_path_is_refused_before_a_lease_is_claimed(
    server: Any, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_check, "measure_path", lambda *_: 0.84)
    assert process.run(settings) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: the trainer's log-probabilities of llama differ from the model's own by 0.84 nats")
    assert server.claims == []


def test_layers_that_the_model_lacks_are_refused_or_told(
    server: Any, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = server.info.limits.model_copy(update={"target_modules": ["q_proj", "qkv_proj"]})
    server.info = server.info.model_copy(update={"limits": limits})
    assert process.run(settings) == 0
    told = capsys.readouterr().err
    assert "the model lacks layers" in told
    assert "lacks=qkv_proj" in told
    assert process.run(settings.model_copy(update={"target_modules": ("qkv_proj",)})) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: the model has no layers qkv_proj, it has down_proj, gate_proj, k_proj, o_proj,")


def test_a_missing_model_is_one_line(settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert process.run(settings.model_copy(update={"model": str(tmp_path)})) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: model ")


def unreachable() -> httpx.Response:
    raise httpx.ConnectError("connection refused")


def test_a_server_that_does_not_come_up_is_one_line(
    server: Any, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers |= {"readyz": unreachable, "info": unreachable}
    assert process.run(settings) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: no server answered at ")
    assert "start one with `mindprint serve`" in line


@pytest.mark.parametrize("code", [None, "engine_dead"])
def test_server_that_answers_but_is_not_ready_is_another_line(
    server: Any, settings: Settings, refusal: Any, capsys: pytest.CaptureFixture[str], code: str | None
) -> None:
    server.answers["readyz"] = refusal(503, "not_ready")
    if code is not None:
        server.answers["info"] = refusal(503, code)
    assert process.run(settings) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "answers, but was not ready within" in line
    assert "start one with" not in line


def test_server_that_is_starting_is_waited_for_beyond_the_bound(
    server: Any, settings: Settings, refusal: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "READY_EVERY_S", 0.001)
    starting, asked = refusal(503, "engine_starting"), []

    def ask() -> httpx.Response:
        asked.append(time.monotonic())
        if len(asked) == 5:
            server.answers.clear()
        answer: httpx.Response = starting()
        return answer

    server.answers |= {"readyz": starting, "info": ask}
    assert process.run(settings.model_copy(update={"startup_wait_s": 0})) == 0
    assert len(asked) == 5
    shown = capsys.readouterr().err
    assert shown.count("the server is starting: waiting for it") == 1
    assert "nothing to train" in shown


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


def test_stop_says_which_trainings_go_on_and_which_begin_again() -> None:
    worker: Any = SimpleNamespace(outcomes=[], handed_over=0, given_back=2, resumes_at={"user/anna": 15, "user/ben": 0})
    told = process.describe_stop(signal.SIGINT, worker)
    assert told.endswith("(user/anna goes on from step 15, user/ben begins again: it has no checkpoint)")
    worker.resumes_at = {}
    assert process.describe_stop(signal.SIGINT, worker).endswith("given back: 2")


# A signal that arrives in a callback of the garbage collector raises where Python swallows it, with a warning;
# the check raises it again at the next step, which this test sees in both cases.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_releases_the_lease_and_ends_promptly(
    server: Any, settings: Settings, lease_of: Any, number: signal.Signals, capsys: pytest.CaptureFixture[str]
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
    said = f"stopped by {number.name}: leases done: 0, uploads that the server goes on to check: 0, given back: 1"
    assert capsys.readouterr().err.splitlines()[-1].startswith(said)
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


def test_start_says_what_it_waits_for_before_torch_is_loaded() -> None:
    """Torch takes many seconds to load on a busy machine."""
    code = (
        "import sys\n"
        "from mindprint_trainer import process\n"
        "from mindprint_trainer.settings import Settings\n"
        "process.run(Settings(server='http://127.0.0.1:9', startup_wait_s=0))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False"]
    assert "waiting for the server" in done.stderr.splitlines()[0]
    assert "url=http://127.0.0.1:9" in done.stderr.splitlines()[0]


def test_server_that_restarts_between_ready_and_info_is_waited_for(
    server: Any, settings: Settings, lease_of: Any, refusal: Any
) -> None:
    server.queue = [lease_of()]

    def once() -> Any:
        del server.answers["info"]
        return refusal(503, "starting")()

    server.answers["info"] = once
    assert process.run(settings.model_copy(update={"startup_wait_s": 60})) == 0
    assert len(server.completed) == 1
