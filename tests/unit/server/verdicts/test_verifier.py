"""Each candidate goes through the verdicts in order, and its scores are what `method.md` defines."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mindprint_server.memory.neighbors import Neighbors
from verifier_room import CLOSED, GAIN, NEAREST, OPEN, OPEN_TOKENS, RANDOM, THINKING, UNSEEN, Room, stage, tokens

# --- the scores ---


async def test_an_accepted_candidate_has_every_score_by_its_definition() -> None:
    room = Room()
    verdict = await room.verify()
    assert (verdict.answer, verdict.reason, verdict.shortfall) == ("yes", None, 0.0)
    assert verdict.choices == pytest.approx({"yes": math.log(0.9), "no": math.log(0.1)})
    assert verdict.scores == pytest.approx(
        {
            "target_logprob": math.log(0.9),
            "prior_logprob": math.log(0.5),
            "gain": GAIN,
            "anchor": NEAREST,
            "anchor_random": RANDOM,
        }
    )


async def test_gain_is_by_the_token_of_the_real_answer() -> None:
    room = Room()
    long = replace(CLOSED, choices=("yes of course", "no"), target="yes of course")
    verdict = await room.verify(room.context(long))
    assert verdict.scores["gain"] == pytest.approx(GAIN / 3)


async def test_an_open_answer_is_judged_by_gain_and_the_answer_is_the_real_one() -> None:
    room = Room()
    verdict = await room.verify(room.context(OPEN))
    assert (verdict.answer, verdict.choices, verdict.shortfall, verdict.reason) == (OPEN.target, None, None, None)
    assert verdict.scores["target_logprob"] == pytest.approx(OPEN_TOKENS * math.log(0.9))
    assert verdict.scores["gain"] == pytest.approx(GAIN)
    assert verdict.scores["anchor"] == pytest.approx(NEAREST)
    room.yes["ann", "after"] = 0.4
    assert (await room.verify(room.context(OPEN))).reason == "low_gain"


async def test_by_gain_an_unlikely_answer_may_be_thought_towards_and_is_what_is_learned() -> None:
    """It need not become the likeliest: it is what the user said all the same."""
    room = Room(accept_by="gain")
    room.yes["ann", "at once"], room.yes["ann", "after"] = 0.1, 0.3
    verdict = await room.verify()
    assert (verdict.answer, verdict.reason) == ("yes", None)
    assert verdict.scores["gain"] == pytest.approx(math.log(0.3 / 0.1))
    assert verdict.choices == pytest.approx({"yes": math.log(0.3), "no": math.log(0.7)})
    room.yes["ann", "after"] = 0.05
    refused = await room.verify(room.context())
    assert (refused.answer, refused.reason) == ("no", "low_gain")
    room = Room()
    room.yes["ann", "after"] = 0.3
    assert (await room.verify()).reason == "wrong_answer"


async def test_of_a_long_open_answer_the_beginning_is_scored() -> None:
    room = Room(score_tokens=3)
    verdict = await room.verify(room.context(OPEN))
    assert verdict.scores["target_logprob"] == pytest.approx(3 * math.log(0.9))
    assert verdict.scores["gain"] == pytest.approx(GAIN)


async def test_the_hindsight_gap_is_how_much_likelier_the_answer_made_the_thinking() -> None:
    room = Room(hindsight_tokens=64)
    seen = [-1.0 - 0.1 * place for place in range(tokens())]
    verdict = await room.verify(seen=seen)
    assert verdict.scores["hindsight_gap"] == pytest.approx((sum(seen) - UNSEEN * len(seen)) / len(seen))
    assert room.asked()["ann", "thinking"] == len(seen)


async def test_the_hindsight_gap_is_measured_on_a_few_tokens_evenly_spread() -> None:
    room = Room(hindsight_tokens=3)
    seen = [-1.0 if place in (0, 4, 7) else -99.0 for place in range(tokens())]
    assert len(seen) == 8
    verdict = await room.verify(seen=seen)
    assert verdict.scores["hindsight_gap"] == pytest.approx(-1.0 - UNSEEN)
    assert room.asked()["ann", "thinking"] == 3


async def test_each_token_of_the_thinking_is_scored_after_the_prefix_and_those_before() -> None:
    room = Room(hindsight_tokens=64)
    await room.verify(seen=[-1.0] * tokens())
    thinking = [(before, token) for before, [token, *_] in room.engine.asked if stage(before)[1] == "thinking"]
    before, last = max(thinking, key=lambda asked: len(asked[0]))
    assert before.endswith("<think>\n" + THINKING.removesuffix(" lake"))
    assert last == " lake"


async def test_unhinted_candidate_has_no_hindsight_gap() -> None:
    assert "hindsight_gap" not in (await Room(max_hindsight_gap=-99).verify()).scores


async def test_without_other_users_there_is_no_anchor() -> None:
    verdict = await Room(Neighbors(None, None), min_anchor=99).verify()
    assert verdict.reason is None
    assert set(verdict.scores) == {"target_logprob", "prior_logprob", "gain"}


async def test_one_other_user_is_the_nearest_alone() -> None:
    verdict = await Room(Neighbors("bob", None)).verify()
    assert "anchor" in verdict.scores
    assert "anchor_random" not in verdict.scores


async def test_anothers_memory_stands_in_the_same_question() -> None:
    room = Room()
    await room.verify()
    [of_bob] = {before for before, _ in room.engine.asked if stage(before) == ("bob", "after")}
    [of_ann] = {before for before, _ in room.engine.asked if stage(before) == ("ann", "after")}
    assert of_bob == of_ann.replace("of ann", "of bob")
