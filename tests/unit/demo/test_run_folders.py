"""A run that was stopped goes on in its folder, if it was begun with the same options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mindprint_demo.errors import DemoError
from mindprint_demo.options import DemoOptions
from mindprint_demo.run_folders import (
    STATE,
    create_run_folder,
    find_stopped_run,
    hold,
    mark_begun,
    mark_finished,
    resumed_run_folder,
)


@pytest.fixture
def options(tmp_path: Path) -> DemoOptions:
    return DemoOptions(work_dir=tmp_path, keep_runs=2)


def begin(options: DemoOptions) -> Path:
    """A run whose server started, and which was stopped then."""
    folder = create_run_folder(options)
    mark_begun(folder, options)
    return folder


def test_every_run_has_its_folder_and_old_ones_go(options: DemoOptions) -> None:
    mine = options.work_dir / "mine"
    mine.mkdir()
    folders = [create_run_folder(options) for _ in range(4)]
    assert len(set(folders)) == 4
    assert sorted(options.work_dir.iterdir()) == [mine, *folders[2:]]


def test_a_stopped_run_goes_on_in_its_folder(options: DemoOptions) -> None:
    folder = begin(options)
    assert find_stopped_run(options) == folder
    assert resumed_run_folder(options) == folder
    assert resumed_run_folder(replace(options, thinking=False)) == folder, "it decides nothing that is stored"


def test_a_run_that_ended_does_not_go_on(options: DemoOptions) -> None:
    folder = begin(options)
    mark_finished(folder, options)
    assert find_stopped_run(options) is None
    with pytest.raises(DemoError, match="has ended: leave out --resume"):
        resumed_run_folder(options)


def test_other_options_are_refused_by_name(options: DemoOptions) -> None:
    begin(options)
    other = replace(options, users=9, seed=3)
    assert find_stopped_run(other) is None
    with pytest.raises(DemoError, match="was begun with users=4, seed=0: give the same options"):
        resumed_run_folder(other)


def test_without_a_run_there_is_nothing_to_go_on_with(options: DemoOptions) -> None:
    with pytest.raises(DemoError, match="holds no run that can go on: leave out --resume"):
        resumed_run_folder(options)
    (create_run_folder(options) / STATE).write_text("{")
    assert find_stopped_run(options) is None
    with pytest.raises(DemoError, match="holds no run that can go on"):
        resumed_run_folder(options)


def test_a_run_with_a_collapse_is_begun_anew(options: DemoOptions) -> None:
    begin(options)
    with pytest.raises(DemoError, match="a run with --collapse cannot go on"):
        resumed_run_folder(replace(options, collapse=True))


def test_a_run_that_was_begun_with_a_collapse_does_not_go_on_without_it(options: DemoOptions) -> None:
    begin(replace(options, collapse=True))
    assert find_stopped_run(options) is None
    with pytest.raises(DemoError, match="a run with --collapse cannot go on"):
        resumed_run_folder(options)


def test_a_run_that_is_interrupted_before_its_server_starts_leaves_the_stopped_one_to_go_on(
    options: DemoOptions,
) -> None:
    """The hint named the stopped run, and --resume took the one that printed the hint."""
    options = replace(options, keep_runs=1)
    stopped = begin(options)
    for _ in range(2):
        assert find_stopped_run(options) == stopped
        create_run_folder(options)
    assert resumed_run_folder(options) == stopped
    assert stopped.is_dir()


def test_a_run_that_still_runs_is_not_called_stopped_and_stays(options: DemoOptions) -> None:
    running = begin(options)
    with hold(running):
        assert find_stopped_run(options) is None
        create_run_folder(replace(options, keep_runs=1))
        assert running.is_dir()
        with pytest.raises(DemoError, match="of a demo that still runs"), hold(resumed_run_folder(options)):
            pass
    assert find_stopped_run(options) == running
