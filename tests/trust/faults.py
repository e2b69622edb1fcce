"""Faults of what the service stands on: the promised answer to each, and the test that shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rich.table import Table

from databases import POSTGRES, end_sessions, new_database
from kills.killer import Fault
from mindprint.local.processes import free_port
from pooler import pooler
from postgres_server import postgres_server


@dataclass(frozen=True)
class Promise:
    """What is promised for a fault, and the test that shows it, as `file::function`."""

    fault: str
    answer: str
    test: str


AWAY_S = 0.5
"""Seconds for which a database that was stopped or killed stays away."""
GENERATION = "tests/unit/server/generation/test_lost_database.py"
STORE = "tests/contract/store/test_faults.py"
FULL_DISK = "tests/trust/test_full_disk.py"
CLOCK = "tests/contract/store/test_clock.py"
REPLICAS = "tests/api/test_replicas.py"
ARTIFACTS = "tests/unit/server/adapters/test_artifacts.py"
OPERATION = "tests/unit/server/operation/test_readiness.py"
PROMISES = (
    Promise("a server or a trainer is killed", "nothing acknowledged is lost or changed",
            "tests/trust/test_kills.py::test_acknowledged_writes_survive_kills"),
    Promise("PgBouncer restarts, or its sessions end, under load", "503 with Retry-After; nothing is lost",
            "tests/trust/test_faults.py::test_acknowledged_writes_survive_lost_connections"),
    Promise("the database is stopped, or killed, and started, under load", "503 with Retry-After; nothing is lost",
            "tests/trust/test_faults.py::test_acknowledged_writes_survive_stops_and_kills_of_the_database"),
    Promise("the session of a call ends", "503 with Retry-After; the next call works",
            f"{STORE}::test_call_whose_session_is_ended_says_busy_and_the_next_one_works"),
    Promise("the session ends at the commit", "503 with Retry-After",
            f"{STORE}::test_session_ended_at_the_commit_says_busy"),
    Promise("sessions end while a batch runs", "the batch goes on",
            f"{GENERATION}::test_sessions_ended_again_and_again_do_not_fail_a_batch"),
    Promise("the database stops and starts while a batch runs", "the batch goes on",
            f"{GENERATION}::test_database_that_is_away_for_a_while_does_not_fail_a_batch"),
    Promise("the database does not answer", "/readyz is 503 and names the store",
            f"{OPERATION}::test_store_that_does_not_answer_is_named_until_it_does"),
    Promise("the database has no space", "507 with Retry-After; nothing half written",
            f"{STORE}::test_full_sqlite_writes_nothing_and_recovers"),
    Promise("the disk is nearly full", "507 with Retry-After for writes; reads go on",
            f"{OPERATION}::test_disk_below_the_bound_refuses_writes_and_reads_go_on"),
    Promise("the disk is full", "503 or 507 with Retry-After for writes; reads go on; nothing half written",
            f"{FULL_DISK}::test_writes_are_refused_reads_go_on_and_writes_work_again"),
    Promise("an upload does not fit on the disk", "507 with Retry-After; no file remains; the same upload works later",
            f"{FULL_DISK}::test_upload_that_does_not_fit_leaves_no_file_and_can_be_repeated"),
    Promise("the clock moves forward by an hour", "no lease ends",
            f"{CLOCK}::test_step_forward_does_not_end_a_lease"),
    Promise("the clock moves back by an hour", "no lease is prolonged",
            f"{CLOCK}::test_step_backward_does_not_prolong_a_lease"),
    Promise("the clock moves by an hour both ways", "no claim on an item ends or is prolonged",
            f"{CLOCK}::test_steps_neither_end_nor_prolong_claims_on_items"),
    Promise("the artifact store is away", "503 with Retry-After for uploads; loaded versions answer; /readyz names it",
            f"{REPLICAS}::test_upload_is_refused_while_the_artifact_store_is_away"),
    Promise("the artifact store lacks the files of a version", "503 with Retry-After; no version is withdrawn",
            f"{REPLICAS}::test_files_that_vanish_after_their_first_use_withdraw_nothing"),
    Promise("the artifact store does not answer", "503 with Retry-After within artifact_timeout_s",
            f"{ARTIFACTS}::test_call_that_hangs_is_given_up"),
    Promise("the artifact store refuses a call", "503 with Retry-After; the upload can be repeated",
            f"{ARTIFACTS}::test_store_that_fails_refuses_a_new_artifact"),
    Promise("a call waits for a lock too long", "503 with Retry-After",
            "tests/contract/store/test_pooler.py::test_lock_that_another_store_holds_says_busy"),
    Promise("a background task fails again and again", "/readyz is 503 and names it",
            f"{OPERATION}::test_loop_that_keeps_failing_is_named_until_it_works_again"),
)  # fmt: skip


def as_table() -> Table:
    """Return the faults, the promised answers and the tests."""
    table = Table("fault", "promised answer", "test", title="faults")
    for promise in PROMISES:
        table.add_row(promise.fault, promise.answer, promise.test.partition("::")[0])
    return table


@asynccontextmanager
async def pooled_database(folder: Path) -> AsyncIterator[tuple[str, dict[str, Fault]]]:
    """Yield the URL of an empty PostgreSQL database behind a PgBouncer, and the faults that can be done to both."""
    port = free_port()
    async with AsyncExitStack() as running, new_database("postgresql", folder) as url:
        address = await running.enter_async_context(pooler(folder, port=port))

        async def restart_pooler() -> None:
            await running.aclose()
            await running.enter_async_context(pooler(folder, port=port))

        async def end_all_sessions() -> None:
            await end_sessions(url)

        faults: dict[str, Fault] = {"pooler restarted": restart_pooler, "sessions ended": end_all_sessions}
        yield url.replace(POSTGRES, address), faults


@contextmanager
def own_database() -> Iterator[tuple[str, dict[str, Fault]]]:
    """Yield the URL of an empty database on a PostgreSQL server of its own, and the faults that can be done to it."""
    with postgres_server() as server:

        async def be_away(mode: Literal["fast", "immediate"]) -> None:
            await asyncio.to_thread(server.stop, mode)
            # Callers meet a database that is away, not only one that was.
            await asyncio.sleep(AWAY_S)
            await asyncio.to_thread(server.start)

        yield (
            server.url,
            {
                "database stopped": partial(be_away, "fast"),
                "database killed": partial(be_away, "immediate"),
            },
        )
