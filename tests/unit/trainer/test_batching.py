from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mindprint_trainer.batching import Row, Target, micro_batches, rows, steps
from mindprint_trainer.samples import Encoded, Segment


def encoded(ids: tuple[int, ...], start: int, group: str = "e", split: int | None = None) -> Encoded:
    if split is None:
        return Encoded("fast", group, ids, (Segment("answer", start, len(ids)),))
    return Encoded("slow", group, ids, (Segment("thinking", start, split), Segment("answer", split, len(ids))))


def paths(row: Row) -> list[tuple[int, ...]]:
    """For each token the ids from the root to it."""
    found: list[tuple[int, ...]] = []
    for token, parent in zip(row.ids, row.parents, strict=True):
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return found


def test_a_lone_sequence_is_a_plain_row_with_targets_shifted_by_one() -> None:
    (row,) = rows([encoded((5, 6, 7, 8, 9), 2, split=3)], [0], 100, share=True)
    assert row.plain
    assert row.ids == [5, 6, 7, 8, 9]
    assert row.targets == [Target(1, 7, 0, 0), Target(2, 8, 0, 1), Target(3, 9, 0, 1)]


def test_a_shared_beginning_is_there_once() -> None:
    slow, fast = encoded((1, 2, 3, 4, 8, 9), 4), encoded((1, 2, 3, 5, 6), 4)
    (row,) = rows([slow, fast], [0, 1], 100, share=True)
    assert row.ids == [1, 2, 3, 4, 8, 9, 5, 6]
    assert row.positions == [0, 1, 2, 3, 4, 5, 3, 4]
    assert not row.plain
    assert row.targets == [Target(3, 8, 0, 0), Target(4, 9, 0, 0), Target(6, 6, 1, 0)]


def test_sequences_that_share_little_or_would_not_fit_get_rows_of_their_own() -> None:
    far = [encoded((1, 2, 3, 4), 2), encoded((1, 5, 6, 7), 2)]
    assert len(rows(far, [0, 1], 100, share=True)) == 2
    near = [encoded((1, 2, 3, 4), 2), encoded((1, 2, 3, 7), 2)]
    assert len(rows(near, [0, 1], 100, share=True)) == 1
    assert len(rows(near, [0, 1], 4, share=True)) == 2
    assert len(rows(near, [0, 1], 100, share=False)) == 2


sequences = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=2, max_size=8), st.integers(1, 7), st.sampled_from("abc")),
    min_size=1,
    max_size=12,
).map(lambda drawn: [encoded(tuple(ids), min(start, len(ids) - 1), group) for ids, start, group in drawn])


@given(sequences, st.integers(4, 40), st.booleans())
def test_rows_hold_each_target_after_exactly_what_precedes_it(made: list[Encoded], limit: int, share: bool) -> None:
    found = []
    for row in rows(made, range(len(made)), limit, share=share):
        seen = paths(row)
        assert len(set(seen)) == len(seen)
        assert row.positions == [len(path) - 1 for path in seen]
        found += [(target.sequence, seen[target.at], target.token) for target in row.targets]
    wanted = [
        (number, one.ids[:place], one.ids[place])
        for number, one in enumerate(made)
        for place in range(one.prompt_length, len(one.ids))
    ]
    assert sorted(found) == sorted(wanted)


@given(sequences, st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_has_every_sequence_once_and_keeps_engagements_together(
    made: list[Encoded], size: int, seed: int
) -> None:
    plan = steps(made, size, f"{seed}")
    assert sorted(number for step in plan for number in step) == list(range(len(made)))
    assert all(plan)
    for group in {one.group for one in made}:
        assert sum(any(made[number].group == group for number in step) for step in plan) == 1


def test_steps_follow_the_seed_and_are_equally_large() -> None:
    made = [encoded((number, number, number), 1, f"e{number // 2}") for number in range(40)]
    assert steps(made, 16, "0/0") == steps(made, 16, "0/0")
    assert steps(made, 16, "0/0") != steps(made, 16, "0/1")
    assert [len(step) for step in steps(made, 16, "0/0")] == [20, 20]
    assert len(steps(made, 100, "0/0")) == 1


@given(st.lists(st.integers(1, 30), max_size=30), st.integers(5, 60))
def test_micro_batches_stay_within_the_budget_with_padding(lengths: list[int], budget: int) -> None:
    made = [Row(ids=[0] * length) for length in lengths]
    batches = micro_batches(made, budget)
    assert sorted(len(row) for batch in batches for row in batch) == sorted(lengths)
    for batch in batches:
        assert len(batch) == 1 or max(map(len, batch)) * len(batch) <= budget
