"""What do the store's queries cost as it grows, from 10 users with 400 traces to 20,000 users with 200,000?

Stores of three sizes are filled in the same way: one open batch with all items, each engagement with a rejected and an
accepted trace, every twentieth user with a live version, at most 200 of them. Then the calls take turns on all sizes.
On SQLite the figure is the CPU time of the process. On PostgreSQL it is the time in which statements run, and the
tables are not analyzed: plans must be good without statistics. The least of the rounds counts: other work only adds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
import typer
from sqlalchemy import Connection, event

from mindprint.local.console import Output
from mindprint.types import DEFAULT_TENANT, BatchRequest, LeaseRequest
from mindprint_server.settings import Settings
from mindprint_server.store import ClaimPolicy, Holdout, Store
from mindprint_server.tenancy import in_tenant
from support.growth_store import StoreSize, fill
from support.harness import JsonFile, Quick, Report, alternate, measure

FULL = (StoreSize(10, 400), StoreSize(1000, 10_000), StoreSize(20_000, 200_000))
SMALL = (StoreSize(10, 400), StoreSize(200, 2000))
ROUNDS = 5
MAX_GROWTH = 2.0
MAX_CLAIM_MS = 30.0
POSTGRES_TIMEOUT_S = 5


@dataclass
class Costs:
    """Milliseconds of one call."""

    total: float
    in_write: float
    """Of it within transactions that write."""


@dataclass
class StoreUnderTest:
    """A filled store with the clock that its calls are measured by."""

    store: Store
    batch_id: str
    statements_s: float = 0.0
    writes_s: float = 0.0
    _began: dict[str, float] = field(default_factory=dict)

    @property
    def is_sqlite(self) -> bool:
        return self.store.database == "sqlite"

    def now(self) -> float:
        return time.process_time() if self.is_sqlite else self.statements_s

    def watch(self) -> None:
        """Count the time of statements and of writing transactions from now on."""
        engine = self.store._database.engine.sync_engine

        @event.listens_for(engine, "before_cursor_execute")
        def before(*_: Any) -> None:
            self._began["statement"] = time.perf_counter()

        @event.listens_for(engine, "after_cursor_execute")
        def after(*_: Any) -> None:
            self.statements_s += time.perf_counter() - self._began["statement"]

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            self._began["write"] = self.now()

        @event.listens_for(engine, "commit")
        def commit(connection: Connection) -> None:
            self.writes_s += self.now() - self._began["write"]

    async def measure(self, call: Callable[[StoreUnderTest], Awaitable[Any]]) -> Costs:
        before, written = self.now(), self.writes_s
        await call(self)
        return Costs(1000 * (self.now() - before), 1000 * (self.writes_s - written))


def calls(settings: Settings) -> dict[str, Callable[[StoreUnderTest], Awaitable[Any]]]:
    holdout = Holdout(
        share=settings.holdout_share,
        min_engagements=settings.holdout_min_engagements,
        max_engagements=settings.holdout_max_engagements,
    )
    users_only = ClaimPolicy(max_attempts=3, holdout=holdout)
    with_cohorts = ClaimPolicy(max_attempts=3, holdout=holdout, cohort_min_traces=settings.cohort_min_traces)
    request = LeaseRequest(owner="growth")

    async def claim_cohort(on: StoreUnderTest) -> None:
        if lease := await on.store.leases.claim(request, with_cohorts):
            await on.store.leases.release(lease.id)

    return {
        "batch(id), for each watcher": lambda on: on.store.batches.get(on.batch_id),
        "newest batches": lambda on: on.store.batches.list_newest(),
        "open batches, for metrics": lambda on: on.store.batches.list_open(),
        "open batches, for runners": lambda on: on.store.batch_claims.list_open(),
        "funnel": lambda on: on.store.funnel.get(),
        "backlog, for metrics": lambda on: on.store.traces.count_queue(),
        "untraced engagements of all users": lambda on: on.store.traces.list_untraced(None, holdout),
        "submit of an empty batch": lambda on: on.store.batches.add(BatchRequest(), [], max_open=10**6),
        "page of adapters": lambda on: on.store.adapters.list_page(limit=1),
        "claim, users only": lambda on: on.store.leases.claim(request, users_only),
        "claim, cohorts too": claim_cohort,
    }


async def measure_database(
    out: Output, report: Report, name: str, sizes: tuple[StoreSize, ...], stores: list[StoreUnderTest]
) -> None:
    wanted = calls(Settings(model="none"))
    with out.bar(name, len(wanted)) as bar:
        for call, function in wanted.items():
            bar.update(bar.done + 1, call)
            sides = {str(size): partial(on.measure, function) for size, on in zip(sizes, stores, strict=True)}
            costs = await alternate(sides, ROUNDS)
            least = {size: min(cost.total for cost in found) for size, found in costs.items()}
            held = {size: min(cost.in_write for cost in found) for size, found in costs.items()}
            first, last = str(sizes[0]), str(sizes[-1])
            growth = least[last] / least[first]
            report.row(database=name, call=call, **{f"ms, {size}": ms for size, ms in least.items()}, growth=growth)
            report.bar(f"{name}, {call}: cost at {last} over {first}", growth, at_most=MAX_GROWTH)
            if call.startswith("claim"):
                report.bar(f"{name}, {call}: ms within the write at {last}", held[last], at_most=MAX_CLAIM_MS)
        bar.finish("measured")


async def open_filled(url: str, size: StoreSize, out: Output) -> StoreUnderTest:
    out.say(f"{url.partition('+')[0].partition(':')[0]}: {size}")
    store = await Store.open(url, busy_timeout_s=60)
    under_test = StoreUnderTest(store, await fill(store, size))
    under_test.watch()
    return under_test


@asynccontextmanager
async def postgres_schemas(server: str, count: int) -> AsyncIterator[list[str]]:
    """Yield the URLs of new schemas; none if the server does not answer."""
    try:
        admin = await asyncpg.connect(f"postgresql://{server}", timeout=POSTGRES_TIMEOUT_S)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        yield []
        return
    names = [f"mindprint_{uuid4().hex}" for _ in range(count)]
    try:
        for name in names:
            await admin.execute(f"CREATE SCHEMA {name}")
        yield [f"postgresql+asyncpg://{server}?search_path={name}" for name in names]
    finally:
        for name in names:
            await admin.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
        await admin.close()


async def measure_all(out: Output, report: Report, name: str, sizes: tuple[StoreSize, ...], urls: list[str]) -> None:
    with in_tenant(DEFAULT_TENANT):
        stores = [await open_filled(url, size, out) for url, size in zip(urls, sizes, strict=True)]
        try:
            await measure_database(out, report, name, sizes, stores)
        finally:
            for one in stores:
                await one.store.close()


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    postgres: Annotated[
        str,
        typer.Option(
            envvar="MINDPRINT_TEST_POSTGRES",
            metavar="USER@HOST:PORT/DATABASE",
            help="Where schemas may be made. `off`: SQLite alone.",
        ),
    ] = "postgres@127.0.0.1:5432/test",
) -> None:
    sizes = SMALL if quick else FULL

    async def work(out: Output, report: Report) -> None:
        with tempfile.TemporaryDirectory(prefix="mindprint-growth-") as folder:
            files = [f"sqlite+aiosqlite:///{Path(folder) / f'{size.users}.db'}" for size in sizes]
            await measure_all(out, report, "SQLite", sizes, files)
        if postgres == "off":
            return
        async with postgres_schemas(postgres, len(sizes)) as urls:
            if urls:
                await measure_all(out, report, "PostgreSQL", sizes, urls)
            else:
                out.say("PostgreSQL does not answer: only SQLite was measured")

    measure(__doc__, "about half a minute" if quick else "about five minutes on two cores", json_file, work)


if __name__ == "__main__":
    typer.run(main)
