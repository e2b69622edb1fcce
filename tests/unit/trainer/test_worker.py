from __future__ import annotations

import hashlib
import json
import math
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from structlog.testing import capture_logs
from transformers import AutoTokenizer

from mindprint.types import Lease
from mindprint_server.adapters.validation import ServedModel, check_upload
from mindprint_server.engine.model_shapes import read_base_shapes
from mindprint_server.settings import AdapterSettings
from mindprint_trainer.checkpoints import FAILED, SUFFIX
from mindprint_trainer.errors import BaseMismatch, CannotTrain, NotFinite, Stopped, TrainerError
from mindprint_trainer.model.base_model import Base, load_base_model
from mindprint_trainer.model.lora import LoraAdapter
from mindprint_trainer.reporting.progress import LogReporter
from mindprint_trainer.settings import Settings
from mindprint_trainer.worker import Worker

LeaseOf = Callable[..., Lease]
MakeWorker = Callable[..., Worker]


def left(settings: Settings, suffix: str) -> list[Path]:
    return sorted(settings.work_dir.glob(f"*{suffix}"))


def test_it_trains_and_uploads_each_lease_until_nothing_waits(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings, base: Base
) -> None:
    server.queue = [lease_of("anna"), lease_of("ben")]
    worker = make()
    worker.run()
    assert [outcome.result for outcome in worker.outcomes] == ["version 1", "version 2"]
    assert len(server.claims) >= 3
    assert server.released == []
    (lease_id, manifest, config, weights), _ = server.completed
    assert lease_id == "lease-anna"
    assert manifest.adapter == "user/anna"
    assert manifest.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert config["base_model_name_or_path"] == base.digest
    assert len(manifest.parity_items) == settings.parity_items
    assert left(settings, "") == []


def test_the_claim_says_what_is_wanted(server: Any, make: MakeWorker) -> None:
    make(adapter=("user/anna",), min_traces=3, max_traces=7, ttl_s=12.0, owner="me").run()
    assert server.claims == [{"owner": "me", "adapter": "user/anna", "ttl_s": 12.0, "min_traces": 3, "max_traces": 7}]


