"""A piece on the fake engine: what is asked, made and kept; nothing about thinking is shown here."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from mindprint import AsyncMindprintClient, datasets
from mindprint.local.console import Output
from mindprint.types import LeaseRequest, TraceRequest
from mindprint_demo import synthetic
from mindprint_eval import adapters
from mindprint_eval.arms import BARE_THINKING_ARMS, METHOD_ARMS, OPTIONAL_ARMS, PERTURBED_ARMS, REVERSED_ARMS, Recipe
from mindprint_eval.config import EvalOptions
from mindprint_eval.response_cache import ResponseCache
from mindprint_eval.results import Outcome
from mindprint_eval.shard import EvalShard, ShardResult, ShardServer, run_shard
from mindprint_server.app import create_app
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.generation.trace_service import TraceService
from mindprint_server.settings import Settings
from mindprint_server.store import ClaimPolicy
from mindprint_server.wiring import Services
from samples import write_tensors
from scripted import serving
from uploads import upload

ROWS = 3


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    write_tensors(folder / "model.safetensors", {"model.layers.0.self_attn.q_proj.weight": (8, 8)})
    return folder


@pytest.fixture
async def services(tmp_path: Path, base_folder: Path, empty_database: Path) -> AsyncIterator[Services]:
    (tmp_path / "server").mkdir()
    shutil.copy(empty_database, tmp_path / "server")
    settings = Settings(
        engine="fake",
        model=str(base_folder),
        data_dir=tmp_path / "server",
        watch_interval_s=0.01,
        prefilter_by_prior=False,
        gate=False,
        replay_share=0,
        holdout_share=0,
        max_attempts=1,
        target_modules=("q_proj",),
        candidates=16,
        exhaustive=True,  # every user needs a trace to train on, and what the fake engine thinks hits by chance
    )
    async with serving(settings, FakeEngine(model_path=base_folder)) as opened:
        yield opened


@pytest.fixture
def piece(tmp_path: Path) -> EvalShard:
    synthetic.write_dataset(tmp_path / "data", 5, 12, ROWS, 0)
    everybody = datasets.load_users(tmp_path / "data", users=5, engagements=12, held_out=ROWS)
    return EvalShard(everybody[:3], everybody[3:], seed=1)


@pytest.fixture
def trained(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the trainer: every adapter that is asked for is uploaded, of other weights each."""
    made: list[str] = []
    marks = itertools.count()

    async def train(self: Any, recipe: Recipe, keys: Sequence[str], objective: Mapping[str, str]) -> None:
        for key in keys:
            if await self._adapter(key) is not None:
                continue
            lease = await services.store.leases.claim(
                LeaseRequest(owner="t", adapter=key, max_traces=99), ClaimPolicy(max_attempts=1, cohort_min_traces=1)
            )
            assert lease is not None, key
            await upload(services, lease, tmp_path, mark=next(marks) % 9)
            made.append(key)

    monkeypatch.setattr(adapters.AdapterBuilder, "_train", train)
    return made


async def run(services: Services, tmp_path: Path, piece: EvalShard, **changes: Any) -> tuple[ShardResult, int]:
    """What is found, and how many questions were new."""
    options = replace(EvalOptions(data=tmp_path / "data", out=tmp_path / "eval", general=2), **changes)
    transport = httpx.ASGITransport(create_app(services.settings, services=services))
    processes: Any = SimpleNamespace(folder=tmp_path)
    with ResponseCache(tmp_path / "answers.jsonl") as book:
        before = len(book)
        async with AsyncMindprintClient("http://127.0.0.1", transport=transport) as client:
            info = await client.server.info()
            server = ShardServer(client, processes, info, {})
            return await run_shard(options, piece, server, book, Output()), len(book) - before


def answers(found: ShardResult) -> list[Outcome]:
    return [row for row in found.outcomes if row.measure == "answer"]


async def test_every_arm_answers_every_question_or_says_why_not(
    services: Services, tmp_path: Path, piece: EvalShard, trained: list[str]
) -> None:
    found, _ = await run(services, tmp_path, piece)
    counts = Counter((row.arm, row.user, row.item) for row in answers(found))
    wanted = {(arm, user.user_id, row.id) for arm in METHOD_ARMS for user in piece.users for row in user.held_out}
    assert set(counts) == wanted
    assert set(counts.values()) == {1}
    assert all(row.why for row in found.outcomes if row.outcome != "answered")
    assert {row.seed for row in found.outcomes} == {1}
    assert {row["recipe"] for row in found.candidates} == {"selected", "distilled"}
    assert {row["user"] for row in found.candidates} <= {user.user_id for user in piece.users}
    assert {row["recipe"] for row in found.adapters} == {"fast", "distilled", "selected", "shuffled", "pooled"}


async def test_thinking_is_measured_bare_and_changed(
    services: Services, tmp_path: Path, piece: EvalShard, trained: list[str]
) -> None:
    found, _ = await run(services, tmp_path, piece)
    thought = {row.arm for row in answers(found) if row.outcome == "answered"}
    bare = set(BARE_THINKING_ARMS) - set(OPTIONAL_ARMS)
    for measure, arms in (
        ("bare", bare),
        ("filler", PERTURBED_ARMS),
        ("early_end", PERTURBED_ARMS),
        ("other_trace", PERTURBED_ARMS),
    ):
        assert {row.arm for row in found.outcomes if row.measure == measure} == thought & set(arms)
    assert Counter(row.item for row in found.outcomes if row.arm == "A1" and row.measure == "general") == {
        "general/0": 1,
        "general/1": 1,
    }


