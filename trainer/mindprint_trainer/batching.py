"""Which sequences go together: into a step, into a row, into a forward pass. Pure, and decided by the seed alone.

A row is a prefix tree: what its sequences begin with alike is in it once, each token knows its parent, and a token
sees its ancestors only. So a prompt that a slow and a fast sample share is computed once, with the same result.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mindprint_trainer.samples import Encoded

SHARED = 0.5
"""A sequence joins a row when the row holds at least this share of it already; less does not pay for the wider row."""


@dataclass(frozen=True, slots=True)
class Target:
    """Token `token` is to be predicted at position `at` of the row, for a segment of a sequence (both by number)."""

    at: int
    token: int
    sequence: int
    segment: int


@dataclass(slots=True)
class Row:
    """A prefix tree laid out flat, parents before children. `parents[i]` is -1 at the root."""

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def plain(self) -> bool:
        """Whether it is an ordinary sequence: then plain causal attention does."""
        return all(parent == index - 1 for index, parent in enumerate(self.parents))

    def held(self, ids: Iterable[int]) -> int:
        """How many of the first `ids` the row holds already."""
        node, count = -1, 0
        for token in ids:
            child = self._children.get((node, token))
            if child is None:
                break
            node, count = child, count + 1
        return count

    def add(self, number: int, sequence: Encoded) -> None:
        path = []
        node = -1
        for depth, token in enumerate(sequence.ids):
            child = self._children.get((node, token))
            if child is None:
                child = self._children[node, token] = len(self.ids)
                self.ids.append(token)
                self.parents.append(node)
                self.positions.append(depth)
            path.append(child)
            node = child
        for index, segment in enumerate(sequence.segments):
            for place in range(segment.start, segment.stop):
                self.targets.append(Target(path[place - 1], sequence.ids[place], number, index))


def steps(sequences: Sequence[Encoded], size: int, seed: str) -> list[list[int]]:
    """One epoch: the numbers of the sequences of each optimizer step, about `size` in each.

    Slow and fast are shuffled together. The sequences of one engagement stay together, and the steps are equally
    large, so that no step consists of a few left-overs.
    """
    groups: dict[str, list[int]] = {}
    for number, sequence in enumerate(sequences):
        groups.setdefault(sequence.group, []).append(number)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    count = max(1, round(len(sequences) / size))
    planned: list[list[int]] = [[] for _ in range(count)]
    placed = 0
    for name in order:
        middle = placed + len(groups[name]) / 2
        planned[min(count - 1, int(middle * count / len(sequences)))] += groups[name]
        placed += len(groups[name])
    return [step for step in planned if step]


def rows(sequences: Sequence[Encoded], numbers: Iterable[int], max_tokens: int, *, share: bool) -> list[Row]:
    """The rows of one step. Neighbours in the order of their ids share most; a shared row stays within `max_tokens`."""
    made: list[Row] = []
    for number in sorted(numbers, key=lambda n: (sequences[n].ids, n)):
        sequence = sequences[number]
        if share and made:
            held = made[-1].held(sequence.ids)
            new = len(sequence.ids) - held
            if held >= SHARED * len(sequence.ids) and len(made[-1]) + new <= max_tokens:
                made[-1].add(number, sequence)
                continue
        made.append(Row())
        made[-1].add(number, sequence)
    return made


def micro_batches(made: Iterable[Row], max_tokens: int) -> list[list[Row]]:
    """Rows of like length together, each forward pass within `max_tokens` with padding; a longer row goes alone."""
    batches: list[list[Row]] = []
    for row in sorted(made, key=len, reverse=True):
        if batches and len(batches[-1][0]) * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