def test_refused_version_is_told_with_its_checks_and_the_command_that_explains_them(
    server: Any,
    make: MakeWorker,
    lease_of: LeaseOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.queue = [lease_of("anna")]
    message = "user/anna@1 failed the gate (collapse 0.41, bound 0.1): train again"
    end = {"state": "refused", "code": "gate_failed", "message": message, "result": None}
    publish = server.complete
    monkeypatch.setattr(server, "complete", lambda *call: publish(*call).model_copy(update=end))
    with capture_logs() as lines:
        make().run()
    (told,) = (line for line in lines if line["event"].startswith("refused: "))
    assert message in told["event"]
    assert "mindprint adapters why user/anna@1" in told["details"]


def test_of_several_adapters_the_first_that_waits_is_taken(server: Any, make: MakeWorker) -> None:
    make(adapter=("user/anna", "cohort/everyone")).run()
    assert [claim["adapter"] for claim in server.claims] == ["user/anna", "cohort/everyone"]


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


@pytest.mark.parametrize(("code", "kept"), [("lease_lost", 1), ("lease_revoked", 0)])
def test_after_an_erasure_no_checkpoint_stays(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings, refusal: Any, code: str, kept: int
) -> None:
    server.queue = [lease_of()]

    def refused_once_there_is_a_checkpoint() -> httpx.Response:
        if left(settings, SUFFIX):
            refused: httpx.Response = refusal(409, code)()
            return refused
        return httpx.Response(200, text=server.lease("lease").model_dump_json())

    server.answers["heartbeat"] = refused_once_there_is_a_checkpoint
    worker = make(ttl_s=0.3, epochs=300, checkpoint_every_steps=1)
    worker.run()
    assert server.completed == []
    assert len(left(settings, SUFFIX)) == kept
    (outcome,) = worker.outcomes
    assert ("an erasure removed some of its data" in outcome.result) is (code == "lease_revoked")


def test_a_loss_that_is_not_a_number_ends_the_process_and_counts_as_a_bad_end(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings
) -> None:
    """Released, the lease would count as nothing, and a supervisor would bring up the same user for ever."""
    server.queue = [lease_of("anna"), lease_of("ben")]
    worker = make(learning_rate=1e30, checkpoint_every_steps=1)
    with pytest.raises(NotFinite, match=r"its last good checkpoint is kept in .*failed"):
        worker.run()
    assert server.released == []
    assert server.completed == []
    assert left(settings, SUFFIX) == []
    assert len(left(settings, FAILED)) == 1
    assert [outcome.adapter for outcome in worker.outcomes] == ["user/anna"]
    assert "not finite" in worker.outcomes[0].result
    assert len(server.queue) == 1


def test_what_cannot_be_trained_counts_as_a_bad_end_too(server: Any, make: MakeWorker, lease_of: LeaseOf) -> None:
    server.queue = [lease_of()]
    with pytest.raises(CannotTrain):
        make(max_length=4).run()
    assert server.released == []


def test_a_stop_in_the_middle_releases_the_lease(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings
) -> None:
    server.queue = [lease_of()]
    calls = iter([False] * 4)

    def check() -> None:
        if next(calls, True):
            raise Stopped(15)

    with pytest.raises(Stopped):
        make(check=check).run()
    assert server.released == ["lease-anna"]
    assert server.completed == []


@pytest.mark.parametrize(("every", "resumes"), [(1, True), (1000, False)])
def test_stop_keeps_the_step_from_which_a_training_goes_on(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings, every: int, resumes: bool
) -> None:
    server.queue = [lease_of("anna")]
    steps: list[int] = []

    def check() -> None:
        if len(steps) >= 2:
            raise Stopped(15)

    worker = make(check=check, watch=lambda step: steps.append(step.step), checkpoint_every_steps=every)
    with pytest.raises(Stopped):
        worker.run()
    assert worker.resumes_at == {"user/anna": steps[-1] if resumes else 0}


@pytest.mark.parametrize("code", ["parity_failed", "gate_failed"])
def test_refused_version_is_reported_and_the_next_lease_goes_on(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings, refusal: Any, code: str
) -> None:
    server.queue = [lease_of("anna")]
    server.answers["complete"] = refusal(422, code)
    worker = make()
    worker.run()
    assert [outcome.result for outcome in worker.outcomes] == [f"refused: {code}"]
    assert server.released == []
    assert len(server.claims) >= 2  # the last after the refusal: its traces could have been back
    assert left(settings, SUFFIX) == []


def test_an_upload_goes_on_beside_the_next_training(server: Any, make: MakeWorker, lease_of: LeaseOf) -> None:
    server.queue = [lease_of("anna"), lease_of("ben")]
    trained_meanwhile = threading.Event()

    def slow() -> httpx.Response:
        assert trained_meanwhile.wait(30)
        del server.answers["complete"]
        return httpx.Response(500)

    server.answers["complete"] = slow

    def watch(report: Any) -> None:
        if report.lease_id == "lease-ben":
            trained_meanwhile.set()

    make(watch=watch).run()
    assert trained_meanwhile.is_set()
    assert [lease_id for lease_id, *_ in server.completed] == ["lease-ben"]


def test_training_waits_for_each_version_when_asked(server: Any, make: MakeWorker, lease_of: LeaseOf) -> None:
    server.queue = [lease_of("anna"), lease_of("ben")]
    completed: list[int] = []
    make(max_pending_uploads=0, watch=lambda _: completed.append(len(server.completed))).run()
    assert completed == [0] * 9 + [1] * 9


def test_several_leases_are_trained_together_with_a_heartbeat_each(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings
) -> None:
    server.queue = [lease_of(name) for name in ("anna", "ben", "carl")]
    order: list[str] = []
    worker = make(
        max_concurrent_adapters=2,
        ttl_s=0.06,
        epochs=20,
        max_pending_uploads=1,
        watch=lambda report: order.append(report.adapter),
    )
    worker.run()
    assert sorted(manifest.adapter for _, manifest, *_ in server.completed) == ["user/anna", "user/ben", "user/carl"]
    assert order[:4] == ["user/anna", "user/ben"] * 2
    assert set(server.beats) >= {"lease-anna", "lease-ben"}
    assert server.released == []


def test_several_leases_are_trained_in_threads(server: Any, make: MakeWorker, lease_of: LeaseOf) -> None:
    server.queue = [lease_of(name) for name in ("anna", "ben", "carl")]
    worker = make(max_concurrent_adapters=3, parallel_threads=2, ttl_s=0.06, epochs=20)
    worker.run()
    assert sorted(manifest.adapter for _, manifest, *_ in server.completed) == ["user/anna", "user/ben", "user/carl"]
    assert set(server.beats) >= {"lease-anna", "lease-ben", "lease-carl"}  # a lease that waits for a thread is kept
    assert server.released == []


def test_signal_in_threads_releases_every_lease(server: Any, make: MakeWorker, lease_of: LeaseOf) -> None:
    server.queue = [lease_of(name) for name in ("anna", "ben", "carl")]

    def signal(_: Any) -> None:
        raise Stopped(15)

    with pytest.raises(Stopped):
        make(max_concurrent_adapters=3, parallel_threads=2, epochs=60, watch=signal).run()
    assert sorted(server.released) == ["lease-anna", "lease-ben", "lease-carl"]


@pytest.mark.parametrize("threads", [1, 2])
def test_one_lost_lease_of_several_costs_only_its_own(
    server: Any, make: MakeWorker, lease_of: LeaseOf, threads: int
) -> None:
    server.queue = [lease_of("anna"), lease_of("ben")]
    server.lost = {"lease-anna"}
    worker = make(max_concurrent_adapters=2, parallel_threads=threads, ttl_s=0.06, epochs=60)
    worker.run()
    results = {outcome.adapter: outcome.result for outcome in worker.outcomes}
    assert results == {"user/anna": "the lease was lost: nothing uploaded", "user/ben": "version 1"}


def test_a_preview_gives_the_lease_back_and_trains_nothing(server: Any, make: MakeWorker, lease_of: LeaseOf) -> None:
    server.queue = [lease_of()]
    worker = make(dry_run=True)
    assert worker.preview() is not None
    assert worker.preview() is None
    assert server.released == ["lease-anna"]
    assert server.completed == []


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
        response: httpx.Response = refusal(500, "internal_error")()
        return response

    server.answers["leases"] = failing
    make(max_failures=4).run()
    assert tries == 3
    server.answers["leases"] = refusal(500, "internal_error")
    with pytest.raises(TrainerError, match="internal_error"):
        make(max_failures=2).run()
    server.answers["leases"] = refusal(403, "forbidden")
    with pytest.raises(TrainerError, match="forbidden"):
        make().run()


@pytest.mark.parametrize("answer", [httpx.ConnectError("refused"), httpx.Response(502, text="<html>"), "starting"])
def test_server_that_is_away_is_waited_for_however_often_it_fails(
    server: Any, make: MakeWorker, lease_of: LeaseOf, refusal: Any, answer: Any
) -> None:
    """Each call fails six times, with two failures allowed: the claim, the download of refusals, and the upload."""
    left = {"leases": 6, "anna": 6, "complete": 6}

    def away(name: str) -> httpx.Response:
        left[name] -= 1
        if not left[name]:
            del server.answers[name]
        if isinstance(answer, Exception):
            raise answer
        if answer == "starting":
            refused: httpx.Response = refusal(503, "starting")()
            return refused
        return httpx.Response(answer.status_code, text=answer.text)

    for name in left:
        server.answers[name] = partial(away, name)
    server.queue = [lease_of("anna", attempt=2)]
    worker = make(max_failures=1)
    worker.run()
    assert set(left.values()) == {0}
    assert [outcome.result for outcome in worker.outcomes] == ["version 1"]
    assert server.released == []


def test_trainer_polls_at_its_interval_while_an_upload_is_under_way(
    server: Any, make: MakeWorker, lease_of: LeaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time passes only while the trainer waits, so the claims are counted and not timed."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(random, "uniform", lambda low, high: 1.0)
    server.queue = [lease_of()]
    worker = make(poll_s=2.0)

    def poll(wait_s: float) -> None:
        nonlocal now
        now += wait_s
        if now >= 100:
            raise Stopped(2)

    monkeypatch.setattr(worker._uploader, "poll", poll)
    with pytest.raises(Stopped):
        worker.run()
    assert len(server.claims) - 1 == 50


def test_uploads_that_wait_for_the_server_give_up_when_the_trainer_stops(
    server: Any, make: MakeWorker, lease_of: LeaseOf, refusal: Any
) -> None:
    server.queue = [lease_of()]
    asked = threading.Event()

    def away() -> httpx.Response:
        asked.set()
        raise httpx.ConnectError("refused")

    def stop() -> None:
        if asked.is_set():
            raise Stopped(2)

    server.answers["complete"] = away
    worker = make(check=stop)
    with pytest.raises(Stopped):
        worker.run()
    assert worker.given_back == 1
    assert set(server.released) == {"lease-anna"}
    for thread in threading.enumerate():
        if thread.name == "upload of lease-anna":
            thread.join(5)
            assert not thread.is_alive()


def test_traces_that_made_refused_versions_are_named(
    server: Any, make: MakeWorker, lease_of: LeaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.queue = [lease_of(attempt=2)]
    worker = make()
    events: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(worker, "_count_refusals", lambda lease: 2)
    monkeypatch.setattr(worker._reporter, "event", lambda event, **fields: events.append((event, fields)))
    worker.run()
    said = [fields for event, fields in events if event.startswith("these traces made refused versions")]
    assert said == [{"adapter": "user/anna", "refused": 2}]


def test_waiting_for_traces_is_said_once(server: Any, make: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make(once=False, min_traces=3)
    events: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(worker._reporter, "event", lambda event, **fields: events.append((event, fields)))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            raise Stopped(2)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(Stopped):
        worker.run()
    assert events == [("waiting for traces", {"adapter": "any adapter", "min_traces": 3})]


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


@pytest.mark.parametrize("code", ["adapter_not_finite", "adapter_norm", "invalid_manifest"])
def test_upload_of_diverged_values_is_left_to_expire_and_the_next_try_differs(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings, refusal: Any, code: str
) -> None:
    server.queue = [lease_of()]
    server.answers["complete"] = refusal(422, code)
    with pytest.raises(TrainerError, match=f"refused: {code}"):
        make(checkpoint_every_steps=1).run()
    assert server.released == [], "a released lease would count as no attempt"
    assert (left(settings, SUFFIX), len(left(settings, FAILED))) == ([], 1)


def test_adapter_that_is_not_finite_after_rounding_is_never_uploaded(
    server: Any, make: MakeWorker, lease_of: LeaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(adapter: LoraAdapter, dtype: torch.dtype) -> None:
        with torch.no_grad():
            adapter.parameters[0].fill_(math.inf)

    monkeypatch.setattr(LoraAdapter, "round_to", overflow)
    server.queue = [lease_of()]
    with pytest.raises(NotFinite, match="lower MINDPRINT_TRAIN_LEARNING_RATE"):
        make().run()
    assert (server.completed, server.released) == ([], [])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_upload_of_a_training_passes_the_checks_of_the_server(
    server: Any, lease_of: LeaseOf, model_path: Path, tmp_path: Path, settings: Settings, dtype: str
) -> None:
    lease = lease_of()
    server.queue = [lease]
    settings = settings.model_copy(update={"base_dtype": dtype})
    base = load_base_model(model_path, lease.base_digest, settings)
    Worker(settings, base, server.client(), server.client, LogReporter(60), lambda: None).run()
    ((_, manifest, config, weights),) = server.completed
    (tmp_path / "weights").write_bytes(weights)
    served = ServedModel(
        base_digest=lease.base_digest,
        shapes=read_base_shapes(model_path),
        vocab_size=len(AutoTokenizer.from_pretrained(model_path)),
        max_model_len=512,
        max_rank=lease.limits.max_rank,
        targets=lease.limits.target_modules,
    )
    check_upload(
        lease, manifest, json.dumps(config).encode(), tmp_path / "weights", served=served, settings=AdapterSettings()
    )
    assert len(manifest.settings) < AdapterSettings().max_manifest_keys / 10
