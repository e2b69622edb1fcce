"""All benchmarks that a GPU is for, on the default model and on random weights in the shape of Llama 3.1 8B.

The scripts of a wave make their engines ready beside each other, for that takes longer than what they measure; then
they measure one after the other, with nothing else under way but waiting engines. Each writes its log and its JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from support import dummy_model
from support.exclusive import LOCK, READY, TURNS

READY_S = 180.0
POLL_S = 0.2
GRACE_S = 30.0
"""Between being told to end and being killed."""
TAIL = 25
"""Lines of the log of a script that measured nothing."""
SHAPE = "llama-8b"
EAGER = {"MINDPRINT_ENFORCE_EAGER": "true"}
"""Without it (CUDA graphs, the default) three engines that start beside each other are ready after three minutes."""
SMALL = {"MINDPRINT_KV_CACHE_GIB": "1"}
LARGE = {"MINDPRINT_KV_CACHE_GIB": "4", "MINDPRINT_LOAD_FORMAT": "dummy"}
BESIDE = {"MINDPRINT_GPU_MEMORY_UTILIZATION": "0.05"}
"""Engines beside each other: each takes what it needs."""


@dataclass(frozen=True)
class Script:
    """One run of one benchmark."""

    name: str
    words: Sequence[str]
    settings: dict[str, str] = field(default_factory=dict)


def waves(shape: Path) -> dict[str, list[Script]]:
    large = ["--model", str(shape)]
    rounds = ["--rounds", "2"]
    return {
        "large": [Script("throughput-8b", [*rounds, "--each", "8", *large], LARGE | EAGER)],
        "small": [
            Script("lora_mix-8b", large, LARGE | EAGER),
            Script("yield", [], SMALL | EAGER),
        ],
        "graphs": [
            Script("throughput-graphs", rounds, SMALL),
            Script("lora_mix-graphs", [], SMALL),
            Script("reload", ["--seconds", "14", "--rate", "3", "--versions", "6", "--stories", "1"], SMALL),
        ],
        "training": [
            Script("trainer", ["--device", "cuda", *rounds]),
            Script("many_users", ["--no-alone", *rounds]),
        ],
        "rest": [
            Script("yield-8b", ["--records", "unvotes", *large], LARGE | EAGER),
            Script("lora_mix", [], SMALL | EAGER),
            Script("throughput", rounds, SMALL | EAGER),
        ],
    }


def main(
    out: Annotated[Path, typer.Argument(help="The folder for logs and results.")],
    wave: Annotated[str, typer.Option(help="Which waves, in this order.")] = "large,small,graphs,training,rest",
    only: Annotated[str, typer.Option(help="Which scripts of these; all if empty.")] = "",
    device: Annotated[str, typer.Option(help="What the names of the results say of the device.")] = "gpu",
    limit_s: Annotated[float, typer.Option(help="Seconds after which what still runs is ended.")] = 3600,
    more: Annotated[str, typer.Option(help="Further options of every script.")] = "",
) -> None:
    deadline = time.monotonic() + limit_s
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mindprint-gpu-") as folder:
        shape = Path(folder) / SHAPE
        dummy_model.make_dummy_model(shape, dummy_model.LLAMA_8B)
        known = waves(shape)
        for name in wave.split(","):
            chosen = [one for one in known[name] if not only or one.name in only.split(",")]
            run(chosen, out, device, deadline, more.split())


def run(scripts: Sequence[Script], out: Path, device: str, deadline: float, more: Sequence[str]) -> None:
    """Run a list of scripts and print how each one ended."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mindprint-turns-") as folder:
        turns = Path(folder)
        with measuring(turns):
            under_way = [(script, start(script, out, device, turns, more)) for script in scripts]
            until = min(deadline, began + READY_S)
            while time.monotonic() < until and not all(is_ready_or_ended(process, turns) for _, process in under_way):
                time.sleep(POLL_S)
        print_line(f"all ready after {time.monotonic() - began:.0f} s")
        for script, process in under_way:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                end_process(process)
            print_line(f"{script.name}: {process.returncode} after {time.monotonic() - began:.0f} s")
            told = (
                list(bars(result_file(script, out, device)))
                or (out / f"{script.name}.log").read_text().splitlines()[-TAIL:]
            )
            for line in told:
                print_line(f"    {line}")


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a script, with time to write what it has measured."""
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def measuring(turns: Path) -> Iterator[None]:
    """Nobody else measures in this block."""
    with (turns / LOCK).open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def start(script: Script, out: Path, device: str, turns: Path, more: Sequence[str]) -> subprocess.Popen[bytes]:
    path = Path(__file__).with_name(f"{script.name.partition('-')[0]}.py")
    words = [*script.words, *more, "--json", str(result_file(script, out, device))]
    with (out / f"{script.name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(path), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **BESIDE, **script.settings, TURNS: str(turns)},
        )


def result_file(script: Script, out: Path, device: str) -> Path:
    return out / f"{script.name}-{device}-1.json"


def is_ready_or_ended(process: subprocess.Popen[bytes], turns: Path) -> bool:
    """Whether it is ready to measure, or has ended."""
    return (turns / f"{process.pid}{READY}").exists() or process.poll() is not None


def bars(file: Path) -> Iterator[str]:
    if file.exists():
        for bar in json.loads(file.read_text())["bars"]:
            yield f"{bar['name']}: {bar['value']:.3g}, {'holds' if bar['holds'] else 'MISSED'}"


def print_line(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    typer.run(main)
