"""What answers for a model name: canaries, withdrawal, cohorts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from lives import KEY, Gate, Loader, Open, answering, counted, folders, lives
from mindprint_server.adapters.service import OtherBaseModel, Unusable
from mindprint_server.exceptions import ServerError
from mindprint_server.settings import Settings
from mindprint_server.store import RecordNotFound, StoreBusy, StoreError
from uploads import published


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def serve(settings: Settings, base_folder: Path, gate: Gate) -> AsyncIterator[Open]:
    async with lives(settings, base_folder, gate) as open:
        yield open


# --- candidates ---


async def test_canary_answers_its_share_and_is_promoted_after_good_answers(serve: Open, tmp_path: Path) -> None:
    services = await serve(canary_share=0.4, canary_requests=3)
    assert (await published(services, tmp_path)).state == "live", "there is none yet that it could share with"
    assert (await published(services, tmp_path)).state == "canary"
    assert await answering(services) == "user/ann@1", "0.5 is not below 0.4"
    await services.adapters.set_canary(KEY, 2, 0.6)
    for number in range(3):
        async with services.adapters.acquire(KEY) as adapter:
            assert adapter is not None
            assert adapter.version == 2
            await services.adapters.report_outcome(adapter, "fine")
        assert (await services.store.adapters.get(KEY)).live == (2 if number == 2 else 1)
    assert await answering(services) == "user/ann@2"
    assert services.adapters.residency.loaded() == ["user/ann@2"]


async def test_canary_with_bad_answers_is_withdrawn(serve: Open, tmp_path: Path) -> None:
    services = await serve(canary_share=0.6, health_min_answers=2)
    for _ in range(2):
        await published(services, tmp_path)
    for _ in range(2):
        async with services.adapters.acquire(KEY) as adapter:
            await services.adapters.report_outcome(adapter, "collapsed")
    assert await answering(services) == "user/ann@1"
    version = await services.store.versions.get(KEY, 2)
    assert (version.state, version.checks[-1].name) == ("refused", "service_collapsed")
    assert services.adapters.residency.loaded() == ["user/ann@1"]


async def test_rollback_that_is_done_says_so_though_the_store_is_busy_next(
    serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answered 503 with `x-should-retry: true`: clients repeated it, and it went back two versions."""
    services = await serve()
    for _ in range(2):
        await published(services, tmp_path)

    async def busy(key: str) -> None:
        raise StoreBusy("the connection was lost")

    with monkeypatch.context() as broken:
        broken.setattr(services.store.live_versions, "get", busy)
        assert (await services.adapters.rollback(KEY)).live == 1
    assert await answering(services) == "user/ann@1"


