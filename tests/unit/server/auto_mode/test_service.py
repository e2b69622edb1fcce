"""`mode: auto` on the fake engine: whose evidence is asked for, for how long it is remembered, what the reply says."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lives import Gate, counted
from mindprint.types import BatchRequest, Provenance, Trace, TraceRequest
from mindprint_server.auto_mode import service
from mindprint_server.auto_mode.service import AutoModeSelector
from mindprint_server.context import ServerContext
from mindprint_server.engine import Sampling
from mindprint_server.engine.types import FinishReason
from mindprint_server.gate import checks
from mindprint_server.prompts.templates import PROMPT_VERSION
from mindprint_server.settings import Settings
from mindprint_server.store import new_id
from mindprint_server.wiring import Services
from samples import engagement
from scripted import Scripted, serving
from uploads import published

GAINS = [0.4, 0.5, 0.6, 0.5] * 4
LOSSES = [-gain for gain in GAINS]
CLOSED, OPEN = ["yes", "no"], None


@pytest.fixture
def gate(services: Services) -> Gate:
    """Examines the versions of `services`."""
    stub = Gate()
    services.publications._publisher._gate = stub
    return stub


@pytest.fixture(autouse=True)
async def ann(services: Services) -> None:
    await services.store.engagements.add("ann", [engagement(n + 200) for n in range(len(GAINS))])


async def thought(services: Services, gains: list[float], choices: list[str] | None) -> None:
    """A batch of the base model's in which thinking about ann's engagements had these gains."""
    store = services.store
    events = (await store.engagements.list_page("ann"))[: len(gains)]
    batch, _ = await store.batches.add(BatchRequest(), [("ann", event.id) for event in events], max_open=9)
    made = Provenance(
        model="base", adapter_digest=None, base_digest=services.info().base_digest, prompt_version=PROMPT_VERSION,
        mode="personal", sampling={}, seed=1, engine="fake 1",
    )  # fmt: skip
    for event, gain in zip(events, gains, strict=True):
        trace = Trace(
            id=new_id(), user_id="ann", engagement_id=event.id, batch_id=batch.id, mode="personal", query=event.prompt,
            thinking="because", answer="yes", verdict="rejected", reason="gain", scores={"gain": gain}, provenance=made,
            choice_logprobs=choices and dict.fromkeys(choices, -0.7), created_at=datetime.now(UTC),
        )  # fmt: skip
        await store.traces.add(trace)


async def ask(services: Services, choices: list[str] | None = CLOSED, **request: Any) -> Trace:
    asked = {"user_id": "ann", "query": "A walk?", "choices": choices, "mode": "auto"} | request
    return await services.traces.create(TraceRequest.model_validate(asked))


def took(services: Services, mode: str, reason: str) -> float:
    return counted(services, "auto_decisions_total", mode=mode, reason=reason)


async def test_without_evidence_it_is_off(services: Services) -> None:
    for choices in (CLOSED, OPEN):
        trace = await ask(services, choices)
        assert (trace.mode, trace.provenance.mode, trace.thinking) == ("direct", "direct", "")
        assert trace.provenance.mode_reason is not None
        assert trace.provenance.mode_reason.endswith("known: 0, wanted: 16")
    assert took(services, "direct", "too_few") == 2


@pytest.mark.parametrize("choices", [CLOSED, OPEN])
async def test_the_base_thinks_about_the_kind_of_query_where_its_traces_gained(
    services: Services, choices: list[str] | None
) -> None:
    await thought(services, GAINS, choices)
    thinks, not_so = await ask(services, choices), await ask(services, OPEN if choices else CLOSED)
    assert (thinks.mode, thinks.provenance.mode, not_so.mode) == ("personal", "personal", "direct")
    assert thinks.thinking.startswith("What this user has shown:")
    assert thinks.provenance.mode_reason is not None
    assert thinks.provenance.mode_reason.startswith("thinking pays: mean gain +0.500 nats a token on 16 ")
    assert took(services, "personal", "pays") == took(services, "direct", "too_few") == 1
    routes = await services.auto.explain("ann")
    mine, other = (routes.closed, routes.open) if choices else (routes.open, routes.closed)
    assert (routes.model, mine.mode, mine.items, mine.unit) == ("base", "personal", 16, "nats a token")
    assert mine.mean == pytest.approx(0.5)
    assert (other.mode, other.items) == ("direct", 0)


@pytest.mark.parametrize(("after", "mode", "reason"), [(-0.2, "personal", "pays"), (-1.3, "direct", "not_shown")])
async def test_a_batch_leaves_the_evidence_also_where_its_answers_are_wrong(
    settings: Settings, base_folder: Path, tmp_path: Path, after: float, mode: str, reason: str
) -> None:
    numbers = itertools.count()

    async def thinks(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
        return f" they walked by the quiet lake {next(numbers)} times before", "stop"

    def scores(before: str, token: str) -> float:
        number = int(before.rsplit("walk number ", 1)[1].split("?")[0])
        right = after if "</think>" in before else -0.8
        return right if token.strip() == CLOSED[number % 2] else -1.0

    engine = Scripted(scores, thinks)
    engine.read_model_of(base_folder)
    changed = settings.model_copy(update={"prefilter_by_prior": True, "data_dir": tmp_path / "other"})
    async with serving(changed, engine) as services:
        await services.store.engagements.add("cat", [engagement(n) for n in range(19)])
        batch, _ = await services.batches.submit(BatchRequest(users=["cat"]))
        async for state in services.batches.watch(batch.id):
            batch = state
        assert (batch.state, batch.skipped) == ("done", {"no_history": 1})
        found = (await services.auto.explain("cat")).closed
        assert (found.mode, found.reason, found.items) == (mode, reason, 18)
        assert (await ask(services, user_id="cat", query="walk number 1?")).mode == mode


async def test_a_mode_that_is_named_is_taken_without_a_word(services: Services) -> None:
    await thought(services, GAINS, CLOSED)
    trace = await ask(services, mode="direct")
    assert (trace.mode, trace.provenance.mode_reason) == ("direct", None)
    assert took(services, "direct", "too_few") == took(services, "personal", "pays") == 0


async def test_a_version_thinks_where_the_gate_found_that_its_own_thinking_gains(
    services: Services, gate: Gate, tmp_path: Path
) -> None:
    await thought(services, LOSSES, CLOSED)
    gate.checks = [checks.check_thinking_gain("closed", GAINS, confidence=0.95)]
    await published(services, tmp_path)
    for model, mode in (("user/ann", "personal"), ("user/ann@1", "personal"), ("base", "direct")):
        assert (await ask(services, model=model)).mode == mode
    routes = await services.auto.explain("ann")
    assert (routes.model, routes.closed.mode, routes.closed.unit) == ("user/ann@1", "personal", "nats")
    assert (routes.open.reason, routes.open.items) == ("too_few", 0), "the base's evidence is not the version's"
    assert took(services, "personal", "pays") == 2
    assert took(services, "direct", "not_shown") == 1


async def test_moved_pointer_changes_the_decisions(services: Services, gate: Gate, tmp_path: Path) -> None:
    gate.checks = [checks.check_thinking_gain("closed", GAINS, confidence=0.95)]
    await published(services, tmp_path)
    assert (await ask(services, model="user/ann")).mode == "personal"
    gate.checks = [checks.check_thinking_gain("closed", LOSSES, confidence=0.95)]
    await published(services, tmp_path)
    assert (await ask(services, model="user/ann")).mode == "direct"
    await services.adapters.rollback("user/ann")
    assert (await ask(services, model="user/ann")).mode == "personal"
    assert (await services.auto.explain("ann")).closed.mode == "personal"
    await services.adapters.promote("user/ann", None)
    assert (await ask(services, model="user/ann")).mode == "direct"
    assert (await services.auto.explain("ann")).model == "base"


async def test_what_was_not_measured_on_this_user_is_direct(services: Services, gate: Gate, tmp_path: Path) -> None:
    await thought(services, GAINS, CLOSED)
    gate.checks = [checks.check_thinking_gain("closed", GAINS, confidence=0.95)]
    await published(services, tmp_path, "cohort/everyone", user="ann")
    await published(services, tmp_path, "user/bob")
    for model, reason in (("user/ann", "cohort"), ("cohort/everyone", "cohort"), ("user/bob", "other_user")):
        assert (await ask(services, model=model)).mode == "direct", model
        assert took(services, "direct", reason) >= 1
    routes = await services.auto.explain("ann")
    assert (routes.model, routes.closed.reason, routes.open.reason) == ("cohort/everyone@1", "cohort", "cohort")
    assert (await ask(services, model="base")).mode == "personal", "the base was measured on ann"


async def test_evidence_is_remembered_for_a_while(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_CACHED_DECISIONS", 1)
    now = 0.0
    ctx = ServerContext(services.settings, services.store, services.engine, services.metrics)
    remembering = AutoModeSelector(ctx, clock=lambda: now)

    async def mode() -> str:
        return (await remembering.select("auto", "ann", None, "closed"))[0]

    assert await mode() == "direct"
    await thought(services, GAINS, CLOSED)
    now = services.settings.auto_refresh_s - 1
    assert await mode() == "direct"
    now += 1
    assert await mode() == "personal"
    await services.store.engagements.add("bob", [engagement(0)])
    await remembering.explain("bob")
    assert len(remembering._cache) == 1