async def test_closed_questions_are_asked_again_with_the_choices_in_reverse_order(
    services: Services, tmp_path: Path, piece: EvalShard, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[TraceRequest] = []
    create = TraceService.create

    async def noted(self: TraceService, request: TraceRequest, *args: Any, **how: Any) -> Any:
        sent.append(request)
        return await create(self, request, *args, **how)

    monkeypatch.setattr(TraceService, "create", noted)
    found, _ = await run(services, tmp_path, piece)
    turned = [row for row in found.outcomes if row.measure == "reversed"]
    closed = {(user.user_id, row.id) for user in piece.users for row in user.held_out if row.choices}
    own = {(row.arm, row.user, row.item) for row in answers(found) if row.outcome == "answered"}
    assert {(row.arm, row.user, row.item) for row in turned} == {
        key for key in own if key[0] in REVERSED_ARMS and key[1:] in closed
    }
    questions = {row.query: row.choices for user in piece.users for row in user.held_out if row.choices}
    orders = {tuple(one.choices or ()) for one in sent if one.query in questions}
    assert orders == {tuple(order) for choices in questions.values() for order in (choices, choices[::-1])}


async def test_a_second_run_asks_and_trains_nothing(
    services: Services, tmp_path: Path, piece: EvalShard, trained: list[str]
) -> None:
    first, new = await run(services, tmp_path, piece)
    once = list(trained)
    again, later = await run(services, tmp_path, piece)
    assert new > 0
    assert later == 0
    assert trained == once
    assert again.outcomes == first.outcomes
    assert again.candidates == first.candidates


async def test_adapters_answer_before_the_memories_that_the_arms_name(
    services: Services, tmp_path: Path, piece: EvalShard, trained: list[str]
) -> None:
    asked: list[Any] = []
    write = services.traces.create

    async def watch(request: Any) -> Any:
        asked.append(request)
        return await write(request)

    services.traces.create = watch  # type: ignore[method-assign]
    await run(services, tmp_path, piece, arms=("A0", "A5", "C3-none", "C3-nearest"))
    seen = {(request.memory.partition("/")[0], request.model.partition(".")[2].partition("-")[0]) for request in asked}
    assert {("none", ""), ("own", "fast"), ("none", "selected"), ("user", "selected")} <= seen
    assert all(request.memory != f"user/{request.user_id}" for request in asked)


async def test_each_user_starts_from_the_adapter_of_the_pool_s_traces(
    services: Services, tmp_path: Path, piece: EvalShard, trained: list[str]
) -> None:
    found, _ = await run(services, tmp_path, piece, arms=("A9", *OPTIONAL_ARMS))
    [pool] = [row for row in found.adapters if row["recipe"] == "cohort"]
    cohort = pool["model"].rpartition("@")[0]
    assert trained[0] != cohort, "A9's are made first"
    of_pool = {user.user_id for user in piece.pool}
    learned = (await services.store.lineage.get(cohort, 1)).traces
    assert {one.user_id.partition(".")[0] for one in learned} == of_pool
    for row in found.adapters:
        key, _, number = str(row["model"]).rpartition("@")
        started = (await services.store.versions.get(key, int(number))).start
        assert started == (pool["model"] if row["recipe"] == "cohort-first" else None)
    assert {row["user"] for row in found.adapters if row["recipe"] == "cohort-first"} == {
        user.user_id for user in piece.users
    }
    assert {(row.arm, row.outcome) for row in answers(found)} == {(arm, "answered") for arm in ("A9", *OPTIONAL_ARMS)}


async def test_without_a_cohort_s_adapter_nobody_starts_from_it(
    services: Services, tmp_path: Path, piece: EvalShard, trained: list[str]
) -> None:
    found, _ = await run(services, tmp_path, replace(piece, pool=[]), arms=("cohort-A9",))
    assert {(row.outcome, row.why) for row in answers(found)} == {
        ("no_adapter", "to start from: the records have no other users to train it on")
    }


async def test_a_user_without_questions_is_not_silently_left_out(
    services: Services, tmp_path: Path, piece: EvalShard, trained: list[str]
) -> None:
    lonely = replace(piece, users=[replace(piece.users[0], held_out=[])], pool=[])
    found, _ = await run(services, tmp_path, lonely, arms=("A1", "A4", "C1"))
    assert [(row.arm, row.outcome, row.why) for row in answers(found)] == [
        (arm, "failed", "no held-out questions") for arm in ("A1", "A4", "C1")
    ]


async def test_arms_that_need_other_users_say_so_where_there_are_none(
    services: Services, tmp_path: Path, piece: EvalShard, trained: list[str]
) -> None:
    alone = replace(piece, users=piece.users[:1], pool=[])
    found, _ = await run(services, tmp_path, alone, arms=("A4", "C1", "C3-nearest"))
    why = {row.arm: (row.outcome, row.why) for row in answers(found)}
    assert why["A4"] == ("no_adapter", "the records have no other users to train it on")
    assert why["C1"] == ("no_adapter", "there is no other user")
    assert why["C3-nearest"] == ("no_adapter", "there is no other user")


async def test_refused_adapter_answers_nothing_and_is_reported(
    services: Services, tmp_path: Path, piece: EvalShard, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = adapters.AdapterBuilder._load_adapter

    async def refused(self: Any, key: str) -> adapters.BuiltAdapter:
        if ".fast-" in key:
            return adapters.BuiltAdapter(None, None, "refused", f"{key}@1: collapse")
        return await made(self, key)

    monkeypatch.setattr(adapters.AdapterBuilder, "_load_adapter", refused)
    found, _ = await run(services, tmp_path, piece, arms=("A5", "A6", "A8"))
    by_arm = {arm: {row.outcome for row in answers(found) if row.arm == arm} for arm in ("A5", "A6")}
    assert by_arm == {"A5": {"refused"}, "A6": {"refused"}}
    assert all("collapse" in row.why for row in answers(found) if row.arm == "A5")
