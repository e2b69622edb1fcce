"""Training jobs in parallel threads. On a CPU one small training leaves cores idle, however many threads torch has.

Each thread of the pool trains one adapter after the other over the base model that all share (decision 011). Results,
steps and events go through a queue to the thread that called, so that callbacks run in that thread only.
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
"""Seconds between two calls of `raise_if_stopped` while it waits for the threads."""


class PoolClosed(Exception):
    """The caller wants no more results."""


def train_jobs(
    base: Base, jobs: Sequence[TrainingJob], settings: Settings, callbacks: Callbacks = NO_CALLBACKS
) -> Generator[tuple[TrainingJob, JobResult], None, None]:
    """Train all jobs, and yield each as it ends. Close the generator to end early.

    Jobs run in `parallel_threads` threads, or in shared forward passes when that is 1. In a thread the weights of a job
    are the same, bit by bit, as in a run alone with the same number of torch's threads.

    Args:
        base: The base model.
        jobs: One job an adapter.
        settings: The trainer's settings.
        callbacks: Progress and interruption; whatever they raise ends all jobs.
    """
    threads = settings.threads or available_cores()
    count = count_threads(len(jobs), settings.parallel_threads, threads if base.device.type == "cpu" else 1)
    if count == 1:
        yield from multi_adapter.train_in_shared_passes(base, jobs, settings, callbacks)
    else:
        yield from ThreadedTrainingPool(base, jobs, settings, callbacks).run(count, max(1, threads // count))


def count_threads(jobs: int, wanted: int | None, default: int) -> int:
    """Return how many jobs run at a time: the wanted number, but at most `jobs` and at least one.

    Args:
        jobs: How many jobs there are.
        wanted: The setting `parallel_threads`.
        default: The number if `wanted` is None.
    """
    return max(1, min(jobs, wanted or default))


class ThreadedTrainingPool:
    """Trains jobs in several threads and yields their results in the caller's thread."""

    def __init__(self, base: Base, jobs: Sequence[TrainingJob], settings: Settings, callbacks: Callbacks) -> None:
        self._base, self._settings, self._callbacks = base, settings, callbacks
        self._waiting: SimpleQueue[TrainingJob] = SimpleQueue()
        for job in jobs:
            self._waiting.put(job)
        self._messages: SimpleQueue[tuple[TrainingJob, JobResult] | Callable[[], None] | BaseException | None] = (
            SimpleQueue()
        )
        """Messages of the threads: a result, a callback to run, an exception, or None when a thread has ended."""
        self._closed = threading.Event()

    def run(self, count: int, torch_threads: int) -> Generator[tuple[TrainingJob, JobResult], None, None]:
        """Train all jobs, and yield each as it ends. Closing the generator ends all threads at their next pass.

        Args:
            count: Threads of the pool.
            torch_threads: Threads of torch in each of them.
        """
        threads = [
            threading.Thread(target=self._train, args=(torch_threads,), name=f"training {i}", daemon=True)
            for i in range(count)
        ]
        try:
            for thread in threads:
                thread.start()
            while count:
                self._callbacks.raise_if_stopped()
                try:
                    message = self._messages.get(timeout=POLL_S)
                except Empty:
                    continue
                if message is None:
                    count -= 1
                elif isinstance(message, BaseException):
                    raise message
                elif isinstance(message, tuple):
                    yield message
                else:
                    message()
        finally:
            self._closed.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

    def _train(self, torch_threads: int) -> None:
        torch.set_num_threads(torch_threads)  # It sets the number for the calling thread only.
        callbacks = Callbacks(
            self._raise_if_closed,
            partial(self._call_later, self._callbacks.on_step),
            partial(self._call_later, self._callbacks.on_event),
        )
        try:
            while True:
                job = self._waiting.get_nowait()
                for result in multi_adapter.train_in_shared_passes(self._base, [job], self._settings, callbacks):
                    self._messages.put(result)
        except (Empty, PoolClosed):
            pass
        except BaseException as error:  # It is raised again in the caller's thread.
            self._messages.put(error)
        finally:
            self._messages.put(None)

    def _raise_if_closed(self) -> None:
        if self._closed.is_set():
            raise PoolClosed

    def _call_later(self, callback: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        self._messages.put(partial(callback, *args, **kwargs))
