"""Quotas of tenants and keys: requests, written tokens, uploads, and what is stored.

The decisions are pure: a token bucket for each rate, and comparisons for the rest. `api/access.py` asks for each
request, the services count the tokens that the engine writes, and `StoredQuotas` counts in the store.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from cachetools import LRUCache, TTLCache

from mindprint_server.exceptions import LimitExceeded
from mindprint_server.settings import QuotaSettings
from mindprint_server.store import Store
from mindprint_server.tenancy import current_tenant, tenant_or_none

MAX_BUCKETS = 16_384
"""Buckets that are kept, the newest; one that was not used for a minute is full again, so it may be forgotten."""
COUNT_AGE_S = 60
"""Seconds for which a count of the store is used."""
RATES = {
    "requests_per_minute": "{holder} sent {most} requests within a minute",
    "generated_tokens_per_minute": "the engine wrote {most} tokens a minute for {holder}",
    "upload_bytes_per_minute": "{holder} uploaded {most} bytes within a minute",
}
"""Quotas that are rates, each with what is said once it is used up. The error's code is `quota_<name>`."""
_key: ContextVar[str | None] = ContextVar("key", default=None)


def enter_key(id: str | None) -> None:
    """Count for a key from now on, to the end of the running task; None counts for the tenant only."""
    _key.set(id)


def current_key() -> str | None:
    """Return the id of the key that the running work counts for; None where it counts for the tenant only."""
    return _key.get()


@contextmanager
def in_key(id: str | None) -> Iterator[None]:
    """Run the block for a key, and forget one that was entered in it; None counts for the tenant only."""
    token = _key.set(id)
    try:
        yield
    finally:
        _key.reset(token)


def in_no_key() -> AbstractContextManager[None]:
    """Run the block without a key, and forget the one that was entered in it."""
    return in_key(None)


class TokenBucket:
    """A token bucket. It holds `per_minute` at most, is full at first, and refills as much in a minute.

    It may go below zero: what a request costs is often known only afterwards.

    Args:
        per_minute: What may be taken in a minute.
        now: Seconds on any clock that only goes forward, as in all methods.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self._per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def wait_s(self, now: float) -> float:
        """Return the seconds until the bucket holds 1; 0 if it does."""
        self._refill(now)
        return max(0.0, (1 - self._level) * 60 / self._per_minute)

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, also if the bucket holds less."""
        self._refill(now)
        self._level -= amount

    def _refill(self, now: float) -> None:
        self._level = min(self._per_minute, self._level + (now - self._at) * self._per_minute / 60)
        self._at = now


@dataclass(frozen=True)
class Quota:
    """A bound that holds for a tenant or a key."""

    holder: str
    """`tenant acme` or `key 0123456789abcdef`."""
    most: int
    setting: str
    """What to raise."""


@dataclass(frozen=True)
class QuotaWait:
    """How long work must wait for a quota that is used up."""

    seconds: float
    what: str
    """What was used up, such as `the engine wrote 600 tokens a minute for tenant acme`."""
    setting: str
    """What to raise."""


def quotas_of(settings: QuotaSettings, name: str, tenant: str, key: str | None = None) -> list[Quota]:
    """Return the bounds of one quota for a caller: the tenant's, then the key's.

    Args:
        settings: The server's quotas, and those of single tenants.
        name: Name of a quota, such as `requests_per_minute`.
        tenant: The caller's tenant.
        key: Id of the caller's key; None without one.
    """
    own = settings.tenant_quotas.get(tenant)
    holders = [(name, f"tenant {tenant}")] + ([] if key is None else [(f"key_{name}", f"key {key}")])
    found = []
    for quota, holder in holders:
        is_own = own is not None and quota in own.model_fields_set
        most = getattr(own, quota) if is_own else getattr(settings, f"quota_{quota}", None)
        if most is not None:
            setting = f"{quota} in tenant_quotas.{tenant}" if is_own else f"quota_{quota}"
            found.append(Quota(holder, most, setting))
    return found


