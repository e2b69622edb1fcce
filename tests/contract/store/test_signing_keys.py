from __future__ import annotations

import asyncio

from mindprint_server.store import Store


async def test_servers_that_start_at_once_get_one_key(store: Store, other: Store) -> None:
    keys = [bytes([n]) * 32 for n in range(8)]
    stored = await asyncio.gather(*((store, other)[n % 2].signing_keys.ensure("receipts", keys[n]) for n in range(8)))
    assert len(set(stored)) == 1
    assert await other.signing_keys.get("receipts") == stored[0]
    assert await store.signing_keys.get("other") is None
