from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mindprint.types import ApiKey
from mindprint_server.store import RecordNotFound, Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HASH = "a" * 64


def key(id: str, **changes: object) -> ApiKey:
    return ApiKey(id=id, tenant="default", name="app", scopes=["infer", "read"], created_at=NOW).model_copy(
        update=changes
    )


async def test_a_key_is_found_with_its_hash(store: Store) -> None:
    assert not await store.api_keys.exist()
    assert await store.api_keys.add(key("k1"), HASH) == key("k1")
    assert await store.api_keys.exist()
    found = await store.api_keys.find("k1")
    assert found is not None
    assert (found.key, found.secret_sha256) == (key("k1"), HASH)
    assert await store.api_keys.get("k1", tenant=None) == key("k1")
    assert await store.api_keys.find("k2") is None


async def test_keys_are_listed_by_age(store: Store) -> None:
    await store.api_keys.add(key("k1", created_at=NOW + timedelta(seconds=1)), HASH)
    await store.api_keys.add(key("k2"), HASH)
    assert [listed.id for listed in await store.api_keys.list_page(tenant=None)] == ["k2", "k1"]


async def test_a_key_is_revoked_once(store: Store) -> None:
    await store.api_keys.add(key("k1"), HASH)
    assert (await store.api_keys.revoke("k1", now=NOW, tenant=None)).revoked_at == NOW
    assert (await store.api_keys.revoke("k1", tenant=None, now=NOW + timedelta(days=1))).revoked_at == NOW
    assert await store.api_keys.exist()


async def test_a_key_is_replaced_in_one_step_and_never_expires_later_than_it_did(store: Store) -> None:
    await store.api_keys.add(key("k0"), HASH)
    for number, (days, expected) in enumerate(((2, 2), (3, 2), (0, 0)), 1):
        await store.api_keys.add(key(f"k{number}"), HASH, ends=("k0", NOW + timedelta(days=days)))
        assert (await store.api_keys.get("k0", tenant=None)).expires_at == NOW + timedelta(days=expected)
    with pytest.raises(RecordNotFound):
        await store.api_keys.add(key("k9"), HASH, ends=("nobody", NOW))
    assert await store.api_keys.find("k9") is None


async def test_the_last_use_is_stored(store: Store) -> None:
    await store.api_keys.add(key("k1"), HASH)
    await store.api_keys.record_use("k1", NOW)
    assert (await store.api_keys.get("k1", tenant=None)).last_used_at == NOW


async def test_unknown_keys(store: Store) -> None:
    for call in (store.api_keys.get("k", tenant=None), store.api_keys.revoke("k", tenant=None)):
        with pytest.raises(RecordNotFound, match="key 'k'"):
            await call
    await store.api_keys.record_use("k", NOW)
