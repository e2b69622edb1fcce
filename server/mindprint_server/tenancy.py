"""Whose data the code works on: the tenant of the running request, or of the running piece of background work.

It is kept in a context variable. `api/access.py` sets it to the tenant of the caller's key, and background work sets it
for each batch, version or user that it takes up. The store limits every statement to it (`store/tenant_scope.py`), and
fails where there is none: no code needs to remember a condition.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final


class NoTenant(RuntimeError):
    """Code that works on a tenant's data ran outside of any tenant: a fault of the server."""

    def __init__(self) -> None:
        super().__init__("no tenant is set: run this inside in_tenant() or in_all_tenants()")


class _AllTenants:
    """Stands for all tenants at once."""


_ALL: Final = _AllTenants()
_tenant: ContextVar[str | _AllTenants | None] = ContextVar("tenant", default=None)
_SALT_KEY = secrets.token_bytes(32)
_erasure_epochs: dict[str, int] = {}


def current_tenant() -> str:
    """Return the tenant of the running work.

    Raises:
        NoTenant: None is set, or the work is on all tenants.
    """
    tenant = _tenant.get()
    if not isinstance(tenant, str):
        raise NoTenant
    return tenant


def tenant_or_none() -> str | None:
    """Return the tenant of the running work; None where it is the server's own work."""
    tenant = _tenant.get()
    return tenant if isinstance(tenant, str) else None


def of_tenant(name: str) -> tuple[str, str]:
    """Return a key for what is kept in memory about a user, a cohort or an adapter: names repeat between tenants."""
    return current_tenant(), name


def remembered_key(name: str) -> tuple[str, str, int]:
    """Return a key for what was read of a user's rows: what was read before an erasure is not found after it.

    Make the key before reading: a read that an erasure overtakes is then kept under the old key.
    """
    return (*of_tenant(name), erasure_epoch())


def drop_tenant(remembered: MutableMapping[Any, Any]) -> None:
    """Remove the running work's tenant from a mapping whose keys begin as those of `of_tenant` do."""
    for key in [key for key in remembered if key[0] == current_tenant()]:
        remembered.pop(key, None)


def is_in_all_tenants() -> bool:
    """Return whether the running work reads the rows of all tenants."""
    return isinstance(_tenant.get(), _AllTenants)


@contextmanager
def in_tenant(name: str) -> Iterator[None]:
    """Run the block for a tenant."""
    token = _tenant.set(name)
    try:
        yield
    finally:
        _tenant.reset(token)


@contextmanager
def in_all_tenants() -> Iterator[None]:
    """Let the block read rows of all tenants, for the server's own work: it finds what is to be done, and for whom.

    A SELECT in such a block may read one table with a tenant, not join two: ids repeat between tenants.
    """
    token = _tenant.set(_ALL)
    try:
        yield
    finally:
        _tenant.reset(token)


def enter_tenant(name: str) -> None:
    """Work for a tenant from now on, to the end of the running task."""
    _tenant.set(name)


@contextmanager
def in_no_tenant() -> Iterator[None]:
    """Run the block, and the tasks that it starts, without a tenant: the server's own work sets one where needed."""
    token = _tenant.set(None)
    try:
        yield
    finally:
        _tenant.reset(token)


def erasure_epoch() -> int:
    """Return the tenant's erasure epoch as this server knows it: it grows with each erasure.

    Work notes it before it reads a user's rows. The store refuses what was made of rows that were erased since.
    """
    return _erasure_epochs.get(current_tenant(), 0)


def set_erasure_epoch(epoch: int) -> None:
    """Note the tenant's erasure epoch. The caller has dropped what this server remembered of before."""
    _erasure_epochs[current_tenant()] = epoch


def cache_salt(callers: str | None = None) -> str:
    """Return the salt of the engine's prefix cache: tenants share no cached block, so neither can time the other's.

    The server's own work, which sees no tenant's data, has a salt too. Nobody outside of this process can guess them.
    They are others after a restart, as the cache is empty then, and after an erasure: blocks of before are not reached.

    Args:
        callers: A salt of the caller's own, which divides the tenant's cache further.
    """
    tenant = tenant_or_none() or ""
    return f"{_digest(tenant)}.{_digest(tenant, str(_erasure_epochs.get(tenant, 0)), callers or '')}"


def salted_tenant(salt: str | None) -> str | None:
    """Return the part of a `cache_salt` that is the same for all work of one tenant, whatever its callers add."""
    return salt and salt.partition(".")[0]


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), key=_SALT_KEY, digest_size=16).hexdigest()
