"""The store: one object that holds a repository for each entity."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint_server.store.adapters import AdapterRepository
from mindprint_server.store.api_keys import ApiKeyRepository
from mindprint_server.store.batches import BatchRepository
from mindprint_server.store.cohorts import CohortRepository
from mindprint_server.store.database import Database
from mindprint_server.store.engagements import EngagementRepository
from mindprint_server.store.funnel import FunnelRepository
from mindprint_server.store.leases import LeaseRepository
from mindprint_server.store.lineage import LineageRepository
from mindprint_server.store.live_versions import LiveVersionRepository
from mindprint_server.store.profiles import ProfileRepository
from mindprint_server.store.publication import PublicationRepository
from mindprint_server.store.replays import ReplayRepository
from mindprint_server.store.retention import RetentionRepository
from mindprint_server.store.traces import TraceRepository
from mindprint_server.store.users import UserRepository
from mindprint_server.store.versions import VersionRepository


class Store:
    """All repositories on one database, SQLite or PostgreSQL. Made by `open`; safe to share between tasks.

    Each method of a repository is one transaction. Its changes are durable when it returns. A call that raises has
    written nothing. A call whose caller is cancelled runs to its end.

    Every method raises RecordNotFound if an id that it is given is unknown, StoreBusy if it waited longer than
    `busy_timeout_s` for the database or lost it, StoreFull if the database has no space, and StoreFailed if it refuses
    a statement. After a connection that was lost at its end, a write may have been committed all the same. Other errors
    are listed at each method.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.api_keys = ApiKeyRepository(database)
        self.users = UserRepository(database)
        self.engagements = EngagementRepository(database)
        self.profiles = ProfileRepository(database)
        self.cohorts = CohortRepository(database)
        self.batches = BatchRepository(database)
        self.traces = TraceRepository(database)
        self.leases = LeaseRepository(database)
        self.adapters = AdapterRepository(database)
        self.versions = VersionRepository(database)
        self.live_versions = LiveVersionRepository(database)
        self.publication = PublicationRepository(database)
        self.lineage = LineageRepository(database)
        self.retention = RetentionRepository(database)
        self.funnel = FunnelRepository(database)
        self.replays = ReplayRepository(database)

    @classmethod
    async def open(cls, url: str, *, busy_timeout_s: float = 30.0) -> Store:
        """Open a database and migrate its tables to the newest version.

        Args:
            url: `sqlite:///PATH` or `postgresql://...`, with or without `+aiosqlite` and `+asyncpg`.
            busy_timeout_s: Bound of each wait for a lock or a connection, in seconds.

        Raises:
            StoreError: The URL is not valid, or the database cannot be opened.
        """
        return cls(await Database.open(url, busy_timeout_s=busy_timeout_s))

    async def close(self) -> None:
        """Wait for running transactions, then close all connections."""
        await self._database.close()

    async def ping(self) -> None:
        """Ask the database for an answer, without a table."""
        await self._database.read(_ping)


async def _ping(db: AsyncConnection) -> None:
    await db.execute(text("SELECT 1"))
