"""What the losses were, by kind and part of the sequences and by epoch. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from mindprint_trainer.data.packing import Target
from mindprint_trainer.data.tokenization import TokenizedSample


class LossLog:
    """Collects -log p of targets, in nats a token. A segment's loss is the mean over its tokens."""

    def __init__(self, sequences: Sequence[TokenizedSample]) -> None:
        self._sequences = sequences
        self._values: dict[int, dict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, epoch: int, targets: Iterable[Target], values: Iterable[float]) -> None:
        of_epoch = self._values[epoch]
        for target, value in zip(targets, values, strict=True):
            of_epoch[target.sequence, target.segment].append(value)

    def state(self) -> dict[int, dict[tuple[int, int], list[float]]]:
        """All values, for a checkpoint."""
        return {epoch: dict(values) for epoch, values in self._values.items()}

    def load(self, state: dict[int, dict[tuple[int, int], list[float]]]) -> None:
        self._values.clear()
        for epoch, values in state.items():
            self._values[epoch].update({segment: list(of_segment) for segment, of_segment in values.items()})

    def means(self, epoch: int) -> dict[str, float]:
        """The mean over segments, by names like `slow_thinking`."""
        by_name: dict[str, list[float]] = defaultdict(list)
        for (number, index), values in self._values[epoch].items():
            sequence = self._sequences[number]
            by_name[f"{sequence.kind}_{sequence.segments[index].part}"].append(fmean(values))
        return {name: fmean(by_name[name]) for name in sorted(by_name)}

    def first_and_last(self) -> dict[str, float]:
        """The means of the first and of the last epoch, by names like `slow_thinking_first`."""
        first, last = self.means(min(self._values)), self.means(max(self._values))
        return {
            **{f"{name}_first": value for name, value in first.items()},
            **{f"{name}_last": value for name, value in last.items()},
        }

    def learned(self, number: int) -> float:
        """By how many nats a token a sequence's loss fell from the first epoch to the last."""
        return self._of(number, min(self._values)) - self._of(number, max(self._values))

    def _of(self, number: int, epoch: int) -> float:
        segments = range(len(self._sequences[number].segments))
        return fmean(value for index in segments for value in self._values[epoch][number, index])
