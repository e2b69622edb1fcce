"""Keys behind HTTP: caches, ends, rotation, and what is stored of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from mindprint.types import CreateApiKey, RotateApiKey
from mindprint_server.access import AccessControl
from mindprint_server.settings import Settings
from mindprint_server.store import Store, StoreFull
from mindprint_server.wiring import Services


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Replicas = tuple[AccessControl, AccessControl, Clock]


@pytest.fixture
def replicas(services: Services, settings: Settings) -> Replicas:
    """Two servers on one store, and the clock of their caches."""
    clock = Clock()
    one, other = (AccessControl(settings, services.store, clock=clock) for _ in range(2))
    return one, other, clock


async def test_a_key_that_another_server_revoked_is_refused_within_the_cache_s_time(
    replicas: Replicas, settings: Settings
) -> None:
    one, other, clock = replicas
    assert await other.is_open()
    made = await one.create(CreateApiKey(name="app", scopes=["read"]))
    clock.now += settings.key_cache_s + 0.01
    assert not await other.is_open()
    assert await other.identify(made.key) is not None
    await one.revoke(made.id)
    clock.now += settings.key_cache_s + 0.01
    assert await other.identify(made.key) is None
    assert settings.key_cache_s <= 5


async def test_a_server_whose_keys_are_all_revoked_stays_closed(
    replicas: Replicas,
) -> None:
    one, _, clock = replicas
    await one.revoke((await one.create(CreateApiKey(name="app", scopes=["admin"]))).id)
    clock.now += 60
    assert not await one.is_open()


async def test_a_key_expires(replicas: Replicas) -> None:
    one, other, _ = replicas
    now = datetime.now(UTC)
    made = await one.create(CreateApiKey(name="app", scopes=["read"], expires_in_s=60), now=now)
    assert await one.identify(made.key, now=now + timedelta(seconds=59)) is not None
    assert await one.identify(made.key, now=now + timedelta(seconds=60)) is None
    assert await other.identify(made.key, now=now + timedelta(seconds=61)) is None


async def test_rotation_renews_the_lifetime(replicas: Replicas) -> None:
    one, _, _ = replicas
    now = datetime.now(UTC)
    made = await one.create(CreateApiKey(name="app", scopes=["read"], expires_in_s=90), now=now)
    new = await one.rotate(made.id, RotateApiKey(keep_old_s=0), now=now + timedelta(seconds=60))
    assert new.expires_at == now + timedelta(seconds=150)


async def test_a_write_that_fails_refuses_no_request(
    replicas: Replicas, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, _ = replicas
    made = await one.create(CreateApiKey(name="app", scopes=["read"]))

    async def full(id: str, at: datetime) -> None:
        raise StoreFull()

    monkeypatch.setattr(services.store.api_keys, "record_use", full)
    assert await other.identify(made.key) is not None
    await other.stop()


async def test_a_key_that_is_revoked_while_it_is_looked_up_is_answered(
    replicas: Replicas, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _, clock = replicas
    made = await one.create(CreateApiKey(name="app", scopes=["read"]))
    find = services.store.api_keys.find

    async def slow(id: str) -> Any:
        found = await find(id)
        await one.revoke(id)
        clock.now += 60
        return found

    monkeypatch.setattr(services.store.api_keys, "find", slow)
    assert await one.identify(made.key) is not None
    clock.now += 60
    monkeypatch.undo()
    assert await one.identify(made.key) is None
    await one.stop()


async def test_the_last_use_is_kept_by_the_minute(replicas: Replicas, services: Services) -> None:
    one, _, clock = replicas
    now = datetime.now(UTC)
    made = await one.create(CreateApiKey(name="app", scopes=["read"]), now=now)
    for seconds in (0, 30, 61):
        clock.now += 60
        await one.identify(made.key, now=now + timedelta(seconds=seconds))
    await one.stop()
    assert (await services.store.api_keys.get(made.id, tenant=None)).last_used_at == now + timedelta(seconds=61)
    clock.now += 60
    await one.identify(f"mp_{made.id}_{'A' * 43}", now=now + timedelta(seconds=900))
    await one.stop()
    assert (await services.store.api_keys.get(made.id, tenant=None)).last_used_at == now + timedelta(seconds=61)


async def test_only_a_hash_is_stored(services: Services) -> None:
    made = await services.access.create(CreateApiKey(name="app", scopes=["read"]))
    secret = made.key.removeprefix(f"mp_{made.id}_")
    assert len(secret) == 43  # 256 bits
    assert secret not in await dump(services.store)


async def dump(store: Store) -> str:
    async with store._database.snapshot() as db:
        return str((await db.execute(text("SELECT * FROM api_keys"))).all())
