from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from mindprint.types import AuditEvent
from mindprint_server.store import Store
from mindprint_server.store.audit import new_event

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def add(store: Store, actor: str = "k1", action: str = "key.revoke", **more: Any) -> AuditEvent:
    event = new_event(actor, action, {"key_id": "k2"}, **{"now": NOW, **more})
    await store.audit.add(event)
    return event


async def test_event_without_a_status_gets_one(store: Store) -> None:
    event = await add(store)
    assert await store.audit.find() == [event]
    assert event.status is None
    done = event.model_copy(update={"status": 200, "objects": {"key_id": "k2", "scopes": ["read"], "live": None}})
    await store.audit.finish(done)
    assert await store.audit.find() == [done]


async def test_events_are_listed_from_the_newest_page_after_page(store: Store) -> None:
    events = [await add(store) for _ in range(3)]
    first = await store.audit.find(limit=2)
    assert first == [events[2], events[1]]
    assert await store.audit.find(limit=2, after=first[-1].id) == [events[0]]


async def test_events_are_filtered(store: Store) -> None:
    one = await add(store)
    other = await add(store, "k3", now=NOW + timedelta(days=1))
    promoted = await add(store, action="adapter.promote")
    assert await store.audit.find(actor="k3") == [other]
    assert await store.audit.find(action="adapter.promote") == [promoted]
    assert await store.audit.find(since=NOW + timedelta(hours=1)) == [other]
    assert await store.audit.find(actor="k1", action="key.revoke") == [one]


async def test_only_events_before_a_time_are_removed(store: Store) -> None:
    await add(store, now=NOW - timedelta(seconds=1))
    kept = await add(store)
    assert await store.audit.remove_before(NOW) == 1
    assert await store.audit.find() == [kept]
