"""The weight of each target in the loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mindprint_trainer.data.packing import Target
from mindprint_trainer.data.tokenization import Kind, Part, TokenizedSample
from mindprint_trainer.settings import Settings


@dataclass(frozen=True, slots=True)
class TargetWeights:
    """The weights of a training run's targets."""

    kinds: Mapping[Kind, float]
    parts: Mapping[Part, float]

    def of(self, sequences: Sequence[TokenizedSample], targets: Iterable[Target], step_size: int) -> list[float]:
        """Return the factor of each target's loss.

        It is `kind weight * part weight / segment length / step_size`: the mean over each segment, averaged over the
        sequences of the step.

        Args:
            sequences: All sequences of the run.
            targets: The targets of one pass.
            step_size: Sequences of the optimizer step.
        """
        weights = []
        for target in targets:
            sequence = sequences[target.sequence]
            segment = sequence.segments[target.segment]
            weights.append(self.kinds[sequence.kind] * self.parts[segment.part] / len(segment) / step_size)
        return weights


def kind_weights(settings: Settings) -> dict[Kind, float]:
    """Return the weight of each kind of sequence, before balancing."""
    return {"slow": settings.slow_weight, "fast": settings.fast_weight, "replay": settings.replay_weight}


def create_weights(settings: Settings, sequences: Sequence[TokenizedSample]) -> TargetWeights:
    """Compute the weights of a training run's sequences and segments.

    With `balance`, slow and fast sequences count equally in total, however many there are of each. Users have far more
    engagements than accepted traces, and an adapter that mostly learns to answer stops thinking (decision 010). The
    size of a kind is the count of its most frequent part. So a sequence with thinking alone and one with the answer
    alone count together as one sequence with both.
    """
    parts = Counter((sequence.kind, segment.part) for sequence in sequences for segment in sequence.segments)
    counts = {
        kind: max((n for (other, _), n in parts.items() if other == kind), default=0) for kind in kind_weights(settings)
    }
    both: tuple[Kind, ...] = ("slow", "fast")
    balanced = settings.balance and settings.schedule == "mix" and all(counts[kind] for kind in both)
    factors = {kind: sum(counts[one] for one in both) / 2 / counts[kind] for kind in both if balanced}
    return TargetWeights(
        kinds={kind: weight * factors.get(kind, 1.0) for kind, weight in kind_weights(settings).items()},
        parts={
            "thinking_prefix": settings.delimiter_weight,
            "thinking": settings.thinking_weight,
            "thinking_suffix": settings.delimiter_weight,
            "answer": settings.answer_weight,
        },
    )
