"""Runs the open erasures of all tenants, and lets this server forget what other servers have erased.

A job's steps are in the store (`ErasureRepository`); here are those around them: files, the engine, the database's free
pages, caches. Each may be done again, so a killed server leaves a job that any server continues.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import structlog

from mindprint.receipts import find_key, keep_key, new_key, sign
from mindprint.types import Erasure
from mindprint.types.keys import VersionRef
from mindprint_server.adapters.residency import AdapterResidency
from mindprint_server.adapters.storage import AdapterStorage
from mindprint_server.context import ServerContext
from mindprint_server.store import ErasureTarget
from mindprint_server.store.erasures import chunks
from mindprint_server.store.signing_keys import RECEIPTS
from mindprint_server.tenancy import erasure_epoch, in_tenant, set_erasure_epoch

log = structlog.get_logger(__name__)


class ErasureService:
    """Takes requests for erasures, and runs them.

    Args:
        ctx: Settings, store and supervisor of the server.
        storage: Keeps the files of versions.
        residency: Knows the versions that the engine has loaded.
        forget: Called in a tenant to drop what is remembered of its users.
    """

    def __init__(
        self,
        ctx: ServerContext,
        *,
        storage: AdapterStorage,
        residency: AdapterResidency,
        forget: Sequence[Callable[[], None]],
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._supervisor = ctx.supervisor
        self._metrics = ctx.metrics
        self._storage = storage
        self._residency = residency
        self._forget = forget
        self._epochs: dict[str, int] = {}
        """The erasure epoch of each tenant up to which this server has forgotten."""
        self._key = b""
        self._wake = asyncio.Event()
        self._running = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Get the key of receipts, note the epochs, and start running jobs.

        Raises:
            OSError: The data folder cannot be written.
            KeyUnusable: The file of the key holds none.
            StoreError: The database does not answer.
        """
        await self.prepare()
        self._tasks = [
            self._supervisor.start_loop("erasures", self.run_open, self._wait_for_work),
            self._supervisor.start_loop("erasure epochs", self.refresh, self._pause),
        ]

    async def prepare(self) -> None:
        """Do what `start` does before it starts the loops."""
        self._key = await self._share_key()
        # Nothing is remembered yet, and copies of erased files were removed when the artifacts were opened.
        for tenant, epoch in (await self._store.tenants.list_epochs()).items():
            self._note_epoch(tenant, epoch)

    async def _share_key(self) -> bytes:
        """Return the key of all servers on the database, and keep a copy of it in this server's data folder.

        The first server that starts brings its own key, from the folder if there is one.
        """
        folder, keys = self._settings.data_dir, self._store.signing_keys
        if (key := await keys.get(RECEIPTS)) is None:
            own = await asyncio.to_thread(find_key, folder)
            key = await keys.ensure(RECEIPTS, own or new_key())
        await asyncio.to_thread(keep_key, folder, key)
        return key

    async def stop(self) -> None:
        """Stop between two steps; open jobs continue at the next start, or on another server."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def request(self, target: ErasureTarget) -> Erasure:
        """Open an erasure, or return the one that is open or did the same; see `ErasureRepository.request`."""
        erasure = await self._store.erasures.request(target)
        self._wake.set()
        return erasure

    async def run_open(self) -> bool:
        """Run all open erasures of all tenants, oldest first.

        Raises:
            Exception: The first error of a job. The other jobs are done all the same.
        """
        self._wake.clear()
        async with self._running:
            jobs = await self._store.erasures.list_open()
            removed, errors = await self._for_each(jobs, self._remove)
            # Once for all jobs: SQLite writes its whole file anew.
            if removed:
                # Uploads under revoked leases, whose files no row names: before a receipt says that all is gone.
                await self._storage.remove_abandoned()
                await self._store.erasures.purge()
            errors += (await self._for_each(removed, self._finish))[1]
        if errors:
            raise errors[0]
        return True

    async def _for_each(
        self, jobs: Sequence[tuple[str, str]], step: Callable[[str, str], Awaitable[bool]]
    ) -> tuple[list[tuple[str, str]], list[Exception]]:
        """Do a step of each job (tenant, id). Return the jobs for which it returned True, and the errors of others."""
        done, errors = [], []
        for tenant, id in jobs:
            with in_tenant(tenant):
                try:
                    if await step(tenant, id):
                        done.append((tenant, id))
                except Exception as error:
                    errors.append(error)
        return done, errors

    async def _remove(self, tenant: str, id: str) -> bool:
        """Remove all that a job removes; False if it is done already."""
        plan = await self._store.erasures.collect(id)
        if plan is None:
            return False
        await self._drop_versions(plan.without_files, plan.artifacts)
        for chunk in chunks(plan, self._settings.erasure_chunk_rows):
            await self._store.erasures.delete(id, chunk)
        epoch = await self._store.erasures.seal(id)
        if epoch is not None:
            await self._forget_until(tenant, epoch)
        return True

    async def _finish(self, tenant: str, id: str) -> bool:
        """Store a job's receipt; False if another server was faster."""
        done = await self._store.erasures.finish(id, partial(sign, key=self._key))
        if done is None or done.receipt is None:
            return False
        for kind, count in done.receipt.counts.items():
            self._metrics.erased.labels(kind=kind).inc(count)
        withdrawn = len(done.receipt.withdrawn)
        self._metrics.withdrawn.labels(check="erased_data").inc(withdrawn)
        log.info("erased", erasure=id, kind=done.kind, counts=done.receipt.counts, withdrawn=withdrawn)
        return True

    # --- forgetting ---

    async def refresh(self) -> bool:
        """Forget, for each tenant, what was erased since the last call, by this or by another server.

        Raises:
            Exception: The first error of a tenant. The others are done all the same.
        """
        errors: list[Exception] = []
        for tenant, epoch in (await self._store.tenants.list_epochs()).items():
            with in_tenant(tenant):
                try:
                    await self._forget_until(tenant, epoch)
                except Exception as error:
                    errors.append(error)
        if errors:
            raise errors[0]
        return True

    async def _forget_until(self, tenant: str, epoch: int) -> None:
        known = self._epochs.get(tenant, 0)
        if known >= epoch:
            return
        # First: what is remembered must not wait for an artifact store that is out of reach. From then on work reads
        # the rows anew, and the engine reaches no block that it cached before.
        for forget in self._forget:
            forget()
        set_erasure_epoch(max(epoch, erasure_epoch()))
        for sealed in await self._store.erasures.list_sealed(known):
            await self._drop_versions(sealed.versions, sealed.artifacts)
        self._epochs[tenant] = max(epoch, self._epochs.get(tenant, 0))

    def _note_epoch(self, tenant: str, epoch: int) -> None:
        self._epochs[tenant] = epoch
        with in_tenant(tenant):
            set_erasure_epoch(epoch)

    async def _drop_versions(self, names: Iterable[str], artifacts: Iterable[str]) -> None:
        """Unload versions once their last request ends, and remove their files."""
        for ref in map(VersionRef, names):
            await self._residency.drop(ref.key, ref.number)
        for digest in artifacts:
            await self._storage.remove_artifact(digest)

    async def _wait_for_work(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.erasure_poll_s):
                await self._wake.wait()

    async def _pause(self) -> None:
        await asyncio.sleep(self._settings.erasure_poll_s)
