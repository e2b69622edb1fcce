"""What a worker takes up again: crashed trainings, failed ones under another seed, versions to start from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import torch

from mindprint.types import Lease, Manifest, ParityItem, Start, Version
from mindprint_trainer.checkpoints import SUFFIX
from mindprint_trainer.errors import NotFinite, Stopped, TrainerError
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.multi_adapter import train_adapter
from mindprint_trainer.worker import Worker

LeaseOf = Callable[..., Lease]
MakeWorker = Callable[..., Worker]


def test_what_failed_here_is_tried_again_under_another_seed(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.queue = [lease_of()]
    with monkeypatch.context() as patched:
        patched.setattr("torch.nn.utils.clip_grad_norm_", lambda *_: torch.tensor(float("nan")))
        with pytest.raises(NotFinite):
            make().run()
    server.queue = [lease_of(attempt=2)]
    make().run()
    assert server.completed[0][1].settings["seed"] == settings.seed + 1


def test_versions_of_the_same_traces_that_were_refused_move_the_seed(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings
) -> None:
    lease = lease_of(attempt=3)
    other = [*lease.trace_ids, "more"]
    server.versions["user/anna"] = [
        version("refused", lease.trace_ids[::-1]),
        version("refused", other),
        version("live", lease.trace_ids),
    ]
    server.queue = [lease]
    make().run()
    assert server.completed[0][1].settings["seed"] == settings.seed + 1


def test_a_first_attempt_and_a_crash_before_move_no_seed(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings
) -> None:
    server.queue = [lease_of("anna"), lease_of("ben", attempt=2)]
    make().run()
    assert [manifest.settings["seed"] for _, manifest, *_ in server.completed] == [settings.seed] * 2


def version(state: Any, trace_ids: list[str]) -> Version:
    item = ParityItem(prompt_ids=[1], target_ids=[2], logprobs=[-1.0], base_logprobs=[-2.0])
    manifest = Manifest(
        adapter="user/anna",
        base_digest="d",
        weights_sha256="0" * 64,
        trace_ids=trace_ids,
        samples={},
        settings={},
        losses={},
        tokens=1,
        seconds=1,
        trainer="t",
        parity_items=[item],
    )
    return Version(
        adapter="user/anna",
        version=1,
        state=state,
        digest="sha256:0",
        base_digest="d",
        traces=len(trace_ids),
        manifest=manifest,
        created_at=datetime.now(UTC),
    )


def test_an_upload_that_breaks_off_is_made_again(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings, base: Base
) -> None:
    """The server goes down in the middle of an upload: it is uploaded again under the same lease."""
    server.queue = [lease_of("anna")]
    steps: list[int] = []

    def broken() -> httpx.Response:
        del server.answers["complete"]
        raise httpx.ReadError("gone")

    server.answers["complete"] = broken
    worker = make(max_pending_uploads=1, watch=lambda report: steps.append(report.step))
    worker.run()
    assert server.released == []
    assert steps == [*range(1, 10)], "nothing is trained twice"
    assert [lease_id for lease_id, *_ in server.completed] == ["lease-anna"]
    assert server.completed[0][3] == train_adapter(base, lease_of("anna"), settings).files.weights
    assert list(settings.work_dir.glob(f"*{SUFFIX}")) == []


@pytest.mark.parametrize("publishing", [0, 4])
def test_uploads_that_fail_again_and_again_end_the_process(
    server: Any, make: MakeWorker, lease_of: LeaseOf, refusal: Any, publishing: int
) -> None:
    """The training goes on from its last step each time, so that only the upload is made again."""
    server.queue = [lease_of("anna", id=f"lease-{number}") for number in range(5)]
    server.answers["complete"] = refusal(500, "internal_error")
    steps: list[int] = []
    with pytest.raises(TrainerError, match="internal_error"):
        make(max_failures=3, publishing=publishing, watch=lambda report: steps.append(report.step)).run()
    assert server.released[:3] == ["lease-0", "lease-1", "lease-2"]
    assert steps == [*range(1, 10)]


def test_a_training_starts_from_the_version_that_the_lease_names(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings, base: Base
) -> None:
    made = train_adapter(base, lease_of("all", adapter="cohort/all"), settings).files
    server.files["cohort/all", 3] = (made.config, made.weights)
    start = Start(adapter="cohort/all", version=3, digest=f"sha256:{made.digest}")
    server.queue = [lease_of("anna", start=start), lease_of("ben", start=start)]
    make().run()
    assert server.downloads == ["cohort/all@3"]  # once for both
    assert {manifest.settings["start"] for _, manifest, *_ in server.completed} == {"cohort/all@3"}
    assert len(server.completed) == 2


def test_a_start_that_cannot_be_had_gives_the_lease_back_and_is_tried_again(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings, base: Base, refusal: Any
) -> None:
    made = train_adapter(base, lease_of("all", adapter="cohort/all"), settings).files
    server.files["cohort/all", 3] = (made.config, made.weights)
    start = Start(adapter="cohort/all", version=3, digest=f"sha256:{made.digest}")
    gone = Start(adapter="cohort/all", version=3, digest="sha256:feed")
    server.queue = [lease_of("anna", id="lease-1", start=gone), lease_of("anna", start=start)]
    make(max_concurrent_adapters=1).run()
    assert server.released == ["lease-1"]
    assert [lease_id for lease_id, *_ in server.completed] == ["lease-anna"]
    server.answers["download"] = refusal(409, "version_files_gone")
    server.queue = [lease_of(f"user{number}", start=gone) for number in range(3)]
    with pytest.raises(TrainerError, match="version_files_gone"):
        make(max_failures=2).run()
    assert len(server.completed) == 1


def test_a_crashed_training_goes_on_under_a_new_lease_of_the_same_traces(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings, base: Base
) -> None:
    class Killed(BaseException):
        pass

    def kill(report: Any) -> None:
        if report.step == 6:
            raise Killed

    server.queue = [lease_of(id="lease-1")]
    worker = make(checkpoint_every_steps=2, watch=kill)
    with pytest.raises(Killed):
        worker.run()
    server.queue = [lease_of(id="lease-2", attempt=2)]
    steps: list[int] = []
    make(checkpoint_every_steps=2, watch=lambda report: steps.append(report.step)).run()
    assert steps == [5, 6, 7, 8, 9]
    assert server.completed[0][3] == train_adapter(base, lease_of(), settings).files.weights
    assert list(settings.work_dir.glob(f"*{SUFFIX}")) == []


def test_other_samples_do_not_meet_the_checkpoint(
    server: Any, make: MakeWorker, lease_of: LeaseOf, settings: Settings
) -> None:
    server.queue = [lease_of("anna")]

    def stop(report: Any) -> None:
        raise Stopped(15)

    worker = make(checkpoint_every_steps=1, watch=stop)
    with pytest.raises(Stopped):
        worker.run()
    fewer = lease_of("anna")
    fewer.samples = fewer.samples[:-1]
    server.queue = [fewer]
    steps: list[int] = []
    worker = make(watch=lambda report: steps.append(report.step))
    worker.run()
    assert steps[0] == 1
