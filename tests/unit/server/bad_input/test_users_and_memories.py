"""Users without history, memories that do not fit, and answers out of reach, on the fake engine."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mindprint.types import Engagement, TraceRequest
from odd_batches import Open, about, asked, counted, good, likes_yes, run
from samples import engagement
from scripted import Scripted


async def test_a_user_without_engagements_has_nothing_to_attempt_and_can_be_asked(serve: Open) -> None:
    services = await serve()
    await services.store.engagements.add("eve", [])
    batch = await run(services, users=["eve"])
    assert (batch.state, batch.items) == ("done", 0)
    trace = await services.traces.create(TraceRequest(user_id="eve", query="Tea?", choices=["yes", "no"]))
    assert "Nothing is known" in trace.prompt
    await services.store.engagements.add("ann", [engagement(n) for n in range(4)])
    assert (await run(services)).items == 4


# --- long memories ---


def wordy(number: int) -> Engagement:
    prompt = f"Question {number}: " + " ".join(f"word{number}x{n}" for n in range(40))
    return engagement(number).model_copy(update={"prompt": prompt})


async def test_a_memory_that_does_not_fit_loses_its_oldest_and_is_counted(serve: Open) -> None:
    services = await serve(Scripted(max_model_len=600), recency_k=20, recency_step=1)
    await services.store.engagements.add("ann", [wordy(n) for n in range(20)])
    batch = await run(services)
    assert (batch.state, batch.skipped) == ("done", {"no_history": 1})
    traces = await services.store.traces.find(limit=500)
    cut = {trace.engagement_id for trace in traces if trace.provenance.memory_dropped}
    assert batch.truncated == len(cut) > 10
    for trace in traces:
        number = int(str(trace.engagement_id)[1:])
        shown = [n for n in range(number) if f"Question {n}:" in trace.prompt]
        dropped = trace.provenance.memory_dropped
        assert shown == list(range(min(dropped, number), number)), "the newest stay"
        assert trace.prompt_tokens <= 600 - 64 * 3


async def test_one_episode_longer_than_the_model_is_left_out(serve: Open) -> None:
    services = await serve(Scripted(max_model_len=600))
    long = engagement(0).model_copy(update={"prompt": "endless " * 3000})
    await services.store.engagements.add("ann", [long, engagement(1)])
    batch = await run(services)
    assert batch.truncated == 1
    for trace in await services.store.traces.find():
        assert trace.provenance.memory_dropped == 1
        assert "endless" not in trace.prompt


async def test_hint_that_does_not_fit_keeps_the_unhinted_candidates(serve: Open) -> None:
    services = await serve(
        Scripted(thinks=good, max_model_len=600),
        min_gain=99.0,
        early_stop_margin_nats=None,
        early_stop_score_margin=None,
    )
    odd = asked("Tell me all?", " ".join(f"word{n}" for n in range(420)))
    batch, traces = await about(services, odd)
    assert Counter(trace.reason for trace in traces) == {"low_gain": services.settings.unhinted_candidates}
    assert "prompt_too_long" not in batch.skipped
    batch = await run(services, unhinted=0)
    assert batch.skipped["prompt_too_long"] == 1, "where the first candidate is hinted, there is none"


@pytest.mark.parametrize(
    ("response", "early_stop_margin_nats", "tried"), [("no", 1.0, False), ("no", None, True), ("yes", 1.0, True)]
)
async def test_an_answer_out_of_reach_is_not_thought_about(
    serve: Open, response: str, early_stop_margin_nats: float | None, tried: bool
) -> None:
    services = await serve(
        Scripted(likes_yes, good), prefilter_by_prior=True, early_stop_margin_nats=early_stop_margin_nats
    )
    batch, traces = await about(services, asked("Walk?", response, ["yes", "no"]))
    assert bool(traces) == tried
    assert ("prior_too_low" in batch.skipped) == (response == "no" and not tried)


@pytest.mark.parametrize(("response", "tried"), [("no", False), ("yes", True)])
async def test_an_answer_out_of_reach_is_not_shown_either(serve: Open, response: str, tried: bool) -> None:
    services = await serve(Scripted(likes_yes, good), prefilter_by_prior=True, early_stop_margin_nats=1.0)
    batch, traces = await about(services, asked("Walk?", response, ["yes", "no"]), unhinted=0)
    assert bool(traces) == tried
    assert all(trace.provenance.saw_answer for trace in traces)
    assert ("prior_too_low" in batch.skipped) == (not tried)


async def test_by_gain_no_answer_is_out_of_reach(serve: Open) -> None:
    services = await serve(
        Scripted(likes_yes, good), prefilter_by_prior=True, early_stop_margin_nats=0.1, accept_by="gain", min_gain=None
    )
    batch, traces = await about(services, asked("Walk?", "no", ["yes", "no"]))
    assert "prior_too_low" not in batch.skipped
    assert [(trace.verdict, trace.answer) for trace in traces] == [("accepted", "no")]
    likely = traces[0].choice_logprobs
    assert likely is not None
    assert likely["yes"] > likely["no"]


@pytest.mark.parametrize(
    ("response", "choices", "changes", "tried"),
    [
        ("no", ["yes", "no"], {}, False),
        ("yes", ["yes", "no"], {}, True),
        ("no", ["no", "yes"], {}, False),
        ("no", ["yes", "no", "perhaps"], {}, True),
        ("no", None, {}, True),
        ("no", ["yes", "no"], {"min_answer_frequency": 0}, True),
        ("no", ["yes", "no"], {"accept_by": "gain"}, True),
    ],
    ids=["never", "always", "in another order", "asked otherwise", "open", "turned off", "by gain"],
)
async def test_what_the_user_hardly_ever_answered_is_left_out(
    serve: Open, response: str, choices: list[str] | None, changes: dict[str, Any], tried: bool
) -> None:
    engine = Scripted(thinks=good)
    services = await serve(engine, **{"min_answer_frequency": 0.25} | changes)
    batch, traces = await about(services, asked("Walk?", response, choices))
    assert bool(traces) == tried
    assert batch.skipped == {"no_history": 1} | ({} if tried else {"rare_answer": 1})
    assert counted(services, "items_skipped", reason="rare_answer") == (not tried)


async def test_later_answers_do_not_count_for_the_answer_frequency(serve: Open) -> None:
    services = await serve(Scripted(thinks=good), min_answer_frequency=0.25)
    odd, later = asked("Walk?", "no", ["yes", "no"]), [engagement(n) for n in (11, 13, 15, 17)]
    await services.store.engagements.add("ann", [engagement(0), engagement(2), odd, *later])
    await run(services)
    assert await services.store.traces.find(engagement=later[-1].id)
    assert not await services.store.traces.find(engagement=odd.id)


async def test_single_trace_ignores_the_answer_frequency(serve: Open) -> None:
    services = await serve(Scripted(thinks=good), min_answer_frequency=0.25)
    await about(services, asked("Walk?", "no", ["yes", "no"]))
    trace = await services.traces.create(TraceRequest(user_id="ann", engagement_id="odd"))
    assert trace.engagement_id == "odd"


@pytest.mark.parametrize("by", ["setting", "batch"])
@pytest.mark.parametrize(
    ("unlikely", "reason"),
    [
        ({"min_answer_frequency": 0.25}, "rare_answer"),
        ({"prefilter_by_prior": True, "early_stop_margin_nats": 1.0}, "prior_too_low"),
    ],
    ids=["precedent", "probe"],
)
async def test_exhaustive_batch_skips_nothing_as_unlikely(
    serve: Open, unlikely: dict[str, Any], reason: str, by: str
) -> None:
    services = await serve(Scripted(likes_yes, good), **unlikely, exhaustive=by == "setting")
    batch, traces = await about(
        services, asked("Walk?", "no", ["yes", "no"]), **({"exhaustive": True} if by == "batch" else {})
    )
    assert Counter(trace.reason for trace in traces) == {"wrong_answer": services.settings.candidates}
    assert reason not in batch.skipped
    batch = await run(services, exhaustive=False, seed=1)
    assert batch.skipped[reason] == 1, "the batch has the last word"


@pytest.mark.parametrize(("exhaustive", "written"), [(False, 1), (True, 4)])
async def test_exhaustive_batch_does_not_stop_early(serve: Open, exhaustive: bool, written: int) -> None:
    services = await serve(Scripted(thinks=good), min_gain=99.0, candidates=4)
    _, traces = await about(services, asked("Well?", "quite well indeed"), exhaustive=exhaustive)
    assert [trace.reason for trace in traces] == ["low_gain"] * written
