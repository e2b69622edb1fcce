"""The order of checks, and what siblings share."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from mindprint_server.engine import Priority
from verifier_room import CLOSED, GENERATED, SHARED, SIBLINGS, Room, tokens

# --- the order ---


@pytest.mark.parametrize(
    ("generated", "finish", "reason"),
    [
        (GENERATED, "loop", "loop"),
        (" on and on and on" * 9, "stop", "loop"),
        (GENERATED + " <think>", "stop", "parse"),
        (" no idea", "stop", "empty"),
        (GENERATED + " so the given answer is yes", "stop", "leak"),
    ],
)
async def test_what_is_wrong_with_the_words_costs_no_request(generated: str, finish: str, reason: str) -> None:
    room = Room()
    verdict = await room.verify(generated=generated, finish=finish)
    assert (verdict.reason, verdict.scores, room.engine.asked, room.sought) == (reason, {}, [], 0)


async def test_a_duplicate_costs_no_request() -> None:
    room = Room()
    verdict = await room.verify(room.context(accepted=["shown ann took the quiet walk by the lake"]))
    assert (verdict.reason, room.engine.asked) == ("duplicate", [])


async def test_a_wrong_answer_costs_one_request() -> None:
    room = Room()
    room.yes["ann", "after"] = 0.2
    verdict = await room.verify()
    assert (verdict.answer, verdict.reason, set(verdict.scores)) == ("no", "wrong_answer", {"target_logprob"})
    assert verdict.shortfall == pytest.approx(math.log(0.8 / 0.2))
    assert room.asked() == {("ann", "after"): 1}


async def test_the_gain_of_a_wrong_answer_is_kept_where_it_costs_nothing() -> None:
    room = Room()
    context = room.context()
    await context.answer_logprob_direct()
    room.yes["ann", "after"] = 0.2
    verdict = await room.verify(context)
    assert verdict.reason == "wrong_answer"
    known = {"target_logprob": math.log(0.2), "prior_logprob": math.log(0.5), "gain": math.log(0.2 / 0.5)}
    assert verdict.scores == pytest.approx(known)
    assert room.asked() == {("ann", "at once"): 1, ("ann", "after"): 1}
    room.yes["ann", "after"] = 0.49
    assert (await room.verify(context)).scores["gain"] < 0, "and decides nothing"


async def test_low_gain_asks_nothing_of_anothers_memory() -> None:
    room = Room()
    room.yes["ann", "at once"] = 0.95
    verdict = await room.verify()
    assert (verdict.reason, set(verdict.scores)) == ("low_gain", {"target_logprob", "prior_logprob", "gain"})
    assert room.asked() == {("ann", "after"): 1, ("ann", "at once"): 1}
    assert (room.sought, room.reminder) == (0, [])


async def test_low_anchor_asks_neither_the_random_one_nor_for_hindsight() -> None:
    room = Room(min_anchor=0.0)
    room.yes["bob", "after"] = 0.99
    verdict = await room.verify(seen=[-1.0] * tokens())
    assert (verdict.reason, verdict.scores["anchor"] < 0) == ("low_anchor", True)
    assert set(room.asked()) == {("ann", "after"), ("ann", "at once"), ("bob", "after"), ("bob", "at once")}
    assert room.reminder == ["bob"]


@pytest.mark.parametrize("share", [0.0, 0.25])
async def test_a_share_of_the_traces_is_compared_with_a_random_user(share: float) -> None:
    room = Room(anchor_random_share=share)
    verdict = [await room.verify(generated=f" that user said yes to context {number}") for number in range(200)]
    assert all(one.reason is None and "anchor" in one.scores for one in verdict)
    compared = sum("anchor_random" in one.scores for one in verdict)
    assert compared == 0 if share == 0 else 30 <= compared <= 70


async def test_the_random_anchor_decides_nothing() -> None:
    room = Room(min_anchor=0.0)
    room.yes["cat", "after"] = 0.99
    verdict = await room.verify()
    assert verdict.scores["anchor_random"] < 0
    assert verdict.reason is None


async def test_hindsight_is_the_last_word() -> None:
    verdict = await Room(max_hindsight_gap=1.0).verify(seen=[-1.0] * tokens())
    assert verdict.reason == "hindsight"
    assert verdict.scores["hindsight_gap"] == pytest.approx(1.5)
    assert {"gain", "anchor", "anchor_random"} < set(verdict.scores)


async def test_scores_without_a_threshold_are_kept_and_decide_nothing() -> None:
    room = Room(min_gain=None, min_anchor=None, max_hindsight_gap=None)
    room.yes |= {("ann", "at once"): 0.95, ("bob", "after"): 0.99}
    verdict = await room.verify(seen=[-1.0] * tokens())
    assert verdict.reason is None
    assert verdict.scores["gain"] < 0 > verdict.scores["anchor"]
    assert verdict.scores["hindsight_gap"] > 0


# --- siblings ---


async def test_of_siblings_that_say_the_same_at_once_one_is_accepted() -> None:
    room = Room()
    context = room.context()
    verdict = await asyncio.gather(*(room.verify(context) for _ in range(3)))
    assert sorted(str(j.reason) for j in verdict) == ["None", "duplicate", "duplicate"]
    assert len(context.accepted) == 1


async def test_two_engagements_of_a_user_share_what_was_accepted() -> None:
    room = Room()
    one = room.context()
    other = room.contexts.build(
        replace(CLOSED, query="Another walk?"), thinking_tokens=64, priority=Priority.BATCH, accepted=one.accepted
    )
    verdict = await asyncio.gather(room.verify(one), room.verify(other))
    assert sorted(str(j.reason) for j in verdict) == ["None", "duplicate"]


async def test_a_rejected_thinking_may_be_said_again() -> None:
    room = Room()
    context = room.context()
    room.yes["ann", "after"] = 0.2
    assert (await room.verify(context)).reason == "wrong_answer"
    room.yes["ann", "after"] = 0.9
    assert (await room.verify(context)).reason is None


async def test_siblings_share_what_does_not_depend_on_their_thinking() -> None:
    room = Room()
    context = room.context()
    await asyncio.gather(*(room.verify(context, text) for text in SIBLINGS))
    own = {key: 4 for key in (("ann", "after"), ("bob", "after"), ("cat", "after"))}
    assert room.asked() == own | SHARED
    assert sorted(room.reminder) == ["bob", "cat"]


async def test_when_the_one_that_computes_is_cancelled_the_next_one_does() -> None:
    room = Room()
    context, entered, hold = room.context(), asyncio.Event(), asyncio.Event()
    tried = 0

    async def compute() -> int:
        nonlocal tried
        tried += 1
        entered.set()
        await hold.wait()
        return 7

    first, *others = [asyncio.create_task(context.once(("k",), compute)) for _ in range(3)]
    await entered.wait()
    first.cancel()
    hold.set()
    assert await asyncio.gather(*others) == [7, 7]
    assert (first.cancelled(), tried) == (True, 2)


async def test_a_cancelled_sibling_takes_nothing_with_it() -> None:
    room = Room()
    room.engine._delay_s = 0.01
    context = room.context()
    first, *others = [asyncio.create_task(room.verify(context, text)) for text in SIBLINGS]
    await asyncio.sleep(0.015)  # all have an answer; the first computes what they share
    first.cancel()
    verdict = await asyncio.gather(*others)
    assert [j.reason for j in verdict] == [None] * 3
    assert first.cancelled()
    assert all(count <= 2 for key, count in room.asked().items() if key in SHARED)


async def test_a_computation_that_fails_fails_each_that_asks() -> None:
    room = Room()
    alike = replace(CLOSED, choices=("yes", "yes\x01"))
    context = room.context(alike)
    results = await asyncio.gather(*(room.verify(context, text) for text in SIBLINGS), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError] * 4


@pytest.mark.parametrize(("seconds", "read"), [(60, 2), (0, 8)])
async def test_all_questions_of_a_while_share_one_reading_of_the_others_memories(seconds: int, read: int) -> None:
    """One for the nearest user and one for the random one; without a while each of four questions has both."""
    room = Room(anchor_memory_s=seconds)
    verdict = await asyncio.gather(*(room.verify() for _ in range(4)))
    assert [one.scores for one in verdict] == 4 * [verdict[0].scores]
    assert len(room.reminder) == read
