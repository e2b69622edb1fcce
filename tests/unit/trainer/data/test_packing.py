from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mindprint_trainer.data import packing
from mindprint_trainer.data.packing import (
    PackedRow,
    PlannedStep,
    Target,
    forward_passes,
    pack_rows,
    plan_steps,
    split_epoch,
)
from mindprint_trainer.data.tokenization import Segment, TokenizedSample


def encoded(ids: tuple[int, ...], start: int, group: str = "e", split: int | None = None) -> TokenizedSample:
    if split is None:
        return TokenizedSample("fast", group, ids, (Segment("answer", start, len(ids)),))
    return TokenizedSample("slow", group, ids, (Segment("thinking", start, split), Segment("answer", split, len(ids))))


def paths(row: PackedRow) -> list[tuple[int, ...]]:
    """For each token the ids from the root to it."""
    found: list[tuple[int, ...]] = []
    for token, parent in zip(row.ids, row.parents, strict=True):
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return found


def test_a_lone_sequence_is_a_plain_row_with_targets_shifted_by_one() -> None:
    (row,) = pack_rows([encoded((5, 6, 7, 8, 9), 2, split=3)], [0], 100, share_prefixes=True)
    assert row.is_chain
    assert row.ids == [5, 6, 7, 8, 9]
    assert row.targets == [Target(1, 7, 0, 0, 2), Target(2, 8, 0, 1, 3), Target(3, 9, 0, 1, 4)]


def test_a_shared_beginning_is_there_once() -> None:
    slow, fast = encoded((1, 2, 3, 4, 8, 9), 4), encoded((1, 2, 3, 5, 6), 4)
    (row,) = pack_rows([slow, fast], [0, 1], 100, share_prefixes=True)
    assert row.ids == [1, 2, 3, 4, 8, 9, 5, 6]
    assert row.positions == [0, 1, 2, 3, 4, 5, 3, 4]
    assert not row.is_chain
    assert row.targets == [Target(3, 8, 0, 0, 4), Target(4, 9, 0, 0, 5), Target(6, 6, 1, 0, 4)]


def test_sequences_that_share_nothing_or_would_not_fit_get_rows_of_their_own() -> None:
    far = [encoded((1, 2, 3, 4), 2, "e"), encoded((5, 5, 6, 7), 2, "f")]
    assert len(pack_rows(far, [0, 1], 100, share_prefixes=True)) == 2
    little = [encoded((1, 2, 3, 4), 2), encoded((1, 5, 6, 7), 2)]
    assert len(pack_rows(little, [0, 1], 100, share_prefixes=True)) == 1
    assert len(pack_rows(little, [0, 1], 100, share_prefixes=True, masked=True)) == 2
    near = [encoded((1, 2, 3, 4), 2), encoded((1, 2, 3, 7), 2)]
    assert len(pack_rows(near, [0, 1], 100, share_prefixes=True)) == 1
    assert len(pack_rows(near, [0, 1], 4, share_prefixes=True)) == 2
    assert len(pack_rows(near, [0, 1], 100, share_prefixes=False)) == 2


def test_an_engagement_that_does_not_fit_any_more_goes_over_as_a_whole() -> None:
    made = [encoded((1, 1, group, group, mode), 4, f"e{group}") for group in (2, 3, 4) for mode in (8, 9)]
    found = pack_rows(made, range(6), 11, share_prefixes=True)
    assert [sorted({target.sequence for target in row.targets}) for row in found] == [[0, 1, 2, 3], [4, 5]]
    assert [len(row) for row in found] == [10, 6]
    assert [len(row) for row in pack_rows(made, range(6), 5, share_prefixes=True)] == [5] * 6


sequences = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=2, max_size=8), st.integers(1, 7), st.sampled_from("abc")),
    min_size=1,
    max_size=12,
).map(lambda drawn: [encoded(tuple(ids), min(start, len(ids) - 1), group) for ids, start, group in drawn])


