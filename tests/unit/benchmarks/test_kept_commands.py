"""The command in a kept result can be given again: its script has each option."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def kept_runs() -> list[object]:
    """Return the name and the command of each kept result whose script is there."""
    found: list[object] = []
    for file in sorted((BENCHMARKS / "results").glob("*.json")):
        command = json.loads(file.read_text(encoding="utf-8")).get("command", "")
        script = re.search(r"python (benchmarks/\w+\.py)", command)
        if script and (BENCHMARKS.parent / script[1]).is_file():
            found.append(pytest.param(BENCHMARKS.parent / script[1], command, id=file.name))
    return found


def option_of(name: str) -> str:
    """Return what matches an option in a script: its parameter, or the name that is given to it."""
    return rf'\b{name.removeprefix("no-").replace("-", "_")}: |"--{name}"'


@pytest.mark.parametrize(("script", "command"), kept_runs())
def test_command_of_a_kept_result_has_only_options_that_its_script_has(script: Path, command: str) -> None:
    source = script.read_text(encoding="utf-8")
    options = re.findall(r" --([a-z-]+)", command)
    unknown = [one for one in options if not re.search(option_of(one), source)]
    assert not unknown, f"{script.name} has no --{', --'.join(unknown)}: run it again, and keep its result"
