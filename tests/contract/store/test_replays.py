from __future__ import annotations

import asyncio
from typing import Any

from mindprint_server.store import Replay, Store


def replay(position: int, **changes: Any) -> Replay:
    texts = {"prompt": f"question {position}", "thinking": "let me see", "answer": "so"}
    return Replay(position, **(texts | changes))


async def test_replays_are_kept_by_base_and_prompts(store: Store) -> None:
    assert await store.replays.list_all("base", "p1") == []
    both = [replay(0), replay(1, thinking="a\0b")]
    stored = await store.replays.add("base", "p1", both[::-1])
    assert stored == [replay(0), replay(1, thinking="a\N{REPLACEMENT CHARACTER}b")]
    assert await store.replays.list_all("base", "p1") == stored
    assert await store.replays.list_all("base", "p2") == await store.replays.list_all("other", "p1") == []
    assert await store.replays.add("base", "p1", []) == stored


async def test_written_at_once_by_two_servers_both_get_the_same(store: Store, other: Store) -> None:
    sets = [[replay(n, answer=who) for n in range(4)] for who in ("one", "two")]
    one, two = await asyncio.gather(
        store.replays.add("base", "p1", sets[0]), other.replays.add("base", "p1", sets[1][::-1])
    )
    assert one == two == await store.replays.list_all("base", "p1")
    assert {r.answer for r in one} in ({"one"}, {"two"})
