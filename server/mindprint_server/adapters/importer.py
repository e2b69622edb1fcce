"""Imports versions that were trained outside of Mindprint.

An import is an upload under a lease without traces, which is opened for it and ends with it. So it passes the same
checks as a trained version, and no trainer claims the adapter meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from mindprint.types import Manifest, Publication
from mindprint.types.keys import AdapterKey
from mindprint_server.adapters.publisher import weights_digest
from mindprint_server.context import ServerContext
from mindprint_server.store import AdapterLeased, Holdout, LeaseLost, RecordNotFound, StoreError

log = structlog.get_logger(__name__)


class Publications(Protocol):
    """What the importer needs of `PublicationService`."""

    async def accept(self, lease_id: str, manifest: Manifest, config: bytes, weights: Path) -> Publication:
        """Store the version of a lease, and begin to check it."""
        ...


class VersionImporter:
    """Publishes adapters of other trainers.

    Args:
        ctx: Settings and store of the server.
        publications: Stores and checks the version of a lease.
        holdout: Which engagements the gate evaluates a version on.
    """

    def __init__(self, ctx: ServerContext, *, publications: Publications, holdout: Holdout) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._supervisor = ctx.supervisor
        self._publications = publications
        self._holdout = holdout

    async def check_owner(self, key: AdapterKey) -> None:
        """Check that the user or the cohort of an adapter exists.

        Raises:
            RecordNotFound: There is none.
        """
        if key.kind == "user":
            await self._store.users.get(key.name)
        else:
            await self._store.cohorts.get(key.name)

    async def import_version(self, key: AdapterKey, manifest: Manifest, config: bytes, weights: Path) -> Publication:
        """Store an adapter that is to be the next version of `key`.

        Each call makes a version of its own. While the checks of an import run, the same weights get its job again.

        Args:
            key: The adapter.
            manifest: The parity items, and the digests of weights and base model. It names no traces.
            config: Content of adapter_config.json.
            weights: The uploaded safetensors file; it is moved.

        Returns:
            The job that checks it and takes it into service. The lease ends with it.

        Raises:
            AdapterLeased: A trainer holds a lease of the adapter.
            Invalid: The files cannot be served.
            ArtifactUnavailable: The files cannot be stored.
        """
        settings = self._settings
        try:
            lease = await self._store.leases.open_import(
                key,
                self._holdout,
                ttl_s=settings.publication_claim_ttl_s,
                max_attempts=settings.max_attempts,
                max_users=settings.gate_items,
            )
        except AdapterLeased:
            known = await self._store.publication_jobs.find_open(key)
            if known is None or known.digest != weights_digest(manifest):
                raise
            return known
        try:
            async with self._extended(lease.id):
                return await self._publications.accept(lease.id, manifest, config, weights)
        except BaseException:
            await asyncio.shield(self._release(lease.id))
            raise

    @asynccontextmanager
    async def _extended(self, lease_id: str) -> AsyncIterator[None]:
        """Extend the lease during the block: storing the files may take longer than it holds."""
        ttl_s = self._settings.publication_claim_ttl_s

        async def extend() -> bool:
            try:
                await self._store.leases.extend(lease_id, ttl_s)
            except (LeaseLost, RecordNotFound):
                return False  # noticed when the job is stored
            return True

        extending = self._supervisor.start_loop("import lease", extend, partial(asyncio.sleep, ttl_s / 3))
        try:
            yield
        finally:
            extending.cancel()
            await asyncio.gather(extending, return_exceptions=True)

    async def _release(self, lease_id: str) -> None:
        # One that stays ends at its deadline.
        with suppress(StoreError):
            await self._store.leases.release(lease_id)
