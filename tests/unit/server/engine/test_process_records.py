"""Which processes of a killed server are ended, and which are left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mindprint_server.engine import process_records
from mindprint_server.engine.process_records import (
    EngineRecord,
    ProcessId,
    ProcessRecords,
    identify,
    is_running,
    kill,
    leftovers,
)

WAIT_S = 30.0


def running(pid: int) -> ProcessId:
    found = identify(pid)
    assert found is not None
    return found


@pytest.fixture
def child() -> Iterator[ProcessId]:
    """A process that runs until it is ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield running(process.pid)
        process.kill()


@pytest.fixture
def ended() -> ProcessId:
    """A process that was there before."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        return running(process.pid)


def write(folder: Path, record: EngineRecord) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{record.server.pid}.json"
    file.write_text(json.dumps(asdict(record)))
    return file


def test_process_with_the_same_number_and_another_start_is_another_process(child: ProcessId) -> None:
    assert is_running(child)
    assert not is_running(replace(child, started=f"{child.started}0"))
    assert not is_running(replace(child, started="another boot/1"))


def test_process_that_nobody_has_waited_for_does_not_run() -> None:
    with subprocess.Popen(["true"]) as process:
        assert process.pid
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert identify(process.pid) is None


def test_leftovers_are_children_that_outlive_their_server(child: ProcessId, ended: ProcessId) -> None:
    reused = replace(child, started="another boot/1")
    assert leftovers(EngineRecord(ended, (child, reused, ended))) == [child]


def test_children_of_a_running_server_are_left_alone(child: ProcessId) -> None:
    assert leftovers(EngineRecord(running(os.getpid()), (child,))) == []


def test_kill_spares_another_process_with_the_number(child: ProcessId) -> None:
    assert kill(replace(child, started="another boot/1"), WAIT_S)
    assert is_running(child)


def test_next_start_ends_what_a_killed_server_left(tmp_path: Path, child: ProcessId, ended: ProcessId) -> None:
    file = write(tmp_path, EngineRecord(ended, (child,)))
    assert ProcessRecords(tmp_path).end_leftovers(WAIT_S) == 1
    assert not is_running(child)
    assert not file.exists()


def test_next_start_leaves_another_server_of_the_folder_alone(tmp_path: Path, child: ProcessId) -> None:
    file = write(tmp_path, EngineRecord(running(os.getpid()), (child,)))
    assert ProcessRecords(tmp_path).end_leftovers(WAIT_S) == 0
    assert is_running(child)
    assert file.exists()


@pytest.mark.parametrize("refused", [False, PermissionError(1, "Operation not permitted")])
def test_record_of_a_process_that_cannot_be_ended_stays(
    tmp_path: Path,
    child: ProcessId,
    ended: ProcessId,
    refused: bool | Exception,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cannot_kill(process: ProcessId, timeout_s: float) -> bool:
        if isinstance(refused, Exception):
            raise refused
        return refused

    monkeypatch.setattr(process_records, "kill", cannot_kill)
    file = write(tmp_path, EngineRecord(ended, (child,)))
    assert ProcessRecords(tmp_path).end_leftovers(WAIT_S) == 0
    assert file.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"server": 1, "children": []}', '{"server": {}, "children": [{}]}'])
def test_file_that_is_no_record_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "7.json"
    file.write_text(text)
    assert ProcessRecords(tmp_path).end_leftovers(WAIT_S) == 0
    assert file.exists()


async def test_children_are_recorded_until_the_server_stops_in_order(tmp_path: Path) -> None:
    records = ProcessRecords(tmp_path / "engine")
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    async with records.recording():
        process.start()
    try:
        (file,) = (tmp_path / "engine").iterdir()
        assert process.pid is not None
        expected = EngineRecord(running(os.getpid()), (running(process.pid),))
        assert json.loads(file.read_text()) == json.loads(json.dumps(asdict(expected)))
        assert file.stat().st_mode & 0o777 == 0o600
    finally:
        process.kill()
        process.join()
    records.remove()
    assert not file.exists()
