"""The gains of the base model's candidates, which `mode: auto` goes by."""

from __future__ import annotations

from typing import Any

import pytest

from mindprint.types import BatchRequest
from mindprint_server.store import Gain, Store

CLOSED = {"yes": -0.1, "no": -2.4}


async def gains(store: Store, user: str = "ann", limit: int = 100) -> list[Gain]:
    return await store.traces.list_gains(user, base_digest="base", prompt_version="p1", limit=limit)


async def of_ann(store: Store, make: Any) -> str:
    """A batch about nine engagements of ann's."""
    await make.user(store, "ann", 9)
    items = [("ann", f"e{n}") for n in range(9)]
    return (await store.batches.add(BatchRequest(), items, max_open=9))[0].id


async def test_whatever_the_verdict_the_newest_first(store: Store, make: Any) -> None:
    batch = await of_ann(store, make)
    written: list[tuple[str, str, str | None, float]] = [
        ("e0", "rejected", "wrong_answer", -0.25),
        ("e0", "rejected", "anchor", 0.125),
        ("e1", "accepted", None, 0.5),
    ]
    for engagement, verdict, reason, gain in written:
        scores = {"gain": gain, "target_logprob": -1.0}
        trace = make.trace(
            "ann", engagement, verdict, reason=reason, scores=scores, choice_logprobs=CLOSED, batch_id=batch
        )
        await store.traces.add(trace)
    found = [Gain("e1", True, 0.5), Gain("e0", True, 0.125), Gain("e0", True, -0.25)]
    assert await gains(store) == found
    assert await gains(store, limit=2) == found[:2]
    assert await gains(store, "bob") == []


@pytest.mark.parametrize(
    "other",
    [
        {"scores": {}},
        {"scores": {"anchor": 1.0}},
        {"mode": "generic"},
        {"made": {"saw_answer": True}},
        {"made": {"model": "user/ann@1"}},
        {"made": {"model": "imported"}},
        {"made": {"base_digest": "older"}},
        {"made": {"prompt_version": "p0"}},
    ],
)
async def test_only_unhinted_candidates_of_the_base_count(store: Store, make: Any, other: dict[str, Any]) -> None:
    usual = {"scores": {"gain": 1}, "choice_logprobs": CLOSED, "batch_id": await of_ann(store, make)}
    trace = await store.traces.add(make.trace("ann", "e0", **usual))
    made = trace.provenance.model_copy(update=other.get("made", {}))
    changed = {name: value for name, value in other.items() if name != "made"}
    await store.traces.add(make.trace("ann", "e1", **(usual | {"provenance": made} | changed)))
    assert await gains(store) == [Gain("e0", True, 1.0)]


async def test_of_closed_questions_only_those_of_batches(store: Store, make: Any) -> None:
    batch = await of_ann(store, make)
    await store.traces.add(make.trace("ann", "e0", scores={"gain": 0.5}, choice_logprobs=CLOSED))
    await store.traces.add(make.trace("ann", "e1", scores={"gain": 0.25}))
    await store.traces.add(make.trace("ann", "e2", scores={"gain": 0.75}, batch_id=batch))
    assert await gains(store) == [Gain("e2", False, 0.75), Gain("e1", False, 0.25)]