async def test_canary_set_by_hand_is_ended_by_hand(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    for _ in range(2):
        await published(services, tmp_path)
    await services.adapters.rollback(KEY)
    released = await services.adapters.set_canary(KEY, 2, 0.6)
    assert (released.live, released.canary, released.canary_share) == (1, 2, 0.6)
    assert await answering(services) == "user/ann@2"
    assert (await services.adapters.set_canary(KEY, None, 0.1)).canary is None
    assert await answering(services) == "user/ann@1"
    with pytest.raises(StoreError):
        await services.adapters.set_canary(KEY, 1, 0.1)


# --- withdrawal ---


async def test_a_live_version_that_collapses_falls_back_by_itself(serve: Open, tmp_path: Path) -> None:
    services = await serve(health_min_answers=4)
    for _ in range(2):
        await published(services, tmp_path)
    for _ in range(4):
        async with services.adapters.acquire(KEY) as adapter:
            await services.adapters.report_outcome(adapter, "collapsed")
    assert await answering(services) == "user/ann@1"
    assert counted(services, "versions_withdrawn_total", check="service_collapsed") == 1
    assert counted(services, "adapter_answers_total", outcome="collapsed") == 4
    for _ in range(4):
        async with services.adapters.acquire(KEY) as adapter:
            await services.adapters.report_outcome(adapter, "failed")
    assert await answering(services) == "base"


async def test_version_not_in_service_has_no_health(serve: Open, tmp_path: Path) -> None:
    services = await serve(health_min_answers=1)
    for _ in range(2):
        await published(services, tmp_path)
    async with services.adapters.acquire("user/ann@1") as adapter:
        await services.adapters.report_outcome(adapter, "collapsed")
    await services.adapters.report_outcome(None, "collapsed")
    assert (await services.store.versions.get(KEY, 1)).state == "standby"


async def test_a_store_that_is_busy_spoils_no_answer(
    serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await serve(health_min_answers=1)
    await published(services, tmp_path)

    async def busy(*_: object) -> None:
        raise StoreError("busy")

    monkeypatch.setattr(services.store.live_versions, "withdraw", busy)
    async with services.adapters.acquire(KEY) as adapter:
        await services.adapters.report_outcome(adapter, "collapsed")
    monkeypatch.undo()
    async with services.adapters.acquire(KEY) as adapter:
        await services.adapters.report_outcome(adapter, "collapsed")
    assert await answering(services) == "base"


async def test_a_live_version_that_cannot_be_loaded_leaves_the_answer_to_the_base(serve: Open, tmp_path: Path) -> None:
    services = await serve(health_min_answers=2, max_cpu_loras=1)
    await published(services, tmp_path)
    await published(services, tmp_path, "user/bob")
    assert await answering(services, "user/bob") == "user/bob@1"
    assert isinstance(services.engine, Loader)
    services.engine.broken = {"user/ann@1"}
    for _ in range(2):
        assert await answering(services) == "base"
    assert counted(services, "fallbacks_total", to="base") == 2
    assert (await services.store.versions.get(KEY, 1)).state == "refused"
    for call in (services.adapters.promote(KEY, 1), services.adapters.set_canary(KEY, 1, 0.5)):
        with pytest.raises(ServerError) as error:
            await call
        assert (type(error.value), error.value.code) == (Unusable, "version_unusable")


async def test_versions_come_and_go_under_load_and_no_answer_is_lost_or_mixed(serve: Open, tmp_path: Path) -> None:
    """Publishing, withdrawing, promoting and pruning while four adapters are asked for, with three places."""
    services = await serve(
        max_cpu_loras=3,
        adapter_max_starvation_s=0.02,
        health_min_answers=3,
        keep_versions=1,
        canary_share=0.6,
        canary_requests=5,
    )
    keys = ["user/ann", "user/bob", "user/cat", "cohort/everyone"]
    seen: Counter[str] = Counter()
    stop = asyncio.Event()

    async def ask(model: str) -> None:
        while not stop.is_set():
            async with services.adapters.acquire(model) as adapter:
                for _ in range(3):
                    await asyncio.sleep(0.001)
                    assert adapter is None or services.engine.loaded[adapter.engine_id] == adapter  # type: ignore[attr-defined]
                assert len(services.engine.loaded) <= 3  # type: ignore[attr-defined]
                seen[adapter.name if adapter else "base"] += 1
                bad = adapter is not None and adapter.version % 3 == 0
                await services.adapters.report_outcome(adapter, "collapsed" if bad else "fine")

    async with asyncio.timeout(60):
        for key in keys:
            await published(services, tmp_path, key, user="ann" if key.startswith("cohort") else None)
        crowd = [asyncio.create_task(ask(model)) for model in [*keys, "user/dan"] * 3]
        await services.store.engagements.add("dan", [])
        for number in range(12):
            key = keys[number % 4]
            await published(services, tmp_path, key, user="ann" if key.startswith("cohort") else None)
            await asyncio.sleep(0.02)
        stop.set()
        await asyncio.gather(*crowd)
    assert set(seen) >= {f"{key}@1" for key in keys}
    for key in keys:
        assert (await services.store.versions.get(key, 3)).state != "live"
    assert {len(await folders(services, key)) for key in keys} <= {1, 2, 3}


# --- cohorts ---


async def test_a_user_without_a_version_is_served_by_the_cohort_else_by_the_base(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    await services.store.engagements.add("bob", [])
    assert await answering(services, "user/bob") == "base"
    await published(services, tmp_path, "cohort/everyone", user="ann")
    assert await answering(services, "user/bob") == "cohort/everyone@1"
    assert await answering(services, "cohort/everyone") == "cohort/everyone@1"
    await services.store.cohorts.put("walkers", "")
    await services.store.cohorts.add_members("walkers", ["bob"])
    assert await answering(services, "user/bob") == "cohort/everyone@1", "the cohort has none yet"
    await published(services, tmp_path, "user/ann")
    assert await answering(services, "user/ann") == "user/ann@1"
    await services.store.live_versions.set_live("user/ann", None)
    assert await answering(services, "user/ann") == "cohort/everyone@1", "whoever moved the pointer"
    assert "user/ann@1" not in services.adapters.residency.loaded()


async def test_first_version_is_evaluated_beside_the_one_that_answers(serve: Open, gate: Gate, tmp_path: Path) -> None:
    services = await serve()
    await published(services, tmp_path, "cohort/everyone", user="ann")
    await published(services, tmp_path)
    assert gate.seen[-1] == ("user/ann@1", "cohort/everyone@1")


async def test_a_cohort_that_is_not_there(serve: Open) -> None:
    services = await serve()
    assert await answering(services, "cohort/everyone") == "base"
    with pytest.raises(RecordNotFound, match="cohort"):
        await answering(services, "cohort/none")


# --- another base model ---


async def test_version_of_another_base_model_never_answers(
    serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await serve()
    await published(services, tmp_path)
    assert await answering(services) == "user/ann@1"
    info = services.engine.info()
    monkeypatch.setattr(services.engine, "info", lambda: replace(info, base_digest="sha256:another"))
    assert await answering(services) == "base"
    assert counted(services, "fallbacks_total", to="base") == 1
    for call in (services.adapters.promote(KEY, 1), answering(services, "user/ann@1")):
        with pytest.raises(OtherBaseModel, match="trained on base model"):
            await call
    assert (await services.store.versions.get(KEY, 1)).state == "live", "it is not the version's fault"
    monkeypatch.undo()
    assert await answering(services) == "user/ann@1"
