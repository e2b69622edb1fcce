from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from mindprint.types import Lease, Start
from mindprint_trainer import checkpoints
from mindprint_trainer.checkpoints import FAILED, SUFFIX, Checkpoints, task_key
from mindprint_trainer.errors import NotFinite
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.reporting.progress import LogReporter
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.multi_adapter import (
    Callbacks,
    TrainedAdapter,
    TrainingJob,
    train_adapter,
    train_in_shared_passes,
)


class Killed(BaseException):
    pass


@pytest.fixture
def asked(settings: Settings) -> Settings:
    """With dropout, so that the random state counts; six steps, a checkpoint after every second."""
    return settings.model_copy(update={"dropout": 0.2, "epochs": 2, "checkpoint_every_steps": 2})


def kept(settings: Settings, lease: Lease) -> Checkpoints:
    return Checkpoints(settings.work_dir, task_key(lease, settings))


def once(base: Base, settings: Settings, lease: Lease, callbacks: Callbacks = Callbacks()) -> TrainedAdapter:
    ((_, result),) = train_in_shared_passes(
        base, [TrainingJob(lease, checkpoints=kept(settings, lease))], settings, callbacks
    )
    if isinstance(result, Exception):
        raise result
    return result


def test_a_crash_anywhere_gives_the_same_bits(base: Base, asked: Settings, lease_of: Any) -> None:
    lease = lease_of()
    whole = train_adapter(base, lease, asked)
    seen = 0
    for at in range(1, 100):
        calls = 0

        def crash(*_: Any, at: int = at) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                raise Killed

        kept(asked, lease).drop()
        try:
            once(base, asked, lease, Callbacks(raise_if_stopped=crash, on_step=crash))
        except Killed:
            seen += 1
        else:
            break
        resumed = once(base, asked, lease)
        assert resumed.files.weights == whole.files.weights
        assert resumed.manifest.losses == whole.manifest.losses
        assert resumed.manifest.parity_items == whole.manifest.parity_items
        assert resumed.manifest.tokens == whole.manifest.tokens
    assert seen > 12


def test_crash_after_crash_gives_the_same_bits(base: Base, asked: Settings, lease_of: Any) -> None:
    steps: list[int] = []

    def crash(report: Any) -> None:
        steps.append(report.step)
        if report.step in (2, 4) and steps.count(report.step) == 1:
            raise Killed

    often = asked.model_copy(update={"checkpoint_every_steps": 1})
    for _ in range(2):
        with pytest.raises(Killed):
            once(base, often, lease_of(), Callbacks(on_step=crash))
    made = once(base, often, lease_of(), Callbacks(on_step=crash))
    assert steps == [1, 2, 2, 3, 4, 4, 5, 6]
    assert made.files.weights == train_adapter(base, lease_of(), asked).files.weights


