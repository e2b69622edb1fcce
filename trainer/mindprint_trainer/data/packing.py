"""Packing: groups sequences into optimizer steps, rows and forward passes. The same seed gives the same groups.

A packed row is a prefix tree. A prefix that several sequences share is in it once. Each token knows its parent and
attends to its ancestors only. So a prompt that a slow and a fast sample share is computed once, with the same result. A
row belongs to one adapter.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from mindprint_trainer.data.tokenization import TokenizedSample
from mindprint_trainer.settings import Schedule

MIN_SHARED_FRACTION = 0.5
"""With a mask, a sequence joins a row only if the row holds this fraction of its tokens already, because the cost of
attention grows with the square of the row's width. Without a mask one shared token is enough."""
MAX_BLOCK_TOKENS = 128
"""Smaller attention blocks skip more of the tokens after a query; larger ones need fewer kernel calls."""


@dataclass(frozen=True, slots=True)
class Target:
    """One token to predict."""

    row_index: int
    """Index in the row of the token whose hidden state predicts it."""
    token: int
    """Token id that is to be predicted."""
    sequence: int
    """Index of its sequence."""
    segment: int
    """Index of its segment in the sequence."""
    position: int
    """Index of the token in the sequence."""


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """Tokens `start:stop` of a row, each the child of the one before."""

    start: int
    stop: int
    visible: tuple[tuple[int, int], ...]
    """Ranges of the row that the block's last token attends to, from the root to the token itself."""

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def visible_tokens(self) -> int:
        """Count the tokens that the block's last token attends to."""
        return sum(stop - start for start, stop in self.visible)

    def shifted(self, by: int) -> AttentionBlock:
        """Return the same block in a row that begins `by` tokens later."""
        visible = tuple((start + by, stop + by) for start, stop in self.visible)
        return AttentionBlock(self.start + by, self.stop + by, visible)


@dataclass(slots=True)
class PackedRow:
    """A prefix tree of sequences laid out flat, parents before children."""

    adapter: int = 0
    """Index of the adapter that all tokens go through."""
    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Index of each token's parent in the row; -1 at the root."""
    positions: list[int] = field(default_factory=list)
    """Position ids: the depth of each token in the tree."""
    targets: list[Target] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)
    """Row index of a token by its parent's row index and its id."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def blocks(self) -> list[AttentionBlock]:
        """Return the blocks of the row. A block ends where a branch begins, and after `MAX_BLOCK_TOKENS` tokens."""
        blocks: list[AttentionBlock] = []
        start = 0
        while start < len(self):
            stop = start + 1
            while stop < len(self) and self.parents[stop] == stop - 1 and stop - start < MAX_BLOCK_TOKENS:
                stop += 1
            blocks.append(AttentionBlock(start, stop, self._visible_ranges(stop - 1)))
            start = stop
        return blocks

    def _visible_ranges(self, node: int) -> tuple[tuple[int, int], ...]:
        """Return the ranges of the row that hold `node` and its ancestors, from the root on."""
        ranges: list[tuple[int, int]] = []
        while node >= 0:
            first = node
            while first and self.parents[first] == first - 1:
                first -= 1
            ranges.append((first, node + 1))
            node = self.parents[first]
        return tuple(reversed(ranges))

    @property
    def is_chain(self) -> bool:
        """Return whether the tree has no branch, so that plain causal attention is right."""
        return all(parent == index - 1 for index, parent in enumerate(self.parents))

    def shared_prefix_length(self, ids: Iterable[int]) -> int:
        """Count how many of the first `ids` the row already holds."""
        node, count = -1, 0
        for token in ids:
            child = self._children.get((node, token))
            if child is None:
                break
            node, count = child, count + 1
        return count

    def add(self, index: int, sequence: TokenizedSample) -> None:
        """Add a sequence's tokens where they branch off, and its targets.

        Args:
            index: The sequence's index, kept in its targets.
            sequence: The sequence.
        """
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
        for number, segment in enumerate(sequence.segments):
            for position in range(segment.start, segment.stop):
                self.targets.append(Target(path[position - 1], sequence.ids[position], index, number, position))


def pack_rows(
    sequences: Sequence[TokenizedSample],
    indices: Iterable[int],
    max_tokens: int,
    *,
    share_prefixes: bool,
    masked: bool = False,
    adapter: int = 0,
) -> list[PackedRow]:
    """Pack the sequences of one optimizer step into rows.

    Sequences are sorted by their ids, so that neighbors share the longest prefixes. Sequences of one engagement stay
    in one row where they fit: in two rows their prompt would be computed twice.

    Args:
        sequences: All sequences of the training run.
        indices: Which of them to pack.
        max_tokens: Upper bound of a row that several sequences share; a longer sequence has a row of its own.
        share_prefixes: Whether a row may hold several sequences.
        masked: Whether attention uses an explicit mask, where wide rows are expensive.
        adapter: Index of the adapter that the rows belong to.
    """
    order = sorted(indices, key=lambda i: (sequences[i].ids, i))
    if not share_prefixes:
        return [_add_sequences(PackedRow(adapter), sequences, [i]) for i in order]
    rows: list[PackedRow] = []
    for unit in [[i] for i in order] if masked else _packing_units(sequences, order, max_tokens):
        own_row = _add_sequences(PackedRow(adapter), sequences, unit)
        shared = max(rows[-1].shared_prefix_length(sequences[i].ids) for i in unit) if rows else 0
        min_shared = MIN_SHARED_FRACTION * len(sequences[unit[0]].ids) if masked else 1
        if shared >= min_shared and len(rows[-1]) + len(own_row) - shared <= max_tokens:
            _add_sequences(rows[-1], sequences, unit)
        else:
            rows.append(own_row)
    return rows


def _packing_units(sequences: Sequence[TokenizedSample], order: Iterable[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield the sequences that must go into one row: an engagement's where its tree fits, else each alone."""
    for _, group in groupby(order, key=lambda i: sequences[i].group):
        unit = list(group)
        if len(_add_sequences(PackedRow(), sequences, unit)) <= max_tokens:
            yield unit
        else:
            yield from ([i] for i in unit)


