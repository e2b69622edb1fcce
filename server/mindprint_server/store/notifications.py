"""LISTEN and NOTIFY of PostgreSQL: a server hears within milliseconds that another one changed a batch.

It is only a hint, for three reasons. SQLite has none. A pooler in transaction mode takes LISTEN and passes nothing on.
And what is sent while a server connects again is lost. So whoever listens also looks at the rows now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mindprint_server.store.faults import DATABASE_ERRORS, translate

CHANNEL = "mindprint_batches"
"""Servers on other schemas of the same database hear it too. They find nothing new."""


async def notify(db: AsyncConnection, batch_id: str) -> None:
    """Tell all servers that listen, once this transaction commits. On SQLite this does nothing.

    PostgreSQL commits such transactions one after the other, so do this only where a batch begins or ends.
    """
    if db.dialect.name == "postgresql":
        await db.execute(select(func.pg_notify(CHANNEL, batch_id)))


class Notifications:
    """Listens on a connection of its own, outside of the pool.

    Args:
        engine: Opens the connection and closes it after use; None where the database cannot notify.
    """

    def __init__(self, engine: AsyncEngine | None) -> None:
        self._engine = engine

    @property
    def available(self) -> bool:
        """Whether the database can notify."""
        return self._engine is not None

    async def listen(self, on_change: Callable[[], None]) -> None:
        """Listen until the connection ends.

        Args:
            on_change: Called as soon as it listens, since something may have been missed before, and at each change.

        Raises:
            StoreBusy: The database cannot be reached.
            StoreFailed: It refuses the connection.
        """
        if self._engine is None:
            raise RuntimeError("this database cannot notify: look at `available` first")
        ended = asyncio.Event()
        try:
            async with self._engine.connect() as db:
                driver: Any = (await db.get_raw_connection()).driver_connection
                driver.add_termination_listener(lambda _: ended.set())
                # asyncpg listens outside of a transaction, so nothing stays open while this waits.
                await driver.add_listener(CHANNEL, lambda *_: on_change())
                on_change()
                await ended.wait()
        except DATABASE_ERRORS as error:
            raise translate(error).with_traceback(error.__traceback__) from None
