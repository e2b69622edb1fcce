"""Several candidates of one engagement at once: early ends, cancellation, failures, on the fake engine."""

from __future__ import annotations

import asyncio
import gc
import itertools
from dataclasses import replace
from typing import Any

import pytest

from mindprint_server.engine import Priority, Sampling
from mindprint_server.engine.types import FinishReason
from odd_batches import NO_BOUNDS, Open, about, asked, counted, good, likes_yes, run
from samples import engagement
from scripted import Scripted


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
    assert counted(services, "traces_generated", tenant="default") == 2


async def test_siblings_that_fail_together_leave_no_error_behind(serve: Open, caplog: pytest.LogCaptureFixture) -> None:
    batch, _ = await about(await serve(), asked("Walk?", "yes", ["yes", "yes "]), candidates_per_round=4)
    assert batch.skipped["choices_alike"] == 1
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
