"""Who may call the server: API keys, checked against the store and cached for a moment.

A key's text is `mp_<id>_<secret>`. The secret has 256 random bits, so one SHA-256 of it is enough: there is nothing to
guess. Without any key the server is *open*, and `process.py` lets it listen on loopback only.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from cachetools import LRUCache, TTLCache

from mindprint.private_files import make_private_folder
from mindprint.types import DEFAULT_TENANT, ApiKey, CreateApiKey, CreatedApiKey, RotateApiKey, Scope
from mindprint.types.api_keys import KEY_TEXT
from mindprint.types.audit import AuditValue
from mindprint_server.exceptions import Conflict, Forbidden
from mindprint_server.settings import AccessSettings, Settings
from mindprint_server.store import Store, StoreError
from mindprint_server.store.api_keys import StoredApiKey
from mindprint_server.store.audit import HOST, new_event
from mindprint_server.tenancy import current_tenant, in_tenant

CACHED_KEYS = 4096
"""Keys, known and unknown, that are remembered at once."""
USE_GRAIN = timedelta(minutes=1)
"""The time of the last use is written at most so often."""
BOOTSTRAP = "admin_key"
"""The id of the key in the setting `admin_key`, which is in no table."""


class AccessControl:
    """Tells whose a request is, and creates, rotates and revokes keys.

    Args:
        settings: The setting `admin_key`, and for how long a key is cached.
        store: Where keys are stored.
        clock: Seconds, for the cache.
    """

    def __init__(self, settings: AccessSettings, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._store = store
        self._stored: TTLCache[str, StoredApiKey | None] = TTLCache(CACHED_KEYS, settings.key_cache_s, clock)
        self._is_closed = settings.admin_key is not None
        self._open_until: TTLCache[None, bool] = TTLCache(1, settings.key_cache_s, clock)
        self._used: LRUCache[str, datetime] = LRUCache(CACHED_KEYS)
        self._recording: set[asyncio.Task[None]] = set()

    async def is_open(self) -> bool:
        """Return whether no key was ever made, so that callers need none. At most `key_cache_s` old.

        Rows of keys stay, so a server that has seen one does not look again.
        """
        if not self._is_closed and None not in self._open_until:
            self._is_closed = await self._store.api_keys.exist()
            self._open_until[None] = True
        return not self._is_closed

    async def identify(self, text: str, *, now: datetime | None = None) -> ApiKey | None:
        """Return the key with this text; None if there is none, or if it is revoked or expired.

        A change of the key in the store is seen within `key_cache_s`.
        """
        now = now or datetime.now(UTC)
        if (admin := self._settings.admin_key) is not None and _equal(text, admin.get_secret_value()):
            return ApiKey(id=BOOTSTRAP, tenant=DEFAULT_TENANT, name=BOOTSTRAP, scopes=["admin"], created_at=now)
        if (parts := KEY_TEXT.fullmatch(text)) is None:
            return None
        id, secret = parts.groups()
        try:  # one look: an entry may expire between two. An unknown key is cached as None.
            stored = self._stored[id]
        except KeyError:
            stored = self._stored[id] = await self._store.api_keys.find(id)
        if stored is None or not is_valid(stored, secret, now):
            return None
        self._record_use(stored, now)
        return stored.key

    async def create(self, wanted: CreateApiKey, *, now: datetime | None = None) -> CreatedApiKey:
        """Create a key and return it with its text, which nothing can show again.

        Raises:
            Forbidden: The key is to be another tenant's, and the caller is no admin of `default`.
        """
        now = now or datetime.now(UTC)
        tenant = wanted.tenant or current_tenant()
        if _reached() not in (None, tenant):
            message = f"only an admin of {DEFAULT_TENANT} makes keys of other tenants: leave out tenant"
            raise Forbidden("other_tenant", message, param="tenant")
        expires_at = None if wanted.expires_in_s is None else now + timedelta(seconds=wanted.expires_in_s)
        key = ApiKey(
            id=secrets.token_hex(8),
            tenant=tenant,
            name=wanted.name,
            scopes=sorted(set(wanted.scopes)),
            created_at=now,
            expires_at=expires_at,
        )
        return await self._add(key)

    async def rotate(self, id: str, wanted: RotateApiKey, *, now: datetime | None = None) -> CreatedApiKey:
        """Create a key like another, which expires `keep_old_s` from now. Both are valid until then.

        A key that expires gets a successor with the same lifetime, counted from now.

        Args:
            id: The old key.
            wanted: For how long the old key stays valid.
            now: The time; None is the clock's.

        Raises:
            RecordNotFound: There is no such key.
            Conflict: The key is revoked or has expired.
        """
        now = now or datetime.now(UTC)
        old = await self._store.api_keys.get(id, tenant=_reached())
        if has_ended(old, now):
            raise Conflict("key_ended", f"key {id} is revoked or has expired: create a new one")
        expires_at = None if old.expires_at is None else now + (old.expires_at - old.created_at)
        ends = id, now + timedelta(seconds=wanted.keep_old_s)
        changes = {"id": secrets.token_hex(8), "created_at": now, "expires_at": expires_at, "last_used_at": None}
        created = await self._add(old.model_copy(update=changes), ends=ends)
        self._stored.pop(id, None)
        return created

    async def revoke(self, id: str) -> ApiKey:
        """Revoke a key for good: here at once, on other servers within their `key_cache_s`.

        Raises:
            RecordNotFound: There is no such key.
        """
        key = await self._store.api_keys.revoke(id, tenant=_reached())
        self._stored.pop(id, None)
        return key

    async def list_page(self, *, after: str | None = None, limit: int = 100) -> list[ApiKey]:
        """List keys that the caller reaches, the oldest first.

        Args:
            after: Last id of the previous page; None starts at the beginning.
            limit: Maximum number of keys.
        """
        return await self._store.api_keys.list_page(tenant=_reached(), after=after, limit=limit)

    async def _add(self, key: ApiKey, *, ends: tuple[str, datetime] | None = None) -> CreatedApiKey:
        secret = secrets.token_urlsafe(32)
        await self._store.api_keys.add(key, _sha256(secret), ends=ends)
        self._stored.pop(key.id, None)
        self._is_closed = True
        return CreatedApiKey(**key.model_dump(), key=f"mp_{key.id}_{secret}")

    def _record_use(self, stored: StoredApiKey, now: datetime) -> None:
        """Store the time of a use, in the background: whether a request is answered does not hang on a write."""
        last = self._used.get(stored.key.id, stored.key.last_used_at)
        if last is not None and now - last < USE_GRAIN:
            return
        self._used[stored.key.id] = now

        async def record() -> None:
            with suppress(StoreError):  # the next use after `USE_GRAIN` stores it
                await self._store.api_keys.record_use(stored.key.id, now)

        task = asyncio.create_task(record())
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)

    async def stop(self) -> None:
        """Wait for uses that are being stored."""
        await asyncio.gather(*self._recording)


async def create_admin_key(
    settings: Settings, name: str, expires_in_s: float | None, tenant: str = DEFAULT_TENANT
) -> CreatedApiKey:
    """Create an admin key of a tenant straight in the database: for the first key, on the server's host.

    Raises:
        StoreError: The database cannot be opened.
    """
    make_private_folder(settings.data_dir)
    store = await Store.open(settings.url)
    try:
        wanted = CreateApiKey(name=name, scopes=["admin"], expires_in_s=expires_in_s, tenant=tenant)
        with in_tenant(DEFAULT_TENANT):
            created = await AccessControl(settings, store).create(wanted)
        objects: dict[str, AuditValue] = {"id": created.id, "scopes": [*created.scopes]}
        with in_tenant(tenant):
            await store.audit.add(new_event(HOST, "key.create", objects, status=201, request_id=""))
        return created
    finally:
        await store.close()


def _reached() -> str | None:
    """Return the tenant whose keys the caller reaches; None: all. The admins of `default` run the server."""
    return None if current_tenant() == DEFAULT_TENANT else current_tenant()


def is_valid(stored: StoredApiKey, secret: str, now: datetime) -> bool:
    """Return whether a secret is the key's, and the key is neither revoked nor expired."""
    return _equal(_sha256(secret), stored.secret_sha256) and not has_ended(stored.key, now)


def has_ended(key: ApiKey, now: datetime) -> bool:
    """Return whether a key is revoked or has expired."""
    return key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now)


def may(key: ApiKey, *any_of: Scope) -> bool:
    """Return whether a key has one of these scopes; `admin` has all."""
    return "admin" in key.scopes or not set(any_of).isdisjoint(key.scopes)


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
