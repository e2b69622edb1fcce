"""`make trust`: try to break the service, and report what held.

Runs as `python tests/trust [flags]`.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from rich.console import Console

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support")]

import faults  # noqa: E402
import schema_fuzz  # noqa: E402
import soak as soaking  # noqa: E402
from databases import new_database  # noqa: E402
from kills import report  # noqa: E402
from kills.run import Outcome, Plan, run_kills  # noqa: E402

DATABASES = ("sqlite", "postgresql")


def place_in(folder: Path, name: str) -> Path:
    """Return a new folder for one part of the report."""
    place = folder / name
    place.mkdir()
    return place


@contextmanager
def left_out_where_missing(part: str) -> Iterator[None]:
    """Say that a part is left out where PostgreSQL or PgBouncer is missing: the tests are skipped there."""
    try:
        yield
    except pytest.skip.Exception as missing:
        Console().print(f"left out: {part} ({missing})", markup=False)


async def kill_on_each(kills: int, seed: int, replicas: int, folder: Path) -> list[Outcome]:
    """Run a part of the kills on each database; several replicas need PostgreSQL."""
    databases = DATABASES if replicas == 1 else DATABASES[1:]
    outcomes = []
    for n, database in enumerate(databases):
        plan = Plan(database, kills // len(databases), seed=seed + n, replicas=replicas)
        place = place_in(folder, f"kills-{database}")
        with left_out_where_missing(f"kills on {database}"):
            async with new_database(database, place) as url:
                outcomes.append(await run_kills(plan, place, url))
    return outcomes


async def do_faults(count: int, seed: int, folder: Path) -> list[Outcome]:
    """Lose the connections to PostgreSQL again and again; then stop and kill a PostgreSQL server of its own."""
    outcomes = list[Outcome]()
    with left_out_where_missing("faults of the pooler"):
        place = place_in(folder, "faults-pooler")
        async with faults.pooled_database(place) as (url, known):
            outcomes.append(await run_kills(Plan("postgresql", count, seed=seed), place, url, known))
    with left_out_where_missing("faults of the database"), faults.own_database() as (url, known):
        place = place_in(folder, "faults-database")
        outcomes.append(await run_kills(Plan("postgresql", count, seed=seed), place, url, known))
    return outcomes


async def fuzz(examples: int, seed: int, folder: Path) -> list[schema_fuzz.Fuzzed]:
    """Send generated requests with keys of three scopes."""
    place = place_in(folder, "fuzz")
    return await schema_fuzz.fuzz(place, f"sqlite+aiosqlite:///{place / 'fuzz.db'}", examples=examples, seed=seed)


def main(
    kills: Annotated[int, typer.Option(min=0, help="Kills in total, half of them on each database.")] = 60,
    replicas: Annotated[int, typer.Option(min=1, help="Servers on one database; more than one needs PostgreSQL.")] = 1,
    lost: Annotated[
        int, typer.Option("--faults", min=0, help="Times to lose the connections, and to stop the database.")
    ] = 10,
    examples: Annotated[int, typer.Option(min=0, help="Generated requests for each operation and phase.")] = 5,
    soak: Annotated[int, typer.Option(min=0, help="Seconds of load on the real engine.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything that is chosen at random.")] = 0,
    file: Annotated[Path, typer.Option("--json", help="Where the report is written.")] = Path(".mindprint/trust.json"),
) -> None:
    """Try to break the service, and report what held. Ends with 1 if something did not. 0 leaves a part out."""
    console, found = Console(), dict[str, Any]()
    folder = Path(tempfile.mkdtemp(prefix="mindprint-trust-"))
    if kills:
        show_runs(console, found, "kills", asyncio.run(kill_on_each(kills, seed, replicas, folder)))
    if lost:
        show_runs(console, found, "faults", asyncio.run(do_faults(lost, seed, folder)))
        console.print(faults.as_table())
        found["faults"]["promises"] = [asdict(promise) for promise in faults.PROMISES]
    if examples:
        fuzzed = asyncio.run(fuzz(examples, seed, folder))
        found["schema"] = schema_fuzz.as_json(fuzzed)
        console.print(schema_fuzz.as_table(fuzzed))
    if soak:
        soaked = asyncio.run(soaking.soak(soak, place_in(folder, "soak"), seed))
        found["soak"] = soaking.as_json(soaked)
        console.print(soaking.as_table(soaked))
    holds = all(part["holds"] for part in found.values())
    command = f"make trust ARGS={shlex.quote(shlex.join(without_json(sys.argv[1:])))}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"command": command, "holds": holds, **found}, indent=1) + "\n")
    console.print(
        f"report: {file}", f"logs: {folder}", "all of it held" if holds else "something did not hold", sep="\n"
    )
    raise SystemExit(0 if holds else 1)


def without_json(arguments: Sequence[str]) -> list[str]:
    """Return the command's arguments without the file of the report, which says nothing about what was run."""
    kept = list(arguments)
    if "--json" in kept:
        place = kept.index("--json")
        del kept[place : place + 2]
    return [one for one in kept if not one.startswith("--json=")]


def show_runs(console: Console, found: dict[str, Any], name: str, outcomes: list[Outcome]) -> None:
    """Print runs with their first violations, and add them to the report."""
    found[name] = report.as_json(outcomes)
    if outcomes:
        console.print(report.as_table(outcomes, name))
    for violation in [one for outcome in outcomes for one in outcome.violations][:20]:
        console.print(f"{violation.check}: {violation.detail}", markup=False)


if __name__ == "__main__":
    typer.run(main)
