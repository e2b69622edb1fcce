"""Which sequences go together: into a step, into a row, into a forward pass. Pure, and decided by the seed alone.

A row is a prefix tree: what its sequences begin with alike is in it once, each token knows its parent, and a token
sees its ancestors only. So a prompt that a slow and a fast sample share is computed once, with the same result, and
so is the profile that all engagements of a user begin with. A row belongs to one adapter.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from mindprint_trainer.data.tokenization import TokenizedSample
from mindprint_trainer.settings import Schedule

MIN_SHARED_FRACTION = 0.5
"""Under a mask a row costs the square of its width: a sequence joins when the row holds this share of it already.
Without a mask every shared token is a gain."""


@dataclass(frozen=True, slots=True)
class Target:
    """Token `token` is to be predicted at position `at` of the row, for a segment of a sequence (both by number)."""

    at: int
    token: int
    sequence: int
    segment: int
    place: int
    """Where the token stands in its sequence."""


MAX_BLOCK_TOKENS = 128
"""Tokens of a block: smaller ones leave out more of what lies behind a token, larger ones are fewer."""


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """Tokens `start:stop` of a row, each the child of the one before. The last of them sees the ranges `sees`."""

    start: int
    stop: int
    sees: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def reach(self) -> int:
        """How many tokens the last one sees."""
        return sum(stop - start for start, stop in self.sees)

    def moved(self, by: int) -> AttentionBlock:
        return AttentionBlock(
            self.start + by, self.stop + by, tuple((start + by, stop + by) for start, stop in self.sees)
        )


@dataclass(slots=True)
class PackedRow:
    """A prefix tree laid out flat, parents before children. `parents[i]` is -1 at the root."""

    owner: int = 0
    """The number of the adapter that all of it goes through."""
    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def blocks(self) -> list[AttentionBlock]:
        """All tokens, cut where a branch begins and where a block is full."""
        made: list[AttentionBlock] = []
        start = 0
        while start < len(self):
            stop = start + 1
            while stop < len(self) and self.parents[stop] == stop - 1 and stop - start < MAX_BLOCK_TOKENS:
                stop += 1
            made.append(AttentionBlock(start, stop, self._seen(stop - 1)))
            start = stop
        return made

    def _seen(self, node: int) -> tuple[tuple[int, int], ...]:
        """The ranges of the row that hold `node` and its ancestors, from the root on."""
        found: list[tuple[int, int]] = []
        while node >= 0:
            first = node
            while first and self.parents[first] == first - 1:
                first -= 1
            found.append((first, node + 1))
            node = self.parents[first]
        return tuple(reversed(found))

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

    def add(self, number: int, sequence: TokenizedSample) -> None:
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
                self.targets.append(Target(path[place - 1], sequence.ids[place], number, index, place))


def split_epoch(sequences: Sequence[TokenizedSample], size: int, seed: str) -> list[list[int]]:
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


def pack_rows(
    sequences: Sequence[TokenizedSample],
    numbers: Iterable[int],
    max_tokens: int,
    *,
    share: bool,
    masked: bool = False,
    owner: int = 0,
) -> list[PackedRow]:
    """The rows of one step. Neighbours in the order of their ids share most; a shared row stays within `max_tokens`.

    What is left of an engagement at the end of a row would cost its prompt once more: it goes over as a whole.
    """
    order = sorted(numbers, key=lambda n: (sequences[n].ids, n))
    if not share:
        return [add_sequences(PackedRow(owner), sequences, [number]) for number in order]
    made: list[PackedRow] = []
    for unit in [[number] for number in order] if masked else packing_units(sequences, order, max_tokens):
        alone = add_sequences(PackedRow(owner), sequences, unit)
        held = max(made[-1].held(sequences[number].ids) for number in unit) if made else 0
        least = MIN_SHARED_FRACTION * len(sequences[unit[0]].ids) if masked else 1
        if held >= least and len(made[-1]) + len(alone) - held <= max_tokens:
            add_sequences(made[-1], sequences, unit)
        else:
            made.append(alone)
    return made


def packing_units(sequences: Sequence[TokenizedSample], order: Iterable[int], max_tokens: int) -> Iterator[list[int]]:
    """Engagements whose tree fits into a row, and the sequences one by one of those that do not."""
    for _, group in groupby(order, key=lambda n: sequences[n].group):
        unit = list(group)
        if len(add_sequences(PackedRow(), sequences, unit)) <= max_tokens:
            yield unit
        else:
            yield from ([number] for number in unit)


def add_sequences(row: PackedRow, sequences: Sequence[TokenizedSample], numbers: Iterable[int]) -> PackedRow:
    for number in numbers:
        row.add(number, sequences[number])
    return row


def forward_passes(made: Iterable[PackedRow], max_tokens: int, *, masked: bool) -> list[list[PackedRow]]:
    """What goes through the model at once: at most `max_tokens`, a longer row alone. Rows of one owner stay together.

    Under a mask rows lie above each other, so padding counts and rows of like length go together.
    """
    found: list[list[PackedRow]] = []
    tokens = 0
    for row in sorted(made, key=lambda row: (-len(row) if masked else 0, row.owner)):
        wide = len(found[-1][0]) * (len(found[-1]) + 1) if found and masked else tokens + len(row)
        if not found or wide > max_tokens:
            found.append([])
            tokens = 0
        found[-1].append(row)
        tokens += len(row)
    return [sorted(rows, key=lambda row: row.owner) for rows in found]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """The sequences, by number, of one optimizer step."""

    epoch: int
    numbers: tuple[int, ...]


def plan_steps(
    sequences: Sequence[TokenizedSample], epochs: int, size: int, seed: int, schedule: Schedule
) -> list[PlannedStep]:
    """All steps. `mix`: in each epoch everything; `sequential`: all epochs of the fast ones, then of the others."""
    every = range(len(sequences))
    fast = [number for number in every if sequences[number].kind == "fast"]
    rest = [number for number in every if sequences[number].kind != "fast"]
    stages = [[*every]] if schedule == "mix" else [stage for stage in (fast, rest) if stage]
    return [
        PlannedStep(epoch, tuple(stage[number] for number in step))
        for stage in stages
        for epoch in range(epochs)
        for step in split_epoch([sequences[number] for number in stage], size, f"{seed}/{epoch}")
    ]
