"""The clock of deadlines: that of the database, or one that steps of the wall clock do not move.

Servers on one PostgreSQL compare deadlines with its clock, so that their own clocks may differ or step. SQLite has no
clock but the computer's. There each process reads the wall clock once, and from then on counts seconds by a clock that
nobody sets.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

_ANCHOR = datetime.now(UTC)
_ANCHOR_S = time.monotonic()


def process_time() -> datetime:
    """Return the time of this process: the wall clock when it began, plus the seconds since then."""
    return _ANCHOR + timedelta(seconds=time.monotonic() - _ANCHOR_S)


async def read_time(db: AsyncConnection) -> datetime:
    """Return the present time for deadlines. On PostgreSQL it passes during a transaction too."""
    if db.dialect.name == "postgresql":
        now: datetime = (await db.execute(select(func.clock_timestamp()))).scalar_one()
        return now
    return process_time()
