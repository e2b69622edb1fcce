from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.verdicts import likelihood

END = 0


def run(ways: dict[str, list[int]], asked: list[tuple[int, ...]] | None = None) -> dict[str, float]:
    async def ask(path: tuple[int, ...], tokens: tuple[int, ...]) -> Sequence[float]:
        if asked is not None:
            asked.append(path)
        return [-0.1 * token - 0.3 * len(path) for token in tokens]

    return asyncio.run(likelihood.score_choices(ways, END, ask))


def test_distinct_first_tokens_take_one_request() -> None:
    asked: list[tuple[int, ...]] = []
    scored = run({"yes": [1], "no": [2, 5, 6], "abstain": [3, 4]}, asked)
    assert asked == [()]
    assert max(scored, key=lambda label: scored[label]) == "yes"


def test_a_shared_first_token_takes_one_more() -> None:
    asked: list[tuple[int, ...]] = []
    run({"green tea": [1, 2], "green lake": [1, 3], "town": [4]}, asked)
    assert sorted(asked) == [(), (1,)]


def test_a_label_that_begins_another_ends_or_goes_on() -> None:
    asked: list[tuple[int, ...]] = []
    scored = run({"A": [1], "AB": [1, 2]}, asked)
    assert asked == [(1,)]
    assert sum(map(math.exp, scored.values())) == pytest.approx(1)


@pytest.mark.parametrize("ways", [{"a": [1], "b": [1]}, {"a": [], "b": [1]}])
def test_labels_that_read_alike_are_refused(ways: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match="reword"):
        run(ways)


@given(st.sets(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), min_size=2, max_size=8))
def test_the_choices_share_all_probability(ways: set[tuple[int, ...]]) -> None:
    scored = run({str(way): list(way) for way in ways})
    assert sum(map(math.exp, scored.values())) == pytest.approx(1)
    assert all(value <= 1e-12 for value in scored.values())
