"""The store: one object that holds a repository for each entity."""

from __future__ import annotations

from mindprint_server.store.adapters import AdapterRepository
from mindprint_server.store.api_keys import ApiKeyRepository
from mindprint_server.store.audit import AuditRepository
from mindprint_server.store.batch_claims import BatchClaimRepository
from mindprint_server.store.batches import BatchRepository
from mindprint_server.store.cohorts import CohortRepository
from mindprint_server.store.database import Database, ping
from mindprint_server.store.dump import DumpRepository
from mindprint_server.store.engagements import EngagementRepository
from mindprint_server.store.erasures import ErasureRepository
from mindprint_server.store.funnel import FunnelRepository
from mindprint_server.store.histories import HistoryRepository
from mindprint_server.store.leases import LeaseRepository
from mindprint_server.store.lineage import LineageRepository
from mindprint_server.store.live_versions import LiveVersionRepository
from mindprint_server.store.notifications import Notifications
from mindprint_server.store.profiles import ProfileRepository
from mindprint_server.store.publication import PublicationRepository
from mindprint_server.store.publication_jobs import PublicationJobRepository
from mindprint_server.store.replays import ReplayRepository
from mindprint_server.store.retention import RetentionRepository
from mindprint_server.store.signing_keys import SigningKeyRepository
from mindprint_server.store.tenants import TenantRepository
from mindprint_server.store.traces import TraceRepository
from mindprint_server.store.users import UserRepository
from mindprint_server.store.versions import VersionRepository


class Store:
    """All repositories on one database, SQLite or PostgreSQL. Made by `open`; safe to share between tasks.

    Each method of a repository is one transaction. Its changes are durable when it returns. A call that raises has
    written nothing. A call whose caller is cancelled runs to its end.

    A method sees and changes the rows of the running work's tenant alone (`tenancy.py`), and raises NoTenant where
    none is set. The methods of `tenants`, `api_keys`, `replays` and `signing_keys`, and those that say so, need none.

    Every method raises RecordNotFound if an id that it is given is unknown, StoreBusy if it waited longer than
    `busy_timeout_s` for the database or lost it, StoreFull if the database has no space, and StoreFailed if it refuses
    a statement. After a connection that was lost at its end, a write may have been committed all the same. Other errors
    are listed at each method.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.api_keys = ApiKeyRepository(database)
        self.tenants = TenantRepository(database)
        self.audit = AuditRepository(database)
        self.dump = DumpRepository(database)
        self.users = UserRepository(database)
        self.engagements = EngagementRepository(database)
        self.profiles = ProfileRepository(database)
        self.histories = HistoryRepository(database)
        self.cohorts = CohortRepository(database)
        self.batches = BatchRepository(database)
        self.batch_claims = BatchClaimRepository(database)
        self.notifications = Notifications(database.listener)
        self.traces = TraceRepository(database)
        self.leases = LeaseRepository(database)
        self.adapters = AdapterRepository(database)
        self.versions = VersionRepository(database)
        self.live_versions = LiveVersionRepository(database)
        self.publication = PublicationRepository(database)
        self.publication_jobs = PublicationJobRepository(database)
        self.lineage = LineageRepository(database)
        self.retention = RetentionRepository(database)
        self.erasures = ErasureRepository(database)
        self.funnel = FunnelRepository(database)
        self.replays = ReplayRepository(database)
        self.signing_keys = SigningKeyRepository(database)

    @property
    def database(self) -> str:
        """The kind of the database: `sqlite` or `postgresql`."""
        return self._database.engine.dialect.name

    @classmethod
    async def open(
        cls, url: str, *, busy_timeout_s: float = 30.0, statement_timeout_s: float = 0, migrate: bool = True
    ) -> Store:
        """Open a database and migrate its tables to the newest version.

        Args:
            url: `sqlite:///PATH` or `postgresql://...`, with or without `+aiosqlite` and `+asyncpg`.
            busy_timeout_s: Bound of each wait for a lock or a connection, in seconds.
            statement_timeout_s: Seconds after which PostgreSQL ends a statement; migrations are not bound. 0: never.
            migrate: False leaves the tables as they are, and a SQLite file must exist.

        Raises:
            StoreError: The URL is not valid, or the database cannot be opened.
        """
        bounds = {"busy_timeout_s": busy_timeout_s, "statement_timeout_s": statement_timeout_s}
        return cls(await Database.open(url, **bounds, migrate=migrate))

    async def close(self) -> None:
        """Wait for running transactions, then close all connections."""
        await self._database.close()

    async def ping(self) -> None:
        """Ask the database for an answer, without a table."""
        await self._database.read(ping)
