from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mindprint.types import Funnel
from mindprint_server.store import RecordNotFound, Store
from mindprint_server.store.funnel import fold


def row(verdict: str, reason: str | None, generated: int, trained: int = 0, live: int = 0) -> SimpleNamespace:
    return SimpleNamespace(verdict=verdict, reason=reason, generated=generated, trained=trained, live=live)


def test_folds_counts_of_the_database() -> None:
    rows = [
        row("accepted", None, 5, 4, 3),
        row("accepted", "kept second", 1),
        row("rejected", "loop", 2),
        row("rejected", None, 1),
        row("unjudged", None, 7),
    ]
    rejected = {"loop": 2, "unspecified": 1}
    assert fold(rows) == Funnel(generated=16, rejected=rejected, accepted=6, trained=4, live=3)
    assert fold([]) == Funnel()


async def test_counts_one_user_and_all(store: Store, make: Any) -> None:
    assert await store.funnel.get() == Funnel()
    await make.trained(store, "ann", "d1")  # two traces of e0, in version 1
    await make.trained(store, "ann", "d2")  # two more, in version 2, the live one
    await make.user(store, "bob")
    await store.traces.add(make.trace("bob", "e0"))
    await store.traces.add(make.trace("bob", "e1", "rejected", reason="loop"))
    await store.traces.add(make.trace("bob", "e1", "rejected", reason="wrong"))
    await store.traces.add(make.trace("bob", None, "unjudged"))

    assert await store.funnel.get("ann") == Funnel(attempted=1, generated=4, accepted=4, trained=4, live=2)
    assert await store.funnel.get("bob") == Funnel(
        attempted=2, generated=4, rejected={"loop": 1, "wrong": 1}, accepted=1
    )
    assert await store.funnel.get() == Funnel(
        attempted=3, generated=8, rejected={"loop": 1, "wrong": 1}, accepted=5, trained=4, live=2
    )
    await store.live_versions.set_live("user/ann", None)
    assert (await store.funnel.get()).live == 0
    with pytest.raises(RecordNotFound, match="user 'carl'"):
        await store.funnel.get("carl")