def test_a_crash_while_it_is_written_leaves_the_one_before(
    base: Base, asked: Settings, lease_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0

    def torn(_: int) -> None:
        nonlocal writes
        writes += 1
        if writes == 2:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", torn)
        with pytest.raises(Killed):
            once(base, asked, lease_of())
    state = kept(asked, lease_of()).load()
    assert state is not None
    assert state["position"] == 2
    assert once(base, asked, lease_of()).files.weights == train_adapter(base, lease_of(), asked).files.weights
    assert [file.suffix for file in asked.work_dir.iterdir()] == [SUFFIX]


CHILD = """
import sys
from pathlib import Path
from mindprint.types import Lease
from mindprint_trainer.model.base_model import load_base_model
from mindprint_trainer.checkpoints import Checkpoints, task_key
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.multi_adapter import Callbacks, TrainingJob, train_in_shared_passes

model, folder = map(Path, sys.argv[1:])
settings = Settings.model_validate_json((folder / "settings.json").read_text())
lease = Lease.model_validate_json((folder / "lease.json").read_text())
kept = Checkpoints(settings.work_dir, task_key(lease, settings))

def told(report):
    print("step", report.step, flush=True)
    sys.stdin.readline()  # goes on when it is told to, or left alone

base = load_base_model(model, lease.base_digest, settings)
job = TrainingJob(lease, checkpoints=kept)
((_, made),) = train_in_shared_passes(base, [job], settings, Callbacks(on_step=told))
made.files.write(folder / "made")
"""


def test_kill_9_at_random_moments_gives_the_same_bits(
    base: Base, asked: Settings, lease_of: Any, model_path: Path, tmp_path: Path
) -> None:
    lease = lease_of()
    (tmp_path / "settings.json").write_text(asked.model_dump_json())
    (tmp_path / "lease.json").write_text(lease.model_dump_json())
    dice = random.Random(11)
    killed = 0
    for _ in range(20):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(model_path), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        if killed < 3:
            # Step by step, so that however late the signal comes it does not find the training done.
            for _ in range(dice.randint(1, 2)):
                child.stdout.readline()
                child.stdin.write("\n")
                child.stdin.flush()
            time.sleep(dice.uniform(0, 0.05))
            child.send_signal(signal.SIGKILL)
        child.stdin.close()
        child.stdout.read()
        child.stdout.close()
        if child.wait() == 0:
            break
        killed += 1
        assert child.returncode == -signal.SIGKILL
    assert killed >= 2
    made = (tmp_path / "made" / "adapter_model.safetensors").read_bytes()
    assert made == train_adapter(base, lease, asked).files.weights


def test_the_key_is_the_task_and_not_the_lease(asked: Settings, lease_of: Any) -> None:
    key = task_key(lease_of(), asked)
    assert key == task_key(lease_of(id="other", attempt=5, owner="you", trace_ids=["x"]), asked)
    assert key == task_key(lease_of(), asked.model_copy(update={"work_dir": Path("x"), "threads": 7}))
    start = Start(adapter="cohort/all", version=1, digest="sha256:1")
    fewer = lease_of()
    fewer.samples = fewer.samples[1:]
    others = [
        task_key(lease_of("ben"), asked),
        task_key(fewer, asked),
        task_key(lease_of(start=start), asked),
        task_key(lease_of(base_digest="sha256:2"), asked),
        task_key(lease_of(), asked.model_copy(update={"learning_rate": 1.0})),
        task_key(lease_of(), asked.model_copy(update={"target_modules": ("q_proj",)})),
    ]
    assert len({key, *others}) == 7


def test_under_another_seed_it_begins_anew(base: Base, asked: Settings, lease_of: Any) -> None:
    lease = lease_of()
    once(base, asked, lease)
    steps: list[int] = []
    job = TrainingJob(lease, tries=1, checkpoints=kept(asked, lease))
    ((_, result),) = train_in_shared_passes(
        base, [job], asked, Callbacks(on_step=lambda report: steps.append(report.step))
    )
    assert steps[0] == 1
    assert isinstance(result, TrainedAdapter)
    assert result.files.weights != train_adapter(base, lease, asked).files.weights


def test_a_damaged_one_is_as_good_as_none(base: Base, asked: Settings, lease_of: Any) -> None:
    lease = lease_of()
    asked.work_dir.mkdir()
    kept(asked, lease).path.write_bytes(b"torn")
    assert kept(asked, lease).load() is None
    assert once(base, asked, lease).files.weights == train_adapter(base, lease, asked).files.weights


def test_on_a_full_disk_the_training_goes_on_without(
    base: Base, asked: Settings, lease_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with capture_logs() as lines:
        made = once(base, asked, lease_of(), Callbacks(on_event=LogReporter(1).event))
    assert made.files.weights == train_adapter(base, lease_of(), asked).files.weights
    (line,) = lines
    assert line["event"] == "goes on without checkpoints"
    assert "No space left on device" in line["error"]
    assert list(asked.work_dir.iterdir()) == []


def test_torch_hiding_what_the_disk_said_is_a_full_disk_too(
    asked: Settings, lease_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="PytorchStreamWriter failed"):
        kept(asked, lease_of()).save({})
    assert list(asked.work_dir.iterdir()) == []


def test_after_a_bad_end_the_last_good_one_is_kept_aside_and_counted(
    base: Base, asked: Settings, lease_of: Any
) -> None:
    lease, wild = lease_of(), asked.model_copy(update={"learning_rate": 1e30, "checkpoint_every_steps": 1})
    mine = kept(wild, lease)
    for failures in (1, 2):
        with pytest.raises(NotFinite, match="its last good checkpoint is kept in"):
            once(base, wild, lease)
        assert mine.failures == failures
        assert mine.load() is None
    state = torch.load(asked.work_dir / f"{mine.path.stem}.0{FAILED}", weights_only=True)
    assert state["position"] >= 1
    assert mine.set_aside() is None
    assert mine.failures == 3


def test_only_old_ones_are_swept(tmp_path: Path) -> None:
    names = (f"a{SUFFIX}", f"b.0{FAILED}", "c.1.part", "mine.txt")
    for name in (*names, f"new{SUFFIX}"):
        (tmp_path / name).write_text("x")
    for name in names:
        os.utime(tmp_path / name, (time.time() - 100,) * 2)
    (tmp_path / "starts").mkdir()
    checkpoints.remove_stale(tmp_path, 50)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.txt", f"new{SUFFIX}", "starts"]
    checkpoints.remove_stale(tmp_path / "absent", 50)


def test_folder_and_files_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        saved = Checkpoints(tmp_path / "work", "key")
        saved.set_aside()
        saved.save({})
    finally:
        os.umask(before)
    files = list((tmp_path / "work").iterdir())
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "work").stat().st_mode & 0o777 == 0o700
