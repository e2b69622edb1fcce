"""Thinking that somebody brings: the prompt of its time, the real answer, the queue; on the fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from mindprint.types import BatchRequest, ImportedTrace, ImportedTraces, Ingested, LeaseRequest
from mindprint_server.engine.types import FinishReason
from mindprint_server.exceptions import Invalid, ServerError
from mindprint_server.store import BacklogFull, RecordNotFound
from mindprint_server.wiring import Services, close_services
from samples import engagement
from scripted import Scripted, serving

LEAD = "This user's answer:"


@pytest.fixture(autouse=True)
async def ann(services: Services) -> None:
    await services.store.engagements.add("ann", [engagement(n) for n in range(12)])


def given(number: int, thinking: str | None = None, **more: Any) -> ImportedTrace:
    said = thinking or f"They have walked by the lake {number} times before."
    return ImportedTrace(engagement_id=f"e{number:03d}", thinking=said, **more)


async def imported(services: Services, traces: Sequence[ImportedTrace]) -> Ingested:
    return await services.imports.import_traces("ann", traces)


def counts(done: Ingested) -> tuple[int, int]:
    return done.created, done.unchanged


async def refused(services: Services, *traces: ImportedTrace) -> tuple[type[ServerError], str, str | None]:
    with pytest.raises(ServerError) as error:
        await imported(services, traces)
    assert await services.store.traces.find() == [], "all or none"
    return type(error.value), error.value.code, error.value.param


async def test_imported_trace_waits_as_a_generated_one_does(services: Services) -> None:
    assert counts(await imported(services, [given(7, saw_answer=True, scores={"gain": 0.5})])) == (1, 0)
    [trace] = await services.store.traces.find()
    assert (trace.verdict, trace.state, trace.mode, trace.engagement_id) == ("accepted", "waiting", "personal", "e007")
    assert (trace.answer, trace.scores, trace.finish) == ("no", {"gain": 0.5}, "")
    assert trace.prompt_tokens == len(services.engine.tokenizer.encode(trace.prompt))
    assert trace.thinking_tokens == len(services.engine.tokenizer.encode(trace.thinking))
    made = trace.provenance
    assert (made.model, made.saw_answer, made.seed, made.mode) == ("imported", True, None, "personal")
    assert made.sampling == {"thinking": "imported", "answer_prefix": LEAD, "memory": "own", "thinking_prefix": ""}


async def test_imported_trace_has_the_prompt_of_a_generated_one(services: Services) -> None:
    await imported(services, [given(n) for n in range(1, 12)])
    brought = {trace.engagement_id: trace for trace in await services.store.traces.find()}
    assert brought["e003"].provenance.profile_version is None
    assert brought["e007"].provenance.profile_version == 1, "what is due is written first"
    for number in (3, 7, 11):
        case = await services.imports._questions.for_engagement("ann", f"e{number:03d}")
        prompt = services.imports._prompts.build(case, "personal", thinking_tokens=64)
        trace = brought[f"e{number:03d}"]
        assert (trace.prompt, trace.provenance.memory_dropped) == (prompt.text, prompt.dropped)
        assert f"walk number {number}?" not in trace.prompt.split("[user]")[0]


async def test_trainer_gets_the_imported_thinking_unchanged(services: Services) -> None:
    await imported(services, [given(7, "  They walk.\r\n\r\nOften.\x07 ")])
    lease = await services.leases.claim(LeaseRequest(owner="t", adapter="user/ann"))
    assert lease is not None
    [slow] = [sample for sample in lease.samples if sample.kind == "slow"]
    assert slow.prompt.endswith("<think>\n")
    assert (slow.thinking, slow.thinking_suffix) == ("They walk.\n\nOften.", f"\n</think>\n{LEAD}")
    assert (slow.thinking_prefix, slow.answer, slow.engagement_id) == ("", " no", "e007")


async def test_thinking_prefix_of_imported_thinking_is_learned_as_one(services: Services) -> None:
    thinking_prefix = services.settings.thinking_prefixes["personal"]
    await imported(services, [given(7, f"{thinking_prefix} they walk by the lake")])
    lease = await services.leases.claim(LeaseRequest(owner="t", adapter="user/ann"))
    assert lease is not None
    [slow] = [sample for sample in lease.samples if sample.kind == "slow"]
    assert (slow.thinking_prefix, slow.thinking) == (thinking_prefix, " they walk by the lake")


async def test_of_what_is_not_selected_only_the_answer_after_it_is_learned(services: Services) -> None:
    brought = [given(7), given(8, selected=False), given(8, selected=False)]
    assert counts(await imported(services, brought)) == (2, 1)
    assert counts(await imported(services, brought)) == (0, 3)
    [unselected] = await services.store.traces.find(verdict="rejected")
    assert (unselected.state, unselected.reason) == ("stored", "not_selected")
    lease = await services.leases.claim(LeaseRequest(owner="t", adapter="user/ann"))
    assert lease is not None
    assert unselected.id not in lease.trace_ids
    [sample] = [sample for sample in lease.samples if sample.trace_id == unselected.id]
    assert sample.answer_only
    assert sample.prompt == f"{unselected.prompt}<think>\n"
    assert (sample.kind, sample.thinking_prefix, sample.thinking) == ("slow", "", unselected.thinking)
    assert (sample.thinking_suffix, sample.answer) == (f"\n</think>\n{LEAD}", f" {unselected.answer}")


async def test_the_same_again_changes_nothing(services: Services) -> None:
    assert counts(await imported(services, [given(5), given(6), given(5)])) == (2, 1)
    assert counts(await imported(services, [given(5), given(6), given(7)])) == (1, 2)
    other_words = given(5, "Something else that they like about lakes.")
    same_words = given(5, given(5).thinking.upper() + " !")
    elsewhere = given(8, given(5).thinking)
    assert counts(await imported(services, [other_words, same_words, elsewhere])) == (2, 1)
    assert len(await services.store.traces.find()) == 5
    assert services.metrics.registry.get_sample_value("mindprint_traces_imported_total", {"tenant": "default"}) == 5


async def test_two_imports_of_the_same_trace_at_once_store_it_once(services: Services) -> None:
    done = await asyncio.gather(*(imported(services, [given(n) for n in range(1, 9)]) for _ in range(3)))
    assert sorted(counts(one) for one in done) == [(0, 8), (0, 8), (8, 0)]


async def test_rejected_or_stored_thinking_may_be_imported(services: Services) -> None:
    await imported(services, [given(5)])
    [trace] = await services.store.traces.find()
    for number, changes in enumerate(({"verdict": "rejected", "reason": "leak"}, {"mode": "generic"})):
        kept = {"id": f"kept-{number}", "engagement_id": "e006", "state": "stored", **changes}
        await services.store.traces.add(trace.model_copy(update=kept))
    assert counts(await imported(services, [given(6, trace.thinking)])) == (1, 0)


async def test_batch_neither_attempts_nor_repeats_imported_traces(services: Services) -> None:
    brought = "What this user has shown: they took the quiet walk by the lake"

    async def thinks(prompt: str, sampling: Any) -> tuple[str, FinishReason]:
        return brought.removeprefix("What this user has shown:"), "stop"

    await imported(services, [given(5, brought)])
    engine = Scripted(thinks=thinks)
    settings = services.settings.model_copy(update={"candidates": 1, "early_stop_margin_nats": None})
    engine.read_model_of(settings.data_dir.parent / "base")
    await close_services(services)  # a second server does not start on the same data folder
    async with serving(settings, engine) as again:
        batch, _ = await again.batches.submit(BatchRequest(users=["ann"]))
        assert batch.items == 11
        async for state in again.batches.watch(batch.id):
            batch = state
    assert batch.funnel.rejected == {"duplicate": 10}


# --- refusals ---


async def test_who_and_what_is_not_there(services: Services) -> None:
    with pytest.raises(RecordNotFound, match="user 'bob'"):
        await services.imports.import_traces("bob", [given(5)])
    assert await refused(services, given(5), given(77)) == (
        RecordNotFound,
        "engagement_not_found",
        "traces[1].engagement_id",
    )


@pytest.mark.parametrize(
    "thinking", ["so </think> yes", "<THINK>", "they walk<|end|>", " \n\t", "\x01\x02", "a <|<think>end|> b"]
)
async def test_thinking_that_would_end_itself_or_says_nothing(services: Services, thinking: str) -> None:
    told = await refused(services, given(5), given(6, thinking))
    assert told == (Invalid, "validation_error", "traces[1].thinking")


async def test_what_does_not_fit_the_model(services: Services) -> None:
    assert await refused(services, given(5), given(6, "word " * 5000)) == (Invalid, "prompt_too_long", "traces[1]")


async def test_long_imported_thinking_shortens_the_memory(services: Services) -> None:
    await imported(services, [given(9, "word " * 3850), given(10)])
    long, short = await services.store.traces.find()
    assert long.provenance.memory_dropped > short.provenance.memory_dropped == 0


async def test_import_above_the_backlog_is_refused(services: Services) -> None:
    services.settings.max_backlog = 3
    await imported(services, [given(1), given(2)])
    with pytest.raises(BacklogFull, match="2 accepted traces wait for user/ann, of at most 3"):
        await imported(services, [given(3), given(4)])
    assert len(await services.store.traces.find()) == 2
    assert counts(await imported(services, [given(1), given(3)])) == (1, 1)
    assert counts(await imported(services, [given(1), given(3)])) == (0, 2), "nothing new needs no room"


def test_import_takes_a_thousand_traces_at_most() -> None:
    assert len(ImportedTraces(traces=[given(5)] * 1000).traces) == 1000
    with pytest.raises(ValidationError, match="at most 1000"):
        ImportedTraces(traces=[given(5)] * 1001)


async def test_import_that_takes_too_long_times_out(services: Services) -> None:
    services.settings.request_timeout_s = 1e-9
    with pytest.raises(TimeoutError):
        await imported(services, [given(5)])
