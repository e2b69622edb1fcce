"""Trainings beside each other: on a CPU one small training leaves cores idle, whatever number of threads it is given.

A lane is a thread that trains one adapter after the other, over the base that all lanes share. What it tells and finds
goes through a queue to the thread that asked, so that hooks are called and results are seen in that one alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import torch

from mindprint_trainer.model.base_model import Base, available_cores
from mindprint_trainer.settings import Settings
from mindprint_trainer.training import multi_adapter
from mindprint_trainer.training.multi_adapter import NO_CALLBACKS, Callbacks, JobResult, TrainingJob

POLL_S = 0.1
"""How often a wait for the lanes looks at signals."""


class PoolClosed(Exception):
    """Nobody wants what this lane is at."""


def train_jobs(
    base: Base, jobs: Sequence[TrainingJob], settings: Settings, hooks: Callbacks = NO_CALLBACKS
) -> Generator[tuple[TrainingJob, JobResult], None, None]:
    """Trains all jobs, and yields each as it ends: trained, failed, or its lease lost. Close it to end early.

    In lanes where there are several, else in shared passes (`loop.run`). In a lane the weights become what they would
    become alone with as many threads.
    """
    threads = settings.threads or available_cores()
    count = count_threads(len(jobs), settings.lanes, threads if base.device.type == "cpu" else 1)
    if count == 1:
        yield from multi_adapter.train_in_shared_passes(base, jobs, settings, hooks)
    else:
        yield from ThreadedTrainingPool(base, jobs, settings, hooks).run(count, max(1, threads // count))


def count_threads(jobs: int, wanted: int | None, usual: int) -> int:
    """Lanes: no more than jobs, one at least."""
    return max(1, min(jobs, wanted or usual))


class ThreadedTrainingPool:
    def __init__(self, base: Base, jobs: Sequence[TrainingJob], settings: Settings, hooks: Callbacks) -> None:
        self._base, self._settings, self._hooks = base, settings, hooks
        self._waiting: SimpleQueue[TrainingJob] = SimpleQueue()
        for job in jobs:
            self._waiting.put(job)
        self._heard: SimpleQueue[tuple[TrainingJob, JobResult] | Callable[[], None] | BaseException | None] = (
            SimpleQueue()
        )
        """Results, what is to be told, what a lane ended with; None when it has ended."""
        self._closed = threading.Event()

    def run(self, count: int, threads: int) -> Generator[tuple[TrainingJob, JobResult], None, None]:
        lanes = [
            threading.Thread(target=self._lane, args=(threads,), name=f"lane {number}", daemon=True)
            for number in range(count)
        ]
        try:
            for lane in lanes:
                lane.start()
            while count:
                self._hooks.check()
                try:
                    heard = self._heard.get(timeout=POLL_S)
                except Empty:
                    continue
                if heard is None:
                    count -= 1
                elif isinstance(heard, BaseException):
                    raise heard
                elif isinstance(heard, tuple):
                    yield heard
                else:
                    heard()
        finally:
            self._closed.set()
            for lane in lanes:
                if lane.ident is not None:
                    lane.join()  # no later than its next pass

    def _lane(self, threads: int) -> None:
        torch.set_num_threads(threads)  # of this lane alone
        hooks = Callbacks(self._check, partial(self._later, self._hooks.tell), partial(self._later, self._hooks.say))
        try:
            while True:
                job = self._waiting.get_nowait()
                for ended in multi_adapter.train_in_shared_passes(self._base, [job], self._settings, hooks):
                    self._heard.put(ended)
        except (Empty, PoolClosed):
            pass
        except BaseException as error:  # it is raised in the thread that asked
            self._heard.put(error)
        finally:
            self._heard.put(None)

    def _check(self) -> None:
        if self._closed.is_set():
            raise PoolClosed

    def _later(self, hook: Callable[..., None], *given: Any, **named: Any) -> None:
        self._heard.put(partial(hook, *given, **named))
