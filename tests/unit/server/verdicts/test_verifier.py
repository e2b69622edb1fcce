"""Each candidate goes through the verdicts in order, and its scores are what `method.md` defines."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

import pytest

from builders import context_builder
from mindprint_server.context import ServerContext
from mindprint_server.engine import Priority
from mindprint_server.memory.neighbors import Neighbors
from mindprint_server.observability.metrics import Metrics
from mindprint_server.prompts.thinking import finalize_thinking
from mindprint_server.prompts.types import Question, RecalledMemory
from mindprint_server.settings import Settings
from mindprint_server.verdicts.context import EngagementContext
from mindprint_server.verdicts.verifier import CandidateVerifier, Verdict
from scripted import Scripted

PREFIX = "Shown:"
GENERATED = " ann took the quiet walk by the lake"
THINKING = PREFIX + GENERATED
CLOSED = Question(
    user_id="ann",
    query="A walk?",
    choices=("yes", "no"),
    target="yes",
    memory=RecalledMemory(profile="of ann"),
    profile_version=None,
)
OPEN = replace(CLOSED, choices=None, target="Gladly, at noon.")
OPEN_TOKENS = 5

YES = {
    ("ann", "at once"): 0.5,
    ("ann", "after"): 0.9,
    ("bob", "at once"): 0.4,
    ("bob", "after"): 0.5,
    ("cat", "at once"): 0.3,
    ("cat", "after"): 0.6,
}
"""Probability of the real answer: under whose memory, and before or after the thinking."""
GAIN = math.log(0.9 / 0.5)
NEAREST = GAIN - math.log(0.5 / 0.4)
RANDOM = GAIN - math.log(0.6 / 0.3)
UNSEEN = -2.5
"""log p of every token of the thinking, for a writer that was not shown the answer."""


def stage(before: str) -> tuple[str, str]:
    """Whose memory is in a prompt, and what the prompt is at."""
    whose = next(user for user in ("ann", "bob", "cat") if f"of {user}" in before)
    return whose, "after" if "</think>" in before else "thinking" if "<think>" in before else "at once"


class Room:
    """A verifier over scripted scores; other users are bob (the nearest) and cat."""

    def __init__(self, neighbours: Neighbors = Neighbors("bob", "cat"), **settings: Any) -> None:
        bounds = {"min_anchor": -9.0, "max_hindsight_gap": 9.0, "anchor_random_share": 1.0}
        self.settings = Settings.model_validate(bounds | settings)
        self.neighbours = neighbours
        self.yes = dict(YES)
        self.engine = Scripted(self.rule)
        self.reminder: list[str] = []
        self.sought = 0
        ctx = ServerContext(self.settings, cast(Any, None), self.engine, Metrics())
        self.contexts = context_builder(ctx, memory=self, neighbors=self)
        self.verifier = CandidateVerifier(self.settings)

    def rule(self, before: str, token: str) -> float:
        whose, at = stage(before)
        if at == "thinking":
            return UNSEEN
        p = self.yes[whose, at]
        return math.log(1 - p if token.strip() == "no" else p)

    async def recall(self, user_id: str, *, before: datetime | None) -> tuple[RecalledMemory, int | None]:
        self.reminder.append(user_id)
        return RecalledMemory(profile=f"of {user_id}"), None

    async def get(self, user_id: str) -> Neighbors:
        self.sought += 1
        await asyncio.sleep(0)
        return self.neighbours

    def context(self, question: Question = CLOSED, accepted: Sequence[str] = ()) -> EngagementContext:
        return self.contexts.build(question, thinking_tokens=64, priority=Priority.BATCH, accepted=set(accepted))

    async def verify(
        self,
        context: EngagementContext | None = None,
        generated: str = GENERATED,
        *,
        seen: Sequence[float] | None = None,
        finish: Any = "stop",
    ) -> Verdict:
        output = self.engine.written(generated, finish, seen)
        thinking = finalize_thinking(PREFIX, generated, finish)
        return await self.verifier.verify(
            context or self.context(), output, thinking=thinking, thinking_prefix=PREFIX, hinted=seen is not None
        )

    def asked(self) -> Counter[tuple[str, str]]:
        return Counter(stage(before) for before, _ in self.engine.asked)


def tokens(text: str = GENERATED) -> int:
    return len(Scripted().tokenizer.encode(text))


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


SIBLINGS = [f" ann walks by the lake on day {number}" for number in range(4)]
SHARED = {("ann", "at once"): 1, ("bob", "at once"): 1, ("cat", "at once"): 1}


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