def _add_sequences(row: PackedRow, sequences: Sequence[TokenizedSample], indices: Iterable[int]) -> PackedRow:
    """Add several sequences to a row and return it."""
    for i in indices:
        row.add(i, sequences[i])
    return row


def forward_passes(rows: Iterable[PackedRow], max_tokens: int, *, masked: bool) -> list[list[PackedRow]]:
    """Group rows into forward passes. Rows of one adapter are neighbors in a pass.

    Args:
        rows: The rows of one optimizer step, of one or several adapters.
        max_tokens: Upper bound of a pass; a longer row goes alone.
        masked: Whether rows are padded to the longest of a pass. Then padding counts, and rows are sorted by length.
    """
    passes: list[list[PackedRow]] = []
    tokens = 0
    for row in sorted(rows, key=lambda row: (-len(row) if masked else 0, row.adapter)):
        tokens_with_row = len(passes[-1][0]) * (len(passes[-1]) + 1) if passes and masked else tokens + len(row)
        if not passes or tokens_with_row > max_tokens:
            passes.append([])
            tokens = 0
        passes[-1].append(row)
        tokens += len(row)
    return [sorted(rows_of_pass, key=lambda row: row.adapter) for rows_of_pass in passes]


def split_epoch(sequences: Sequence[TokenizedSample], batch_size: int, seed: str) -> list[list[int]]:
    """Split one epoch into optimizer steps of about `batch_size` sequences.

    Slow and fast sequences are shuffled together. Sequences of one engagement stay together. Steps are equally large,
    so that no step consists of a few remaining sequences.

    Returns:
        For each step the indices of its sequences.
    """
    groups: dict[str, list[int]] = {}
    for i, sequence in enumerate(sequences):
        groups.setdefault(sequence.group, []).append(i)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    count = max(1, round(len(sequences) / batch_size))
    steps: list[list[int]] = [[] for _ in range(count)]
    placed = 0
    for name in order:
        middle = placed + len(groups[name]) / 2
        steps[min(count - 1, int(middle * count / len(sequences)))] += groups[name]
        placed += len(groups[name])
    return [step for step in steps if step]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One optimizer step to come: its epoch and the indices of its sequences."""

    epoch: int
    sequences: tuple[int, ...]


def plan_steps(
    sequences: Sequence[TokenizedSample], epochs: int, batch_size: int, seed: int, schedule: Schedule
) -> list[PlannedStep]:
    """Plan all optimizer steps of a training run.

    Args:
        sequences: All sequences of the run.
        epochs: How often each sequence is trained on.
        batch_size: About how many sequences a step has.
        seed: Decides the order in each epoch.
        schedule: `mix`: every epoch has all sequences. `sequential`: all epochs of the fast sequences, then all epochs
            of the others.
    """
    every = range(len(sequences))
    fast = [i for i in every if sequences[i].kind == "fast"]
    rest = [i for i in every if sequences[i].kind != "fast"]
    stages = [[*every]] if schedule == "mix" else [stage for stage in (fast, rest) if stage]
    return [
        PlannedStep(epoch, tuple(stage[i] for i in step))
        for stage in stages
        for epoch in range(epochs)
        for step in split_epoch([sequences[i] for i in stage], batch_size, f"{seed}/{epoch}")
    ]
