from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mindprint.types import Lease
from mindprint_trainer.base import Base
from mindprint_trainer.errors import BaseMismatch, NotFinite, Stopped, TrainerError
from mindprint_trainer.settings import Settings
from mindprint_trainer.view import LogView
from mindprint_trainer.worker import Worker, sweep

LeaseOf = Callable[..., Lease]
MakeWorker = Callable[..., Worker]


@pytest.fixture
def make(server: Any, settings: Settings, base: Base) -> MakeWorker:
    def worker(check: Callable[[], None] = lambda: None, **changes: Any) -> Worker:
        asked = settings.model_copy(update=changes)
        return Worker(asked, base, server.client(), server.client, LogView(60), check)

    return worker


def leftovers(settings: Settings) -> list[Path]:
    return list(settings.work_dir.iterdir()) if settings.work_dir.exists() else []


def test_it_trains_and_uploads_each_lease_until_nothing_waits(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings, base: Base
) -> None:
    server.queue = [lease_of("anna"), lease_of("ben")]
    worker = make()
    worker.run()
    assert [outcome.result for outcome in worker.outcomes] == ["version 1", "version 2"]
    assert len(server.claims) == 3
    assert server.released == []
    (lease_id, manifest, config, weights), _ = server.completed
    assert lease_id == "lease-anna"
    assert manifest.adapter == "user/anna"
    assert manifest.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert config["base_model_name_or_path"] == base.digest
    assert len(manifest.canary) == settings.canary_items
    assert leftovers(settings) == []


def test_the_claim_says_what_is_wanted(server: Any, make: MakeWorker) -> None:
    make(adapter="user/anna", min_traces=3, max_traces=7, ttl_s=12.0, owner="me").run()
    assert server.claims == [{"owner": "me", "adapter": "user/anna", "ttl_s": 12.0, "min_traces": 3, "max_traces": 7}]


def test_a_lost_lease_stops_the_training_and_nothing_is_uploaded(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings, refusal: Any
) -> None:
    server.queue = [lease_of()]
    server.answers["heartbeat"] = refusal(409, "lease_lost")
    worker = make(ttl_s=0.03, epochs=2000)
    started = time.monotonic()
    worker.run()
    assert time.monotonic() - started < 5
    assert server.completed == []
    assert [outcome.result for outcome in worker.outcomes] == ["the lease was lost: nothing uploaded"]
    assert leftovers(settings) == []


def test_a_loss_that_is_not_a_number_releases_the_lease_and_ends_the_process(
    server: Any, make: MakeWorker, lease_of: LeaseOf
) -> None:
    server.queue = [lease_of()]
    with pytest.raises(NotFinite):
        make(learning_rate=1e30).run()
    assert server.released == ["lease-anna"]
    assert server.completed == []


def test_a_stop_in_the_middle_releases_the_lease(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings
) -> None:
    server.queue = [lease_of()]
    calls = iter([False] * 4)

    def check() -> None:
        if next(calls, True):
            raise Stopped(15)

    with pytest.raises(Stopped):
        make(check).run()
    assert server.released == ["lease-anna"]
    assert server.completed == []
    assert leftovers(settings) == []


def test_a_refused_canary_is_told_and_the_next_lease_goes_on(
    server: Any, make: MakeWorker, lease_of: LeaseOf, refusal: Any
) -> None:
    server.queue = [lease_of("anna")]
    server.answers["complete"] = refusal(422, "canary_failed")
    worker = make()
    worker.run()
    assert [outcome.result for outcome in worker.outcomes] == ["refused: canary_failed"]
    assert server.released == []
    assert len(server.claims) == 2


def test_an_upload_that_can_never_pass_ends_the_process(
    server: Any, make: MakeWorker, lease_of: LeaseOf, refusal: Any
) -> None:
    server.queue = [lease_of()]
    server.answers["complete"] = refusal(422, "adapter_rank")
    with pytest.raises(TrainerError, match="refused: adapter_rank"):
        make().run()
    assert server.released == ["lease-anna"]


def test_a_lease_for_another_base_is_released(server: Any, make: MakeWorker, lease_of: LeaseOf) -> None:
    server.queue = [lease_of(base_digest="sha256:feed")]
    with pytest.raises(BaseMismatch, match="the server's base model is sha256:feed, the trainer's sha256:"):
        make().run()
    assert server.released == ["lease-anna"]


def test_failing_calls_are_made_again_but_not_for_ever(server: Any, make: MakeWorker, refusal: Any) -> None:
    tries = 0

    def failing() -> httpx.Response:
        nonlocal tries
        tries += 1
        if tries == 3:
            del server.answers["leases"]
        response: httpx.Response = refusal(503, "engine_dead")()
        return response

    server.answers["leases"] = failing
    make(max_failures=4).run()
    assert tries == 3
    server.answers["leases"] = refusal(503, "engine_dead")
    with pytest.raises(TrainerError, match="engine_dead"):
        make(max_failures=2).run()
    server.answers["leases"] = refusal(403, "forbidden")
    with pytest.raises(TrainerError, match="forbidden"):
        make().run()


def test_without_once_it_polls(
    server: Any, make: MakeWorker, lease_of: LeaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            raise Stopped(2)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(Stopped):
        make(once=False, poll_s=2.0).run()
    assert len(server.claims) == 4
    assert all(1 <= seconds <= 3 for seconds in slept)
    assert len(set(slept)) > 1


def test_only_old_output_of_trainers_is_swept(tmp_path: Path) -> None:
    for name, age in (("adapter-old", 100), ("adapter-new", 0), ("mine", 100)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "file").write_text("x")
        os.utime(folder, (time.time() - age, time.time() - age))
    sweep(tmp_path, 50)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["adapter-new", "mine"]
    sweep(tmp_path / "absent", 50)
