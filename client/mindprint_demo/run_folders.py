"""The folders of runs: each holds the store, the adapters and the logs of one run, and what was asked for.

A run that was stopped goes on in its folder: stored engagements, the batch and finished versions are not made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mindprint_demo.errors import DemoError
from mindprint_demo.options import DemoOptions

STATE = "run.json"
LOCK = "run.lock"
COLLAPSED = "a run with --collapse cannot go on, for its last step stores the later questions: begin anew"
_DECIDING = ("data", "users", "ids", "engagements", "held_out", "seed", "model", "collapse")
"""Options that decide what is stored: a run goes on only with the same ones."""


def create_run_folder(options: DemoOptions) -> Path:
    """Create a folder for this run. Keep the newest ones of the older runs, those that run, and the stopped one."""
    older, stopped = _list_runs(options.work_dir), find_stopped_run(options)
    for folder in older[: max(0, len(older) - max(options.keep_runs, 1) + 1)]:
        if folder != stopped and not _is_held(folder):
            shutil.rmtree(folder, ignore_errors=True)
    folder = options.work_dir / f"run-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    folder.mkdir(parents=True)
    _write(folder, options, is_begun=False)
    return folder


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep a run's folder for this process. The lock ends with the process.

    Raises:
        DemoError: Another process has it.
    """
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"{folder} is of a demo that still runs: wait for it, or leave out --resume") from None
        yield


def find_stopped_run(options: DemoOptions) -> Path | None:
    """Return the run that `resumed_run_folder` returns; None if there is none, or it still runs."""
    try:
        folder = resumed_run_folder(options)
    except DemoError:
        return None
    return None if _is_held(folder) else folder


def resumed_run_folder(options: DemoOptions) -> Path:
    """Return the folder of the run to go on with: the newest one whose server started.

    Raises:
        DemoError: There is none. The message says why.
    """
    if not can_go_on(options):
        raise DemoError(COLLAPSED)
    newest = next(filter(has_begun, reversed(_list_runs(options.work_dir))), None)
    if newest is None or (state := _read(newest)) is None:
        raise DemoError(f"{options.work_dir} holds no run that can go on: leave out --resume")
    if state["finished"]:
        raise DemoError(f"the newest run, {newest}, has ended: leave out --resume to begin another one")
    if state["options"].get("collapse"):
        raise DemoError(f"{newest}: {COLLAPSED}")
    wanted = _deciding(options)
    if other := [name for name in _DECIDING if state["options"].get(name) != wanted[name]]:
        begun = ", ".join(f"{name}={state['options'].get(name)!r}" for name in other)
        raise DemoError(f"{newest} was begun with {begun}: give the same options, or leave out --resume")
    return newest


def can_go_on(options: DemoOptions) -> bool:
    """Return whether such a run can go on after it was stopped."""
    return not options.collapse


def has_begun(folder: Path) -> bool:
    """Return whether a run's server has started, or the state of the run cannot be read."""
    state = _read(folder)
    return state is None or bool(state.get("begun", True))


def mark_begun(folder: Path, options: DemoOptions) -> None:
    """Note that a run's server has started. Before that there is nothing to go on with."""
    _write(folder, options)


def mark_finished(folder: Path, options: DemoOptions) -> None:
    """Note that a run has come to its end."""
    _write(folder, options, is_finished=True)


def _list_runs(work_dir: Path) -> list[Path]:
    return sorted(work_dir.glob("run-*"))


def _deciding(options: DemoOptions) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(options, name) for name in _DECIDING}
    data = None if options.data is None else str(options.data.absolute())
    return {**values, "data": data, "ids": list(options.ids)}


def _is_held(folder: Path) -> bool:
    try:
        with hold(folder):
            return False
    except DemoError:
        return True


def _write(folder: Path, options: DemoOptions, *, is_begun: bool = True, is_finished: bool = False) -> None:
    state = {"options": _deciding(options), "begun": is_begun, "finished": is_finished}
    (folder / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def _read(folder: Path) -> Mapping[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # of an older release, or half written
        return None
    return state
