"""The values of the loss, by kind and part of the sequences and by epoch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from mindprint_trainer.data.packing import Target
from mindprint_trainer.data.tokenization import TokenizedSample


class LossLog:
    """Collects the unweighted losses of targets, in nats a token. A segment's loss is the mean over its tokens."""

    def __init__(self, sequences: Sequence[TokenizedSample]) -> None:
        self._sequences = sequences
        self._values: dict[int, dict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(list))
        """Losses by epoch, then by indices of sequence and segment."""

    def add(self, epoch: int, targets: Iterable[Target], values: Iterable[float]) -> None:
        """Record the losses of a pass.

        Args:
            epoch: The epoch of the optimizer step.
            targets: The targets of the pass.
            values: The loss of each target.
        """
        segments = self._values[epoch]
        for target, value in zip(targets, values, strict=True):
            segments[target.sequence, target.segment].append(value)

    def state_dict(self) -> dict[int, dict[tuple[int, int], list[float]]]:
        """Return all values, for a checkpoint."""
        return {epoch: dict(values) for epoch, values in self._values.items()}

    def load_state_dict(self, state: dict[int, dict[tuple[int, int], list[float]]]) -> None:
        """Replace all values by those of a checkpoint."""
        self._values.clear()
        for epoch, values in state.items():
            self._values[epoch].update({segment: list(losses) for segment, losses in values.items()})

    def means(self, epoch: int) -> dict[str, float]:
        """Return the mean over segments by kind and part, with names like `slow_thinking`."""
        by_name: dict[str, list[float]] = defaultdict(list)
        for (index, segment), values in self._values[epoch].items():
            sequence = self._sequences[index]
            by_name[f"{sequence.kind}_{sequence.segments[segment].part}"].append(fmean(values))
        return {name: fmean(by_name[name]) for name in sorted(by_name)}

    def first_and_last(self) -> dict[str, float]:
        """Return the means of the first and the last epoch, with names like `slow_thinking_first`."""
        first, last = self.means(min(self._values)), self.means(max(self._values))
        return {
            **{f"{name}_first": value for name, value in first.items()},
            **{f"{name}_last": value for name, value in last.items()},
        }

    def improvement(self, sequence: int) -> float:
        """Return by how many nats a token a sequence's loss fell from the first epoch to the last."""
        return self._sequence_mean(sequence, min(self._values)) - self._sequence_mean(sequence, max(self._values))

    def _sequence_mean(self, sequence: int, epoch: int) -> float:
        segments = range(len(self._sequences[sequence].segments))
        return fmean(value for segment in segments for value in self._values[epoch][sequence, segment])
