"""The clock of deadlines: that of the database, or one that steps of the wall clock do not move.

Servers on one PostgreSQL compare deadlines with its clock, so that their own clocks may differ or step. SQLite has no
clock but the computer's. There each process reads the wall clock once, and from then on counts seconds by a clock that
nobody sets. What a server's clock showed last is kept beside the seconds since the computer's start. So the next server
sees by how much the wall clock was set in between (`step_between`), and moves the deadlines as far.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint_server.store.database import insert_new
from mindprint_server.store.tables import clock_marks

_ANCHOR = datetime.now(UTC)
_ANCHOR_S = time.monotonic()
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Where Linux tells one start of the computer from another."""
SERVER = "server"
"""Name of the only mark."""


@dataclass(frozen=True)
class ClockMark:
    """What the clock of deadlines showed at one moment, beside a clock that nobody sets."""

    at: datetime
    boot_id: str | None
    """Which start of the computer; None where the system does not tell."""
    boot_s: float
    """Seconds since that start, sleep included."""


def process_time() -> datetime:
    """Return the time of this process: the wall clock when it began, plus the seconds since then."""
    return _ANCHOR + timedelta(seconds=time.monotonic() - _ANCHOR_S)


def mark_now() -> ClockMark:
    """Return the mark of this moment."""
    try:
        return ClockMark(process_time(), BOOT_ID.read_text().strip(), time.clock_gettime(time.CLOCK_BOOTTIME))
    except (OSError, AttributeError):
        return ClockMark(process_time(), None, 0.0)


def step_between(before: ClockMark, now: ClockMark) -> timedelta:
    """Return by how much the wall clock was set between two marks; negative if it was set back.

    After another start of the computer only a part of a step back is seen: that which is longer than the time between
    the marks. A step forward looks like time that passed.
    """
    if before.boot_id is None or before.boot_id != now.boot_id:
        return min(now.at - before.at, timedelta(0))
    return now.at - before.at - timedelta(seconds=now.boot_s - before.boot_s)


async def read_time(db: AsyncConnection) -> datetime:
    """Return the present time for deadlines. On PostgreSQL it passes during a transaction too."""
    if db.dialect.name == "postgresql":
        now: datetime = (await db.execute(select(func.clock_timestamp()))).scalar_one()
        return now
    return process_time()


async def read_step(db: AsyncConnection) -> timedelta:
    """Return by how much the wall clock was set since the last mark; 0 without one, as on PostgreSQL."""
    row = (await db.execute(select(clock_marks))).first()
    if row is None:
        return timedelta(0)
    return step_between(ClockMark(row.at, row.boot_id, row.boot_s), mark_now())


async def note_mark(db: AsyncConnection) -> None:
    """Store the mark of this moment; on PostgreSQL nothing."""
    if db.dialect.name == "postgresql":
        return
    now = mark_now()
    values = {"at": now.at, "boot_id": now.boot_id, "boot_s": now.boot_s}
    await db.execute(insert_new(db, clock_marks), {"name": SERVER, **values})
    await db.execute(update(clock_marks).values(**values))
