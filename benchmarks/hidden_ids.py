"""Does the time of a refusal tell whether an id exists with another tenant?

Every route that takes an id is asked by one tenant: for an id of another tenant's, and twice for an id that nobody has.
The three take turns. Both refusals are 404 with the same words, so that only their time could tell them apart. The two
times of the unknown id show the noise. A route counts if noise does not explain its difference, in two measurements.

The application runs on the fake engine and SQLite, without a network, which would only add noise.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from mindprint.local.console import Output
from mindprint.types import DEFAULT_TENANT
from mindprint_server.settings import Settings
from mindprint_server.tenancy import enter_tenant
from support.exclusive import exclusive_turn
from support.harness import CannotMeasure, JsonFile, Quick, Report, alternate, measure

TESTS = Path(__file__).resolve().parents[1] / "tests"
MOST_ERRORS = 4.0
"""Standard errors that a difference may be from zero. By chance one of 16,000 is farther."""
LEAST_SHARE = 0.02
"""Share of the time below which a difference does not count: over a network it is far below the noise."""


def standard_errors(differences: Sequence[float]) -> float:
    """Return how far the median of paired differences is from zero, in standard errors of a median."""
    middle = statistics.median(differences)
    deviation = 1.4826 * statistics.median(abs(one - middle) for one in differences)
    error = 1.2533 * deviation / math.sqrt(len(differences))
    if error == 0:
        return 0.0 if middle == 0 else math.inf
    return abs(middle) / error


def tells_apart(theirs: Sequence[float], unknown: Sequence[float], again: Sequence[float]) -> bool:
    """Return whether the times for another tenant's id differ by more than noise explains.

    Args:
        theirs: Seconds for the other tenant's id.
        unknown: Seconds for an id that nobody has, asked in turns with it.
        again: The same once more.
    """
    ours = [(one + other) / 2 for one, other in zip(unknown, again, strict=True)]
    differences = [one - other for one, other in zip(theirs, ours, strict=True)]
    if abs(statistics.median(differences)) < LEAST_SHARE * statistics.median(ours):
        return False
    control = standard_errors([one - other for one, other in zip(unknown, again, strict=True)])
    return standard_errors(differences) > max(MOST_ERRORS, control)


def load_routes() -> ModuleType:
    """Return the test module that lists every route which takes an id."""
    sys.path.insert(0, str(TESTS / "support"))
    spec = importlib.util.spec_from_file_location("test_cross_tenant", TESTS / "api" / "test_cross_tenant.py")
    if spec is None or spec.loader is None:
        raise CannotMeasure(f"there are no tests in {TESTS}: run this in a checkout")
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def two_teams(routes: ModuleType, folder: Path) -> AsyncIterator[tuple[Any, Any]]:
    """Yield a team that has something of every kind, and another one."""
    from samples import write_tensors

    base = folder / "base"
    base.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (base / name).write_text("{}")
    write_tensors(base / "model.safetensors", {"model.layers.0.self_attn.q_proj.weight": (8, 8)})
    # As for the tests: the first keys are made by the tenant that runs the server.
    enter_tenant(DEFAULT_TENANT)
    many = 1_000_000_000
    settings = Settings(
        engine="fake", model=str(base), data_dir=folder / "server", watch_interval_s=0.01, prefilter_by_prior=False,
        min_answer_frequency=0, gate=False, quota_requests_per_minute=many, quota_key_requests_per_minute=many,
        log_level="error",
    )  # fmt: skip
    async with routes.two_teams(settings, base) as (acme, globex, _):
        await acme.fill(base)
        for team in (acme, globex):
            await team.store_users("carl")
        await acme.post("/v1/users/carl/engagements", engagements=[routes.ENGAGEMENT | {"id": "only"}])
        yield acme, globex


async def seconds_of(routes: ModuleType, http: Any, route: str, case: Any, names: Mapping[str, str] | None) -> float:
    """Return the seconds until a request is refused with 404."""
    began = time.perf_counter()
    reply = await routes.ask(http, route, case, names)
    seconds = time.perf_counter() - began
    if reply.status_code != 404:
        raise CannotMeasure(f"{route} answered {reply.status_code} in place of 404")
    return seconds


def main(
    count: Annotated[int, typer.Option(min=3, help="Times that each route is asked for each id.")] = 300,
    json_file: JsonFile = None,
    quick: Quick = False,
) -> None:
    """Ask every route that takes an id, and compare the times."""

    async def work(_: Output, report: Report) -> None:
        routes, times = load_routes(), 5 if quick else count
        with tempfile.TemporaryDirectory() as folder:
            async with exclusive_turn(), two_teams(routes, Path(folder)) as (acme, globex):
                await compare(routes, routes.names_of(acme), globex.http, times, report)

    measure(__doc__, "about half a minute" if quick else "about ten minutes", json_file, work)


async def compare(routes: ModuleType, names: Mapping[str, str], http: Any, count: int, report: Report) -> None:
    """Measure every route, and those that seem to tell ids apart a second time."""
    told = 0
    for route, case in routes.CASES:
        if case.creates:
            continue
        ask = partial(seconds_of, routes, http, route, case)
        sides = {"theirs": partial(ask, names), "unknown": partial(ask, None), "again": partial(ask, None)}
        tells = False
        for _ in range(2):
            found = await alternate(sides, count)
            if not (tells := tells_apart(**found)):
                break
        told += tells
        theirs, unknown, again = (1000 * statistics.median(found[side]) for side in sides)
        report.row(
            route=route,
            asked=_shown(case),
            theirs_ms=theirs,
            unknown_ms=unknown,
            ratio=theirs / unknown,
            ratio_of_noise=again / unknown,
            tells="yes" if tells else "no",
        )
    report.bar("routes that tell by their time whether an id exists", told, at_most=0)


def _shown(case: Any) -> str:
    """Return what tells the cases of one route apart."""
    return ", ".join(f"{name}={value}" for name, value in {**case.ids, **(case.body or {})}.items())[:40]


if __name__ == "__main__":
    typer.run(main)
