"""A child process ends when the process that started it is killed."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from mindprint_server.engine.parent_watch import end_with_parent, vllm_plugin

WAIT_MS = 60_000
PARENT = """
import multiprocessing, time

def child():
    from mindprint_server.engine.parent_watch import end_with_parent
    end_with_parent()
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(600)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join()
"""


def test_process_that_no_other_started_watches_nobody() -> None:
    assert end_with_parent() is None


def test_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        handle = os.pidfd_open(int(parent.stdout.readline()))
        try:
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            assert not ended.poll(0)
            parent.kill()
            assert ended.poll(WAIT_MS)
        finally:
            os.close(handle)


def test_child_leaves_the_process_group_that_gets_ctrl_c(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        groups = os.getpgid(child), os.getpgid(parent.pid)
        parent.kill()
    assert groups == (child, os.getpgrp())


def test_vllm_finds_the_plugin() -> None:
    """An installation from before the plugin has no entry point: run `make setup` again."""
    found = {point.value for point in entry_points(group="vllm.general_plugins")}
    assert f"{vllm_plugin.__module__}:{vllm_plugin.__name__}" in found
