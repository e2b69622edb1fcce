"""The demo's stages against a server and trainers that are played, with the adapter that is collapsed on purpose."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from demo_made import COLLAPSED, THINKS, adapter, person, results, trace, version
from mindprint.exceptions import ApiError
from mindprint.local.console import Output
from mindprint.types import (
    Adapter,
    AdapterPage,
    Batch,
    BatchRequest,
    Engagement,
    Funnel,
    Ingested,
    ServerInfo,
    Trace,
    TracePage,
    TraceRequest,
)
from mindprint_demo import collapse as collapsing
from mindprint_demo import pipeline as staging
from mindprint_demo.options import DemoOptions
from mindprint_demo.pipeline import DemoPipeline
from mindprint_demo.report import find_problems, result_tables, results_json
from mindprint_demo.results import CollapseResult, DemoResults

ROUNDS = 3
"""Looks at the server until a trainer has its version."""


class Child:
    """A trainer: after a few looks at the server its version is there."""

    log = Path("trainer.log")

    def __init__(self, name: str, settings: Mapping[str, str]) -> None:
        self.name = name
        self.settings = settings
        self.stopped = False

    def check(self) -> None: ...

    def doing(self) -> str:
        return "training adapter=user/u-0 step=1/2 tokens_per_second=9"

    def running(self) -> bool:
        return not self.stopped


class World:
    """One user, with one live version or `fresh`. `refuse`: what is trained by answers only does not pass."""

    def __init__(self, *, fresh: bool = False, refuse: bool = True, accepts: bool = True, fails: str = "") -> None:
        self.url = "http://played"
        self.folder = Path("run-1")
        self.versions = [] if fresh else [version(["t1"], 1)]
        self.stored_traces: list[Trace] = []
        self.engagements: list[Engagement] = []
        self.children: list[Child] = []
        self.asked: list[TraceRequest] = []
        self._refuse, self._accepts, self._fails = refuse, accepts, fails
        self._looks = 0
        self.server = SimpleNamespace(info=self.info, metrics=self.metrics, funnel=self.funnel)
        self.users = SimpleNamespace(add_engagements=self.add_engagements)
        self.batches = SimpleNamespace(create=self.start_batch, watch=self.watch_batch, results=self.batch_results)
        self.adapters = SimpleNamespace(get=self.adapter, list=self.list_adapters)
        self.traces = SimpleNamespace(list=self.list_traces, create=self.write_trace)

    # --- as cluster

    def start_trainer(self, name: str, settings: Mapping[str, str]) -> Child:
        self.children.append(Child(name, settings))
        self._looks = 0
        return self.children[-1]

    def _look(self) -> None:
        self._looks += 1
        child = self.children[-1] if self.children else None
        if child is None or child.stopped or self._looks != ROUNDS:
            return
        number = len(self.versions) + 1
        ids = [t.id for t in self.stored_traces if t.state == "waiting"]
        if child.name == "collapse" and self._refuse:
            self.versions.append(version(ids, number, state="refused", checks=[COLLAPSED]))
        elif ids:
            self.versions = [
                v.model_copy(update={"state": "standby"} if v.state == "live" else {}) for v in self.versions
            ]
            self.versions.append(version(ids, number, checks=[THINKS]))
            done = {"state": "trained", "version": number}
            self.stored_traces = [t.model_copy(update=done if t.id in ids else {}) for t in self.stored_traces]

    async def stop(self, child: Child) -> None:
        child.stopped = True

    # --- as client

    async def info(self) -> ServerInfo:
        return results().info

    async def metrics(self) -> str:
        return 'mindprint_requests_total{method="POST",route="/v1/leases/{lease_id}/complete",status="202"} 1.0\n'

    async def add_engagements(self, user_id: str, engagements: Sequence[Engagement]) -> Ingested:
        self.engagements += engagements
        return Ingested(created=len(engagements), unchanged=0)

    async def start_batch(self, request: BatchRequest) -> Batch:
        funnel = Funnel(attempted=4, generated=8, accepted=int(self._accepts))
        name = request.idempotency_key
        assert name is not None
        if self._accepts:
            written = trace(f"of {name}", state="waiting", version=None)
            self.stored_traces.append(written.model_copy(update={"batch_id": name}))
        return results().batch.model_copy(update={"id": name, "funnel": funnel, "request": request})

    async def watch_batch(self, batch_id: str) -> AsyncIterator[Batch]:
        funnel = Funnel(attempted=4, generated=8, accepted=int(self._accepts))
        yield results().batch.model_copy(update={"id": batch_id, "funnel": funnel})

    async def batch_results(self, batch_id: str) -> AsyncIterator[Trace]:
        for one in self.stored_traces:
            if one.batch_id == batch_id:
                yield one

    async def adapter(self, key: str) -> Adapter:
        self._look()
        return adapter(*self.versions)

    async def list_adapters(self) -> AdapterPage:
        self._look()
        return AdapterPage(adapters=[adapter(*self.versions)] if self.versions else [])

    async def funnel(self, user: str | None = None) -> Funnel:
        return Funnel(trained=sum(t.state == "trained" for t in self.stored_traces))

    async def list_traces(self, *, state: str, limit: int) -> TracePage:
        return TracePage(traces=[t for t in self.stored_traces if t.state == state])

    async def write_trace(self, request: TraceRequest) -> Trace:
        self.asked.append(request)
        if request.query == self._fails:
            raise ApiError("the queue is full", status=429, code="busy")
        answer = trace("x", target=-0.5)
        if request.model != "base":
            answer.provenance.adapter_digest = next(v for v in self.versions if v.state == "live").digest
        return answer


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapsing, "QUESTION_INTERVAL_S", 0.0)
    monkeypatch.setattr(staging, "TRAINING_POLL_S", 0.001)


def stages(world: World, **options: Any) -> DemoPipeline:
    out = Output(Console(file=io.StringIO(), width=118))
    return DemoPipeline(DemoOptions(**{"collapse": True, **options}), out, cast(Any, world), cast(Any, world))


async def played(world: World, **options: Any) -> CollapseResult:
    users = [person("u-0")]
    return await collapsing.run_collapse(stages(world, **options), users, {"u-0": adapter(*world.versions)})


def shown(made: DemoResults) -> str:
    console = Console(file=io.StringIO(), width=118)
    for table in result_tables(made):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_the_gate_refuses_what_no_longer_thinks() -> None:
    world = World()
    found = await played(world)
    assert found.problems() == []
    assert found.version is not None
    assert (found.version.state, found.live_after) == ("refused", 1)
    assert found.answered == len(world.asked) >= ROUNDS + len(person("u-0").held_out) - 1
    assert {request.model for request in world.asked} == {"user/u-0"}
    assert found.later is not None
    assert (found.later.version, found.later.state) == (3, "live")
    assert [t.state for t in world.stored_traces] == ["trained"], "what was refused was not lost"


async def test_the_whole_demo_keeps_its_books() -> None:
    world = World(fresh=True)
    found = await stages(world).run([person("u-0")], collapsing.run_collapse)
    assert [v.state for v in world.versions] == ["standby", "refused", "live"]
    assert (found.accounting.accepted, found.accounting.trained, found.accounting.problems) == (2, 2, [])
    assert found.failed_requests == 0
    assert found.collapse is not None
    assert find_problems(found) == []
    assert found.adapters["u-0"].live == 1, "the tables are about what was scored"


async def test_without_being_asked_for_nothing_is_collapsed() -> None:
    world = World(fresh=True)
    found = await stages(world, collapse=False).run([person("u-0")])
    assert found.collapse is None
    assert [child.name for child in world.children] == ["trainer"]


async def test_it_is_trained_by_answers_only() -> None:
    world = World()
    await played(world, collapse_epochs=5, collapse_learning_rate=0.002)
    first, second = world.children
    wanted = {
        "ADAPTER": "user/u-0",
        "SLOW_WEIGHT": "0",
        "REPLAY_WEIGHT": "0",
        "EPOCHS": "5",
        "LEARNING_RATE": "0.002",
    }
    assert wanted.items() <= first.settings.items()
    assert not wanted.keys() & second.settings.keys(), "the ordinary trainer keeps its settings"
    assert first.stopped
    assert second.stopped


async def test_the_users_later_answers_come_in() -> None:
    world = World()
    await played(world)
    rows = person("u-0").held_out
    assert [(e.prompt, e.response, e.occurred_at) for e in world.engagements] == [
        (row.query, row.target, row.asked_at) for row in rows
    ]
    assert len({e.id for e in world.engagements}) == len(rows)


async def test_a_gate_that_lets_it_pass_is_a_problem() -> None:
    found = await played(World(refuse=False))
    assert found.problems() == [
        "the gate let user/u-0@2 pass, which was trained by answers only",
        "version 1 was live before, 2 after",
        "while u-0 was trained: u-0/e0: base answered",
        "while u-0 was trained: u-0/e1: base answered",
        "while u-0 was trained: u-0/e2: base answered",
    ]


async def test_a_refusal_for_another_reason_is_a_problem() -> None:
    found = await played(World())
    found.version = version(["n1"], 2, state="refused", passed=False)
    assert found.problems() == ["user/u-0@2 was refused, but not for its thinking: parity"]


async def test_a_question_without_an_answer_is_a_problem() -> None:
    found = await played(World(fails="q1"))
    assert set(found.problems()) == {"while u-0 was trained: u-0/e1: the queue is full (429 busy)"}


async def test_no_trace_to_train_on_ends_it_without_ending_the_demo() -> None:
    found = await played(World(accepts=False))
    assert found.version is None
    assert "no trace was accepted" in found.problems()[0]


async def test_a_trainer_that_makes_nothing_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROUNDS", -1)
    found = await played(World(), train_timeout_s=0.0)
    (problem,) = found.problems()
    assert problem.startswith("no progress for 0 s (last: training adapter=user/u-0 step=1/2 ")
    assert problem.endswith(": the cause is in trainer.log")


async def test_collapse_is_described() -> None:
    made = results()
    made.collapse = await played(World())
    text = shown(made)
    assert "u-0, trained by answers only" in text
    assert "20 of 20 thinkings, the base [1]" in text
    told = " ".join(text.split())
    answered = made.collapse.answered
    assert "The gate refused user/u-0@2: collapse." in told
    assert f"Meanwhile user/u-0@1 answered {answered} of {answered} questions. user/u-0@1 stayed live." in told
    assert "Of the same traces the ordinary trainer made user/u-0@3: live." in told
    assert find_problems(made) == []
    document = results_json(made)["collapse"]
    assert (document["gate"]["state"], document["later"]["version"]) == ("refused", "user/u-0@3")


async def test_collapse_that_passed_is_reported_and_fails_the_demo() -> None:
    made = results()
    made.collapse = await played(World(refuse=False))
    assert "THE GATE LET user/u-0@2 PASS" in shown(made)
    assert find_problems(made)[0].startswith("the gate let user/u-0@2 pass")
