from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import torch
from safetensors.torch import load

from mindprint.types import Lease, Sample
from mindprint_trainer.checkpoints import Checkpoints, task_key
from mindprint_trainer.errors import CannotTrain, LeaseEnded, Stopped
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.multi_adapter import Callbacks, TrainedAdapter, TrainingJob, train_adapter
from mindprint_trainer.training.parallel import count_threads, train_jobs
from mindprint_trainer.training.run import StepReport

LeaseOf = Callable[..., Lease]
NAMES = ("anna", "ben", "carl")


@pytest.fixture
def two(settings: Settings) -> Settings:
    return settings.model_copy(update={"parallel_threads": 2})


@pytest.fixture(autouse=True)
def no_lane_stays() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("training ")]


def test_there_are_at_most_as_many_threads_as_jobs() -> None:
    assert count_threads(jobs=3, wanted=None, default=2) == 2
    assert count_threads(jobs=3, wanted=None, default=8) == 3
    assert count_threads(jobs=3, wanted=1, default=8) == 1
    assert count_threads(jobs=1, wanted=4, default=8) == 1
    assert count_threads(jobs=0, wanted=None, default=8) == 1


def test_adapters_of_a_thread_are_those_trained_alone(base: Base, two: Settings, lease_of: LeaseOf) -> None:
    """To the bit, though two are trained at a time: each waits in its first pass until the other one has come there."""
    both = threading.Barrier(2, timeout=30)
    met: set[str] = set()

    def meeting(name: str) -> Callable[[], None]:
        def check() -> None:
            if name not in met and name != "carl":
                met.add(name)
                both.wait()

        return check

    jobs = [TrainingJob(lease_of(name), raise_if_lost=meeting(name)) for name in NAMES]
    ended = {job.lease.adapter: result for job, result in train_jobs(base, jobs, two)}
    assert met == {"anna", "ben"}
    for name in NAMES:
        alone, result = train_adapter(base, lease_of(name), two), ended[f"user/{name}"]
        assert isinstance(result, TrainedAdapter)
        weights = load(alone.files.weights)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in load(result.files.weights).items())
        assert result.manifest.losses == alone.manifest.losses
        assert result.manifest.parity_items == alone.manifest.parity_items


def test_callbacks_run_in_the_callers_thread(base: Base, two: Settings, lease_of: LeaseOf) -> None:
    told: list[StepReport] = []
    where: set[str] = set()

    def tell(report: StepReport) -> None:
        told.append(report)
        where.add(threading.current_thread().name)

    jobs = [TrainingJob(lease_of(name)) for name in NAMES]
    for job, _ in train_jobs(base, jobs, two, Callbacks(on_step=tell)):
        last = [report for report in told if report.lease_id == job.lease.id][-1]
        assert last.step == last.steps  # all of its steps were told before it
    assert where == {threading.current_thread().name}
    assert {report.adapter for report in told} == {f"user/{name}" for name in NAMES}


def test_one_that_ends_leaves_the_others_as_they_are(base: Base, two: Settings, lease_of: LeaseOf) -> None:
    def lost() -> None:
        raise LeaseEnded

    empty = [Sample(kind="fast", engagement_id="e", prompt="", answer="x")] * 2
    jobs = [
        TrainingJob(lease_of("ben"), raise_if_lost=lost),
        TrainingJob(lease_of("carl", samples=empty)),
        TrainingJob(lease_of("anna")),
    ]
    ended = {job.lease.adapter: result for job, result in train_jobs(base, jobs, two)}
    assert isinstance(ended["user/ben"], LeaseEnded)
    assert isinstance(ended["user/carl"], CannotTrain)
    assert isinstance(ended["user/anna"], TrainedAdapter)


def test_unexpected_error_ends_all_threads_and_is_raised(base: Base, two: Settings, lease_of: LeaseOf) -> None:
    def broken() -> None:
        raise RuntimeError("out of memory")

    jobs = [
        TrainingJob(lease_of("anna")),
        TrainingJob(lease_of("ben"), raise_if_lost=broken),
        TrainingJob(lease_of("carl")),
    ]
    with pytest.raises(RuntimeError, match="out of memory"):
        list(train_jobs(base, jobs, two))


def test_signal_ends_all_threads(base: Base, two: Settings, lease_of: LeaseOf) -> None:
    told: list[StepReport] = []

    def check() -> None:
        if told:
            raise Stopped(15)

    with pytest.raises(Stopped):
        list(train_jobs(base, [TrainingJob(lease_of(name)) for name in NAMES], two, Callbacks(check, told.append)))
    assert len(told) < 3 * 9


def test_crash_in_threads_gives_the_same_bits(base: Base, two: Settings, lease_of: LeaseOf) -> None:
    often = two.model_copy(update={"dropout": 0.2, "checkpoint_every_steps": 1})
    told: list[StepReport] = []

    def crash(report: StepReport) -> None:
        told.append(report)
        if len(told) == 5:
            raise KeyboardInterrupt

    def jobs() -> list[TrainingJob]:
        leases = [lease_of(name) for name in NAMES]
        return [TrainingJob(lease, checkpoints=Checkpoints(often.work_dir, task_key(lease, often))) for lease in leases]

    with pytest.raises(KeyboardInterrupt):
        list(train_jobs(base, jobs(), often, Callbacks(on_step=crash)))
    told.clear()
    ended = {
        job.lease.adapter: result for job, result in train_jobs(base, jobs(), often, Callbacks(on_step=told.append))
    }
    assert len(told) < 3 * 9  # what was done before is not done again
    for name in NAMES:
        assert isinstance(result := ended[f"user/{name}"], TrainedAdapter)
        assert result.files.weights == train_adapter(base, lease_of(name), often).files.weights


def test_who_wants_no_more_closes_it(base: Base, two: Settings, lease_of: LeaseOf) -> None:
    done: list[str] = []
    with closing(train_jobs(base, [TrainingJob(lease_of(name)) for name in NAMES], two)) as results:
        for job, _ in results:
            done.append(job.lease.adapter)
            break
    assert len(done) == 1
