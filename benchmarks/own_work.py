"""How much CPU does the server itself take for a candidate and for a chat, against an older commit?

Both sides have an engine that answers at once, the default model's tokenizer and a SQLite file of their own. Each run
is a fork of its side's process, and the sides take turns. Measured is the CPU time, user and system, of all threads of
the run, without the stub's: from the submission of a batch to its end, or for chats without HTTP. A run begins with
nothing in its caches. What the runs did must be equal on both sides: candidates by outcome, and the past questions that
each prompt shows.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mindprint.local.console import Output
from support.harness import CannotMeasure, JsonFile, Quick, Report, alternate, measure, spread
from support.own_work_load import Load, Outcome

REPOSITORY = Path(__file__).resolve().parents[1]
FORMER = "5d38946"
"""The last commit before the server's own work was cut."""
TODAY = "working tree"
BATCHES = 5
RUN_S = 600
LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Case:
    """A load, and how much less CPU it is to take than on the other side."""

    load: Load
    at_least: float | None = None


FULL = {
    "candidate, history 50": Case(Load(users=10, history=50, new=40), at_least=3),
    "candidate, history 500": Case(Load(users=5, history=500, new=40), at_least=8),
    "chat, history 500": Case(Load(users=1, history=500, chats=60), at_least=8),
    "chat, history 500, each after a new engagement": Case(Load(users=1, history=500, chats=60, arriving=True)),
}
SMALL = {
    "candidate, history 10": Case(Load(users=2, history=10, new=5)),
    "chat, history 20": Case(Load(users=1, history=20, chats=10)),
    "chat, history 20, each after a new engagement": Case(Load(users=1, history=20, chats=10, arriving=True)),
}


class SideProcess:
    """A process that has imported one side's server and forks for each run."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    async def ask(self, load: Load, folder: Path, *, prepare: bool = False) -> Outcome:
        """Do one run."""
        asked = {"load": asdict(load), "folder": str(folder), "prepare": prepare}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        await self._process.stdin.drain()
        return Outcome(**await self.read())

    async def read(self) -> dict[str, Any]:
        """Return the process's next line.

        Raises:
            CannotMeasure: The process ended, or the run failed.
        """
        assert self._process.stdout is not None
        async with asyncio.timeout(RUN_S):
            line = await self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            raise CannotMeasure(f"{answer['error']}; the end of its log:\n{self._log.read_text()[-2000:]}")
        return answer


@asynccontextmanager
async def side_process(tree: Path, log: Path) -> AsyncIterator[SideProcess]:
    """Start the process of the server in a source tree."""
    is_former = (tree / "server/mindprint_server/services.py").is_file()
    peer = REPOSITORY / "benchmarks/peers" / ("own_work_former.py" if is_former else "own_work_current.py")
    path = [tree / "client", tree / "server", REPOSITORY / "benchmarks"]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MINDPRINT_")},
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PYTHONHASHSEED": "0",
        "HF_HUB_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
    }
    if cache := os.environ.get("MINDPRINT_CACHE"):
        environment["MINDPRINT_CACHE"] = cache
    with log.open("w") as stream:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(peer), env=environment, cwd=log.parent,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, limit=LINE_BYTES,
        )  # fmt: skip
    try:
        side = SideProcess(process, log)
        await side.read()
        yield side
    finally:
        assert process.stdin is not None
        process.stdin.close()
        if process.returncode is None:
            process.terminate()
        await process.wait()


def git(*arguments: str) -> str:
    """Run git in this repository and return what it prints.

    Raises:
        CannotMeasure: It fails.
    """
    done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMeasure(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


@asynccontextmanager
async def checkout(commit: str, folder: Path) -> AsyncIterator[Path]:
    """Check a commit out into a folder, as a work tree that is removed afterwards."""
    git("worktree", "add", "--detach", str(folder), commit)
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


def check_equal(name: str, runs: dict[str, list[Outcome]]) -> None:
    """Refuse to compare runs that did not do the same.

    Raises:
        CannotMeasure: The counts of two runs differ.
    """
    seen = {json.dumps(run.counts, sort_keys=True): side for side, outcomes in runs.items() for run in outcomes}
    if len(seen) > 1:
        told = "; ".join(f"{side}: {counts}" for counts, side in seen.items())
        raise CannotMeasure(f"{name}: the runs did different work. {told}")


def tell(report: Report, name: str, case: Case, runs: dict[str, list[Outcome]]) -> None:
    """Add a case's rows and its bar."""
    ms = {side: spread(1000 * run.cpu_s / run.units for run in outcomes) for side, outcomes in runs.items()}
    for side, outcomes in runs.items():
        first = outcomes[0]
        report.row(
            case=name,
            side=side,
            cpu_ms=ms[side],
            runs=len(outcomes),
            units=first.units,
            accepted=first.counts.get("accepted"),
            generate_calls=first.calls.get("generate"),
            score_calls=first.calls.get("score"),
        )
    (former,) = (side for side in runs if side != TODAY)
    ratio = ms[former].median / ms[TODAY].median
    if case.at_least is not None:
        report.bar(f"CPU a {name}: {former} over today", ratio, at_least=case.at_least)
    else:
        report.row(case=name, former_over_today=ratio)


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    against: Annotated[str, typer.Option(help="The older commit.")] = FORMER,
    batches: Annotated[int, typer.Option(min=1, help="Measured runs of each case and side.")] = BATCHES,
    only: Annotated[str, typer.Option(help="Cases whose names contain this.")] = "",
) -> None:
    cases = {name: case for name, case in (SMALL if quick else FULL).items() if only in name}
    rounds = min(batches, 2) if quick else batches

    async def work(out: Output, report: Report) -> None:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mindprint-own-work-")))
            former = git("rev-parse", "--short=7", against)
            tree = await stack.enter_async_context(checkout(against, folder / "former"))
            trees = {former: tree, TODAY: REPOSITORY}
            sides = {
                name: await stack.enter_async_context(side_process(tree, folder / f"{number}.log"))
                for number, (name, tree) in enumerate(trees.items())
            }
            with out.bar("own work", len(cases) * len(sides) * (rounds + 2)) as bar:
                for index, (name, case) in enumerate(cases.items()):
                    stores: dict[str, Path] = {}
                    for number, (side, process) in enumerate(sides.items()):
                        bar.update(bar.done + 1, f"{name}: {side}, preparing")
                        stores[side] = folder / f"case-{index}-{number}"
                        stores[side].mkdir()
                        await process.ask(case.load, stores[side], prepare=True)

                    def run(side: str, load: Load, stores: dict[str, Path]) -> Callable[[], Awaitable[Outcome]]:
                        return lambda: sides[side].ask(load, stores[side])

                    runs = await alternate(
                        {side: run(side, case.load, stores) for side in sides},
                        rounds,
                        tell=lambda note, name=name: bar.update(bar.done + 1, f"{name}: {note}"),  # type: ignore[misc]
                    )
                    check_equal(name, runs)
                    tell(report, name, case, runs)
                bar.finish("measured")

    measure(__doc__, "about a minute" if quick else "about six minutes on two cores", json_file, work)


if __name__ == "__main__":
    typer.run(main)
