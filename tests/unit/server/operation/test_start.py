"""A server that starts together with its database waits for it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from lease_desk import trace
from mindprint.types import LeaseRequest
from mindprint_server import wiring
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.settings import Settings
from mindprint_server.store import ClaimPolicy, Store, StoreBusy, clock
from mindprint_server.wiring import close_services, open_services
from samples import engagement


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> list[StoreBusy]:
    """Errors that opening the store raises before it succeeds."""
    errors = [StoreBusy("connection refused"), StoreBusy("it is starting up")]

    class Opening:
        @staticmethod
        async def open(url: str, **bounds: float) -> Store:
            if errors:
                raise errors.pop(0)
            return await Store.open(url)

    monkeypatch.setattr(wiring, "Store", Opening)
    return errors


def settings(folder: Path, wait_s: float) -> Settings:
    (folder / "config.json").write_text("{}")
    return Settings(data_dir=folder / "data", engine="fake", database_wait_s=wait_s, retry_min_s=0.01)


async def test_it_waits_for_the_database(tmp_path: Path, away: list[StoreBusy]) -> None:
    phases: list[str] = []
    engine = FakeEngine(model_path=tmp_path)
    services = await open_services(settings(tmp_path, 60), engine=engine, progress=phases.append)
    assert phases[:3] == [
        "opening the store",
        "waiting for the database: connection refused",
        "waiting for the database: it is starting up",
    ]
    await close_services(services)


async def test_it_does_not_wait_for_ever(tmp_path: Path, away: list[StoreBusy]) -> None:
    with pytest.raises(StoreBusy, match="connection refused"):
        await open_services(settings(tmp_path, 0), engine=FakeEngine(model_path=tmp_path))
    assert len(away) == 1


async def test_start_removes_what_a_killed_server_was_receiving(settings: Settings, base_folder: Path) -> None:
    settings.uploads_dir.mkdir()
    (settings.uploads_dir / "half.safetensors").write_bytes(b"of a user who may be erased")
    services = await open_services(settings, engine=FakeEngine(model_path=base_folder))
    await close_services(services)
    assert list(settings.uploads_dir.iterdir()) == []


async def test_lease_of_a_dead_trainer_ends_in_time_though_the_clock_is_set_back_before_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await open_services(settings(tmp_path, 0), engine=FakeEngine(model_path=tmp_path))
    await services.store.engagements.add("ann", [engagement(0)])
    await services.store.traces.add(trace("ann", "e000"))
    wanted = LeaseRequest(owner="dead", ttl_s=600, adapter="user/ann", min_traces=1)
    lease = await services.store.leases.claim(wanted, ClaimPolicy(max_attempts=3))
    assert lease is not None
    await close_services(services)
    monkeypatch.setattr(clock, "_ANCHOR", clock._ANCHOR - timedelta(hours=1))
    services = await open_services(settings(tmp_path, 0), engine=FakeEngine(model_path=tmp_path))
    left = (await services.store.leases.get(lease.id)).deadline - clock.process_time()
    await close_services(services)
    assert left <= timedelta(seconds=600)
