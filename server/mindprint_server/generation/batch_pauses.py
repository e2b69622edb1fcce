"""Lets batches wait while their tenant, or the key that started them, is over its quota of generated tokens.

A batch that waits starts no engagement, and no more of it is claimed. What runs goes on: the tokens that it writes over
the quota are a debt of the bucket, and lengthen the wait. So the quota holds on average, and no slot of the engine is
held by work that waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

from mindprint_server.context import ServerContext
from mindprint_server.sharing.quotas import QuotaWait, in_key
from mindprint_server.store.batch_claims import OpenBatch
from mindprint_server.tenancy import in_tenant


class OwnedBatch(Protocol):
    """A batch, and whose quotas hold for it."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def tenant(self) -> str:
        """Whose it is."""

    @property
    def api_key(self) -> str | None:
        """Id of the key that started it; None: none."""


class BatchPauses:
    """Says which batches wait, and notes the reason in the store, where callers see it."""

    def __init__(self, ctx: ServerContext) -> None:
        self._quotas = ctx.quotas
        self._store = ctx.store
        self._max_sleep_s = ctx.settings.batch_poll_interval_s
        self._noted: dict[str, str] = {}
        """What this server noted, by batch."""

    def is_paused(self, batch: OwnedBatch) -> bool:
        """Return whether no engagement of a batch may start now."""
        return self._wait_of(batch) is not None

    async def wait(self, batch: OwnedBatch) -> None:
        """Return once engagements of a batch may start."""
        # A bucket refills by itself, and tells nobody.
        while (wait := self._wait_of(batch)) is not None:  # noqa: ASYNC110
            await asyncio.sleep(min(wait.seconds, self._max_sleep_s))

    async def note(self, batches: Collection[OpenBatch]) -> None:
        """Note in the store which of the open batches wait, where that changed.

        Raises:
            StoreError: The store is away. The next call notes what is missing.
        """
        ids = {batch.id for batch in batches}
        self._noted = {id: reason for id, reason in self._noted.items() if id in ids}
        for batch in batches:
            wait = self._wait_of(batch)
            reason = None if wait is None else f"{wait.what}; raise {wait.setting} for more"
            if reason == self._noted.get(batch.id):
                continue
            with in_tenant(batch.tenant):
                await self._store.batch_claims.note_wait(batch.id, reason)
            if reason is None:
                del self._noted[batch.id]
            else:
                self._noted[batch.id] = reason

    def _wait_of(self, batch: OwnedBatch) -> QuotaWait | None:
        with in_tenant(batch.tenant), in_key(batch.api_key):
            return self._quotas.token_wait()