@given(sequences, st.integers(4, 40), st.booleans())
def test_rows_hold_each_target_after_exactly_what_precedes_it(
    made: list[TokenizedSample], limit: int, share: bool
) -> None:
    found = []
    for row in pack_rows(made, range(len(made)), limit, share_prefixes=share):
        seen = paths(row)
        assert len(set(seen)) == len(seen)
        assert row.positions == [len(path) - 1 for path in seen]
        found += [(target.sequence, seen[target.row_index], target.token) for target in row.targets]
    wanted = [
        (number, one.ids[:place], one.ids[place])
        for number, one in enumerate(made)
        for place in range(one.prompt_length, len(one.ids))
    ]
    assert sorted(found) == sorted(wanted)


@given(sequences, st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_has_every_sequence_once_and_keeps_engagements_together(
    made: list[TokenizedSample], size: int, seed: int
) -> None:
    plan = split_epoch(made, size, f"{seed}")
    assert sorted(number for step in plan for number in step) == list(range(len(made)))
    assert all(plan)
    for group in {one.group for one in made}:
        assert sum(any(made[number].group == group for number in step) for step in plan) == 1


def test_steps_follow_the_seed_and_are_equally_large() -> None:
    made = [encoded((number, number, number), 1, f"e{number // 2}") for number in range(40)]
    assert split_epoch(made, 16, "0/0") == split_epoch(made, 16, "0/0")
    assert split_epoch(made, 16, "0/0") != split_epoch(made, 16, "0/1")
    assert [len(step) for step in split_epoch(made, 16, "0/0")] == [20, 20]
    assert len(split_epoch(made, 100, "0/0")) == 1


owned = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3)), max_size=30)


@given(owned, st.integers(5, 60), st.booleans())
def test_passes_stay_within_the_budget_and_keep_owners_together(
    drawn: list[tuple[int, int]], budget: int, masked: bool
) -> None:
    made = [PackedRow(owner, ids=[0] * length) for length, owner in drawn]
    found = forward_passes(made, budget, masked=masked)
    assert sorted((len(row), row.adapter) for one in found for row in one) == sorted(drawn)
    for one in found:
        cost = max(map(len, one)) * len(one) if masked else sum(map(len, one))
        assert len(one) == 1 or cost <= budget
        owners = [row.adapter for row in one]
        assert owners == sorted(owners)


@given(sequences, st.integers(1, 5))
def test_blocks_hold_every_token_once_and_see_its_ancestors_and_itself(made: list[TokenizedSample], size: int) -> None:
    before, packing.MAX_BLOCK_TOKENS = packing.MAX_BLOCK_TOKENS, size
    try:
        for row in pack_rows(made, range(len(made)), 100, share_prefixes=True):
            seen = paths(row)
            assert [n for block in row.blocks for n in range(block.start, block.stop)] == list(range(len(row)))
            for block in row.blocks:
                places = [n for start, stop in block.visible for n in range(start, stop)]
                assert len(block) <= size
                assert block.visible_tokens == len(places)
                assert places[-len(block) :] == list(range(block.start, block.stop))
                assert tuple(row.ids[n] for n in places) == seen[block.stop - 1]
                assert all(parent < child for parent, child in itertools.pairwise(places))
    finally:
        packing.MAX_BLOCK_TOKENS = before


def test_mixed_steps_hold_all_kinds_and_sequential_ones_the_fast_first() -> None:
    made = [encoded((n, n, n), 1, f"e{n // 2}", split=None if n % 2 else 2) for n in range(8)]
    mixed = plan_steps(made, 2, 4, 0, "mix")
    assert [step.epoch for step in mixed] == [0, 0, 1, 1]
    assert all({made[n].kind for n in step.sequences} == {"slow", "fast"} for step in mixed)
    staged = plan_steps(made, 2, 4, 0, "sequential")
    assert [(step.epoch, {made[n].kind for n in step.sequences}) for step in staged] == [
        (0, {"fast"}),
        (1, {"fast"}),
        (0, {"slow"}),
        (1, {"slow"}),
    ]
    assert sorted(n for step in staged for n in step.sequences) == sorted([*range(8)] * 2)
    assert plan_steps(made[:1], 1, 4, 0, "sequential") == [PlannedStep(0, (0,))]
