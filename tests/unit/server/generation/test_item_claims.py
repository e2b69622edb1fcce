"""How many items a server claims, and of which batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint.types import BatchRequest
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.generation.item_claims import ItemClaimer, in_turn, items_to_claim
from mindprint_server.operation.supervision import Supervisor
from mindprint_server.settings import Settings
from mindprint_server.store import Store, StoreBusy
from mindprint_server.store.batch_claims import OpenBatch
from mindprint_server.wiring import close_services, open_services
from samples import engagement


@pytest.mark.parametrize(
    ("held", "limit", "ahead", "claimed"),
    [
        (0, 4, 8, 12),
        (8, 4, 8, 4),
        (9, 4, 8, 0),
        (12, 4, 8, 0),
        (99, 4, 8, 0),
        (3, 4, 0, 1),
        (4, 4, 0, 0),
        (0, 1, 1, 2),
    ],
)
def test_items_are_claimed_once_half_of_those_ahead_are_missing(
    held: int, limit: int, ahead: int, claimed: int
) -> None:
    assert items_to_claim(held, limit, ahead) == claimed


@given(held=st.integers(0, 300), limit=st.integers(1, 128), ahead=st.integers(0, 128))
def test_claims_are_bounded_and_leave_no_engine_idle(held: int, limit: int, ahead: int) -> None:
    claimed = items_to_claim(held, limit, ahead)
    assert held + claimed <= max(held, limit + ahead)
    assert held + claimed >= limit


def test_batches_take_turns_and_a_new_one_comes_first() -> None:
    one, two, three = (OpenBatch("default", id, BatchRequest(), True, False) for id in ("1", "2", "3"))
    assert list(in_turn([one, two], [])) == [one, two]
    assert list(in_turn([one, two], [two, one])) == [two, one]
    assert list(in_turn([one, two, three], [two, one])) == [three, two, one]
    assert list(in_turn([one], [two, one])) == [one]


async def test_server_that_listens_again_is_ready_again() -> None:
    """The database was away. Nothing returns after that: listening lasts as long as its session."""
    listens = asyncio.Event()

    class Notifications:
        available = True
        tries = 0

        async def listen(self, on_change: Callable[[], None]) -> None:
            self.tries += 1
            if self.tries == 1:
                raise StoreBusy("the database is starting or stopping")
            on_change()
            listens.set()
            await asyncio.Event().wait()

    async def list_open() -> list[OpenBatch]:
        return []

    async def note(batches: list[OpenBatch]) -> None:
        assert not batches

    settings = Settings(retry_min_s=0.001, retry_max_s=0.002, max_failing_s=5)
    seconds = [0.0]
    supervisor = Supervisor(settings, lambda *_: None, clock=lambda: seconds[0])
    store = SimpleNamespace(notifications=Notifications(), batch_claims=SimpleNamespace(list_open=list_open))
    ctx: Any = SimpleNamespace(settings=settings, store=store, supervisor=supervisor)
    worker: Any = SimpleNamespace(held=set(), limit=None, ending=())
    pauses: Any = SimpleNamespace(note=note)
    claimer = ItemClaimer(ctx, worker, pauses)
    claimer.start()
    await asyncio.wait_for(listens.wait(), 10)
    seconds[0] += 5
    assert supervisor.failing() == {}
    await claimer.stop()


async def test_start_on_sqlite_takes_over_what_the_killed_server_held(settings: Settings, base_folder: Path) -> None:
    """By the clock the claims would end in eleven days."""
    store = await Store.open(settings.url)
    await store.engagements.add("ann", [engagement(n) for n in range(6)])
    batch, _ = await store.batches.add(BatchRequest(candidates=1), [("ann", "e005")], max_open=9)
    assert await store.batch_claims.claim(batch.id, "killed", limit=9, ttl_s=1e6) == [("ann", "e005")]
    await store.close()
    services = await open_services(settings, engine=FakeEngine(model_path=base_folder))
    try:
        async with asyncio.timeout(20), aclosing(services.batches.watch(batch.id)) as watched:
            states = [state async for state in watched]
    finally:
        await close_services(services)
    assert (states[-1].state, states[-1].done) == ("done", 1)
