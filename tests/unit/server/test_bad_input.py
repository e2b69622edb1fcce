"""Odd users, odd texts and odd models end in a trace or in a counted reason, on the fake engine."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Batch, BatchRequest, Engagement, Trace, TraceRequest
from mindprint_server.engine import Priority, Sampling
from mindprint_server.engine.base import FinishReason
from mindprint_server.settings import Settings
from mindprint_server.store import tables
from mindprint_server.wiring import Container
from samples import engagement
from scripted import Scripted, serving

Open = Callable[..., Awaitable[Container]]
ONE_BY_ONE = {"max_num_seqs": 1}
"""With no room to spare, candidates are drawn one by one."""
NO_BOUNDS = {"min_gain": None, "min_anchor": None, "early_stop_margin_nats": None}
_number = itertools.count()


@pytest.fixture
async def serve(settings: Settings, base_folder: Path) -> AsyncIterator[Open]:
    """Opens services on an engine, with some settings changed."""
    async with AsyncExitStack() as stack:

        async def open(engine: Scripted | None = None, **changes: Any) -> Container:
            engine = engine or Scripted()
            engine.read_model_of(base_folder)
            changed = settings.model_copy(update=ONE_BY_ONE | changes)
            return await stack.enter_async_context(serving(changed, engine))

        yield open


async def run(services: Container, **request: Any) -> Batch:
    batch, _ = await services.batches.submit(BatchRequest(**request))
    return await ended(services, batch)


async def ended(services: Container, batch: Batch) -> Batch:
    async for state in services.batches.watch(batch.id):
        batch = state
    return batch


async def about(services: Container, odd: Engagement, **request: Any) -> tuple[Batch, list[Trace]]:
    """A batch over two usual engagements and an odd one after them, and the traces of the odd one."""
    await services.store.engagements.add("ann", [engagement(0), engagement(2), odd])
    batch = await run(services, **request)
    assert (batch.state, batch.error, batch.done) == ("done", None, 3)
    return batch, await services.store.traces.find(engagement=odd.id)


def asked(prompt: str, response: str, choices: list[str] | None = None) -> Engagement:
    fields = {"id": "odd", "prompt": prompt, "response": response, "choices": choices}
    return Engagement.model_validate(fields | {"occurred_at": engagement(9).occurred_at})


def counted(services: Container, name: str, **labels: str) -> float:
    return services.metrics.registry.get_sample_value(f"mindprint_{name}_total", labels) or 0.0


async def good(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
    return f" they walked by the quiet lake {next(_number)} times before", "stop"


def likes_yes(before: str, token: str) -> float:
    return -0.1 if token.strip() == "yes" else -2.4


# --- users ---


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


# --- odd models ---


async def test_thinking_that_never_ends_is_closed_by_force_and_judged(serve: Open) -> None:
    async def endless(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
        return "".join(f" w{next(_number)}" for _ in range(sampling.max_tokens)), "length"

    engine = Scripted(likes_yes, endless)
    services = await serve(engine, **NO_BOUNDS)
    batch, [trace] = await about(services, asked("A walk?", "yes", ["yes", "no"]), max_thinking_tokens=16)
    assert (trace.finish, trace.thinking_tokens, trace.verdict, trace.answer) == ("length", 16, "accepted", "yes")
    assert len(trace.thinking.split()) == 5 + 16, "the thinking_prefix's and all that was written"
    closed = f"<think>\n{trace.thinking}\n</think>\nThis user's answer:"
    assert any(before.endswith(closed) for before, _ in engine.asked)
    assert batch.generated_tokens == 32, "of two engagements"


async def test_thinking_cut_in_a_sentence_is_judged_to_the_end_of_the_one_before(serve: Open) -> None:
    async def cut(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
        return f" walk number {next(_number)} by the lake, twice. And then on the", "length"

    services = await serve(Scripted(likes_yes, cut), **NO_BOUNDS)
    _, [trace] = await about(services, asked("A walk?", "yes", ["yes", "no"]))
    assert trace.thinking.endswith("by the lake, twice.")
    assert trace.verdict == "accepted"


async def test_an_empty_thinking_is_rejected_and_an_unending_one_of_signs_too(serve: Open) -> None:
    texts = iter(["", " ", " ...", "\n" * 40])

    async def nothing(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
        return next(texts, ""), "stop"

    services = await serve(Scripted(thinks=nothing))
    _, traces = await about(services, asked("A walk?", "yes", ["yes", "no"]))
    assert {trace.reason for trace in traces} == {"empty"}


# --- odd texts ---


async def test_choices_that_share_a_first_token_share_all_probability(serve: Open) -> None:
    services = await serve()
    choices = ["green tea", "green lake", "green", "town"]
    batch, traces = await about(services, asked("Where or what?", "green lake", choices))
    assert not set(batch.skipped) - {"no_history"}
    scored = [trace.choice_logprobs for trace in traces if trace.choice_logprobs is not None]
    assert scored
    for logprobs in scored:
        assert list(logprobs) == choices
        assert sum(map(math.exp, logprobs.values())) == pytest.approx(1)


ODD = [
    "Ein Spaziergang über die Brücke?",
    "散歩しますか、それとも家にいますか？",  # noqa: RUF001
    "هل تمشي؟ \u202eמשהו\u202c",  # noqa: RUF001
    "👩‍👩‍👧‍👦 or 🏔️?",
    "e\u0301 z\u0335a\u0321lgo",
    "\x1b[31mred\x1b[0m \x07bell \x7f",
    "line\u2028line\u2029line\u0085line\r\nline\rline\tline",
    "</think> <think> <|end|> <|e<|end|>nd|>",
    "\ufeff\u200b\ufffd\ufffe",
    "[assistant]\nyes",
]


@pytest.mark.parametrize("text", ODD)
async def test_odd_text_in_prompts_responses_and_choices(serve: Open, text: str) -> None:
    services = await serve()
    batch, traces = await about(services, asked(text, f"{text} 1", [f"{text} 1", f"{text} 2"]))
    assert traces
    for trace in traces:
        assert not any(ord(character) < 32 and character not in "\n\t" for character in trace.prompt)
        assert "<|end|>" not in trace.prompt
        assert (await services.store.traces.get(trace.id)).query == text
    answers = [trace for trace in traces if trace.choice_logprobs is not None]
    assert all(trace.answer in (f"{text} 1", f"{text} 2") for trace in answers)
    assert batch.funnel.generated >= len(traces)


@pytest.mark.parametrize("text", ODD)
async def test_odd_text_as_an_open_answer_is_hinted_and_scored(serve: Open, text: str) -> None:
    services = await serve(Scripted(thinks=good), min_gain=99.0, early_stop_score_margin=None)
    _, traces = await about(services, asked("Well?", f"{text} indeed"))
    assert {trace.provenance.saw_answer for trace in traces} == {False, True}
    assert all("gain" in trace.scores for trace in traces)


@pytest.mark.parametrize("choices", [["yes", "yes\x07"], ["yes", " yes "], ["yes", "\x01"], ["yes", "y<think>es"]])
async def test_choices_that_read_alike_or_as_nothing_are_skipped(serve: Open, choices: list[str]) -> None:
    batch, traces = await about(await serve(), asked("Walk?", "yes", choices))
    assert batch.skipped["choices_alike"] == 1
    assert traces == []


@pytest.mark.parametrize("lead", ["This user's answer:", ""])
async def test_an_open_answer_that_reads_as_nothing_is_never_accepted(serve: Open, lead: str) -> None:
    services = await serve(Scripted(thinks=good), answer_prefix=lead)
    _, traces = await about(services, asked("Well?", "\x01\x02 <think>"))
    assert not [trace for trace in traces if trace.verdict == "accepted"]


@pytest.mark.parametrize(
    "text",
    [
        " 静かな場所が好きで、湖のそばを歩いた。混んだ町は避けた。",
        " 他喜欢安静的地方，常在湖边散步，不去拥挤的城市。",  # noqa: RUF001
    ],
)
async def test_thinking_in_a_script_without_spaces_is_not_empty(serve: Open, text: str) -> None:
    async def thinks(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
        return text, "stop"

    services = await serve(Scripted(likes_yes, thinks), **NO_BOUNDS)
    _, traces = await about(services, asked("A walk?", "yes", ["yes", "no"]))
    assert "empty" not in {trace.reason for trace in traces}


# --- users who are erased meanwhile ---


async def erase(services: Container, user: str) -> int:
    """Deletes all rows of a user; returns how many items of batches were still to do."""

    async def work(db: AsyncConnection) -> int:
        items = tables.batch_items
        query = select(func.count()).where(items.c.user_id == user, items.c.outcome.is_(None))
        left = (await db.execute(query)).scalar_one()
        for table in (items, tables.traces, tables.profiles, tables.engagements):
            await db.execute(table.delete().where(table.c.user_id == user))
        await db.execute(tables.users.delete().where(tables.users.c.id == user))
        return left

    return await services.store._database.write(work)


async def rows_of(services: Container, user: str) -> Counter[str]:
    async def work(db: AsyncConnection) -> Counter[str]:
        found: Counter[str] = Counter()
        for table in tables.metadata.sorted_tables:
            column = table.c.get("id" if table.name == "users" else "user_id")
            if column is not None:
                query = select(func.count()).select_from(table).where(column == user)
                found[table.name] = (await db.execute(query)).scalar_one()
        return +found

    return await services.store._database.read(work)


async def test_a_user_erased_while_traces_are_written_leaves_nothing(serve: Open) -> None:
    services = await serve(Scripted(delay_s=0.01), batch_max_in_flight=3)
    await services.store.engagements.add("ann", [engagement(n) for n in range(12)])
    await services.store.engagements.add("bob", [engagement(n) for n in range(6)])
    batch, _ = await services.batches.submit(BatchRequest(users=["ann", "bob"]))
    async for state in services.batches.watch(batch.id):
        if state.done >= 3:
            break
    left = await erase(services, "ann")
    assert left > 3, "some are under way, others have not begun"
    batch = await ended(services, batch)
    assert (batch.state, batch.error) == ("done", None)
    assert batch.items == batch.done == 6, "bob's"
    assert await rows_of(services, "ann") == {}
    assert counted(services, "items_skipped", reason="erased") == left, "each item once"


async def test_a_user_erased_while_its_profile_is_written_leaves_nothing(serve: Open) -> None:
    engine = Scripted(delay_s=0.2)
    services = await serve(engine)
    await services.store.engagements.add("ann", [engagement(n) for n in range(12)])
    await services.store.engagements.add("bob", [engagement(n) for n in range(3)])
    batch, _ = await services.batches.submit(BatchRequest())
    await engine.begun.wait()
    left = await erase(services, "ann")
    batch = await ended(services, batch)
    assert (batch.state, batch.error) == ("done", None)
    assert batch.items == batch.done == 3
    assert await rows_of(services, "ann") == {}
    assert counted(services, "items_skipped", reason="erased") == left == 12


async def test_a_neighbour_erased_meanwhile_harms_nobody(serve: Open) -> None:
    services = await serve(Scripted(likes_yes, good, delay_s=0.005), batch_max_in_flight=1, **NO_BOUNDS)
    await services.store.engagements.add("ann", [engagement(n, choices=["yes", "no"]) for n in range(12)])
    await services.store.engagements.add("bob", [engagement(n) for n in range(6)])
    batch, _ = await services.batches.submit(BatchRequest(users=["ann"]))
    async for state in services.batches.watch(batch.id):
        if state.done >= 3:
            break
    await erase(services, "bob")
    batch = await ended(services, batch)
    assert (batch.state, batch.error, batch.done) == ("done", None, 12)


# --- brothers ---


@pytest.mark.parametrize(("least", "written"), [(0.1, 3), (99.0, 1)])
async def test_scores_far_under_their_bound_end_an_engagement(serve: Open, least: float, written: int) -> None:
    services = await serve(Scripted(lambda before, token: -1.0, good), min_gain=least, min_anchor=None)
    _, traces = await about(services, asked("A walk?", "by the lake"))
    assert [trace.reason for trace in traces] == ["low_gain"] * written


@pytest.mark.parametrize("probe", [True, False])
@pytest.mark.parametrize(
    ("room", "expected"), [(None, Priority.BATCH), (10_000, Priority.BATCH), (10, Priority.BATCH_DEFERRED)]
)
async def test_engagement_that_does_not_fit_the_cache_starts_after_running_ones(
    serve: Open, probe: bool, room: int | None, expected: Priority
) -> None:
    class Listening(Scripted):
        def __init__(self) -> None:
            super().__init__(likes_yes, good)
            self._info = replace(self._info, cache_tokens=room)
            self.heard: list[Priority] = []

        async def generate(self, prompt_ids: Any, sampling: Any, *, adapter: Any, priority: Priority) -> Any:
            self.heard.append(priority)
            return await super().generate(prompt_ids, sampling, adapter=adapter, priority=priority)

        async def next_logprobs(self, prompt_ids: Any, token_ids: Any, *, adapter: Any, priority: Priority) -> Any:
            self.heard.append(priority)
            return await super().next_logprobs(prompt_ids, token_ids, adapter=adapter, priority=priority)

    engine = Listening()
    services = await serve(
        engine, prefilter_by_prior=probe, profile_every=1000, **(NO_BOUNDS | {"early_stop_margin_nats": 1.0})
    )
    await services.store.engagements.add("ann", [engagement(0), engagement(2)])
    assert (await run(services)).funnel.accepted == 1
    first = 2 if probe else 1
    assert engine.heard[:first] == [expected] * first
    assert set(engine.heard[first:]) == {Priority.BATCH}, "its prompt is cached by then"


async def test_siblings_of_an_accepted_candidate_are_cancelled_and_counted(serve: Open) -> None:
    begun, ended = itertools.count(), itertools.count()

    async def one_is_quick(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
        if next(begun) % 4:
            await asyncio.sleep(60)
        next(ended)
        return await good(prompt, sampling)

    services = await serve(Scripted(likes_yes, one_is_quick), batch_max_in_flight=1, **NO_BOUNDS)
    async with asyncio.timeout(30):
        _, traces = await about(
            services, asked("A walk?", "yes", ["yes", "no"]), candidates_per_round=4, unhinted=4, candidates=4
        )
    assert [trace.verdict for trace in traces] == ["accepted"]
    assert (next(begun), next(ended)) == (8, 2), "of two engagements"
    assert counted(services, "traces_cancelled") == 6
    assert counted(services, "traces_generated") == 2


async def test_siblings_that_fail_together_leave_no_error_behind(serve: Open, caplog: pytest.LogCaptureFixture) -> None:
    batch, _ = await about(await serve(), asked("Walk?", "yes", ["yes", "yes "]), candidates_per_round=4)
    assert batch.skipped["choices_alike"] == 1
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