class Quotas:
    """Counts what tenants and keys use of this server, and refuses what is over a quota.

    All methods are about the running work's tenant and key.

    Args:
        settings: The quotas.
        retry_after_s: Seconds after which a caller should try again who has too many requests under way.
        clock: Seconds.
    """

    def __init__(
        self, settings: QuotaSettings, *, retry_after_s: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._retry_after_s = retry_after_s
        self._clock = clock
        self._buckets: LRUCache[tuple[str, str], TokenBucket] = LRUCache(MAX_BUCKETS)
        self._running: Counter[str] = Counter()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request, which is under way during the block.

        Raises:
            LimitExceeded: Too many are under way, or were sent in the last minute.
        """
        running = self._quotas("running_requests")
        for quota in running:
            if self._running[quota.holder] >= quota.most:
                message = (
                    f"{quota.holder} has {quota.most} requests under way already: wait until one has ended, "
                    f"or raise {quota.setting}"
                )
                raise LimitExceeded("quota_running_requests", message, retry_after=self._retry_after_s)
        self._check("requests_per_minute")
        self._take("requests_per_minute", 1)
        holders = [quota.holder for quota in running]
        self._running.update(holders)
        try:
            yield
        finally:
            for holder in holders:
                self._running[holder] -= 1
                if not self._running[holder]:
                    del self._running[holder]

    def check_tokens(self) -> None:
        """Refuse a request that lets the engine write, if it wrote too much.

        Raises:
            LimitExceeded: The minute's tokens are used up.
        """
        self._check("generated_tokens_per_minute")

    def token_wait(self) -> QuotaWait | None:
        """Return how long work that lets the engine write must wait; None if it need not."""
        return self._longest_wait("generated_tokens_per_minute")

    def count_tokens(self, tokens: int) -> None:
        """Count tokens that the engine wrote; nothing is counted for the server's own work."""
        if tenant_or_none() is not None:
            self._take("generated_tokens_per_minute", tokens)

    def check_upload(self, size: int) -> None:
        """Count an upload that is about to be read, or refuse it.

        Args:
            size: Its bytes.

        Raises:
            LimitExceeded: The minute's bytes are used up.
        """
        self._check("upload_bytes_per_minute")
        self._take("upload_bytes_per_minute", size)

    def _check(self, name: str) -> None:
        """Refuse if the bucket of a quota is empty."""
        if (wait := self._longest_wait(name)) is None:
            return
        seconds = math.ceil(wait.seconds)
        message = f"{wait.what}: retry in {seconds} s, or raise {wait.setting}"
        raise LimitExceeded(f"quota_{name}", message, retry_after=seconds)

    def _longest_wait(self, name: str) -> QuotaWait | None:
        """Return the wait for the empty bucket of a quota; of several that with the longest one."""
        now = self._clock()
        waits = [(quota, self._bucket(name, quota, now).wait_s(now)) for quota in self._quotas(name)]
        quota, wait_s = max(waits, key=lambda wait: wait[1], default=(None, 0.0))
        if quota is None or wait_s <= 0:
            return None
        return QuotaWait(wait_s, RATES[name].format(holder=quota.holder, most=quota.most), quota.setting)

    def _take(self, name: str, amount: int) -> None:
        now = self._clock()
        for quota in self._quotas(name):
            self._bucket(name, quota, now).take(amount, now)

    def _bucket(self, name: str, quota: Quota, now: float) -> TokenBucket:
        id = name, quota.holder
        if (bucket := self._buckets.get(id)) is None:
            bucket = self._buckets[id] = TokenBucket(quota.most, now)
        return bucket

    def _quotas(self, name: str) -> list[Quota]:
        return quotas_of(self._settings, name, current_tenant(), _key.get())


@dataclass
class _Count:
    stored: int


class StoredQuotas:
    """Refuses what would store too much. All methods are about the running work's tenant.

    Args:
        settings: The quotas.
        store: Where is counted.
        clock: Seconds, for the age of the counts.
    """

    def __init__(self, settings: QuotaSettings, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._store = store
        self._counting: dict[str, asyncio.Lock] = {}
        self._engagements: TTLCache[str, _Count] = TTLCache(MAX_BUCKETS, COUNT_AGE_S, clock)

    async def check_engagements(self, count: int) -> None:
        """Refuse engagements if the tenant would have too many.

        Args:
            count: How many are to be stored.

        Raises:
            LimitExceeded: There would be too many.
        """
        for quota in quotas_of(self._settings, "engagements", current_tenant()):
            known = await self._count_engagements()
            if known.stored + count > quota.most:
                message = (
                    f"{quota.holder} has {known.stored} engagements, of at most {quota.most}: erase users, "
                    f"or raise {quota.setting}"
                )
                raise LimitExceeded("quota_engagements", message, retry_after=COUNT_AGE_S)

    async def _count_engagements(self) -> _Count:
        tenant = current_tenant()
        # One request counts, the others wait for it: a count of many rows takes long.
        async with self._counting.setdefault(tenant, asyncio.Lock()):
            if (known := self._engagements.get(tenant)) is None:
                known = self._engagements[tenant] = _Count(await self._store.engagements.count_all())
            return known

    def add_engagements(self, count: int) -> None:
        """Add engagements that were stored to the count."""
        if (known := self._engagements.get(current_tenant())) is not None:
            known.stored += count

    async def may_add_adapter(self) -> bool:
        """Return whether the tenant may have one more adapter."""
        quotas = quotas_of(self._settings, "adapters", current_tenant())
        return not quotas or await self._store.adapters.count() < quotas[0].most

    async def check_adapter(self, key: str) -> None:
        """Refuse an adapter that has neither a version nor an upload, if the tenant has too many.

        Args:
            key: Adapter key.

        Raises:
            LimitExceeded: There would be too many.
        """
        for quota in quotas_of(self._settings, "adapters", current_tenant()):
            if await self._store.adapters.count() >= quota.most and not await self._store.adapters.exists(key):
                message = (
                    f"{quota.holder} has {quota.most} adapters already: train one of them again, "
                    f"or raise {quota.setting}"
                )
                raise LimitExceeded("quota_adapters", message, retry_after=COUNT_AGE_S)
