"""How often a user answered so before."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint.types import Engagement
from mindprint_server.generation.candidate_policy import answer_frequency
from samples import engagement

CHOICES = ["yes", "no"]


def answered(*responses: str, choices: list[str] | None = None) -> list[Engagement]:
    among = choices or [*CHOICES]
    return [
        engagement(n).model_copy(update={"response": response, "choices": among})
        for n, response in enumerate(responses)
    ]


def test_recalled_and_all_count_alike() -> None:
    past = answered("yes", "no", "no", "no")
    assert answer_frequency("yes", CHOICES, past[:2], past) == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert answer_frequency("no", CHOICES, past[2:], past) == pytest.approx((1 + 3 / 4) / 2)
    assert answer_frequency("yes", CHOICES, past[2:], past) == pytest.approx((0 + 1 / 4) / 2)


def test_only_the_same_choices_count_in_whichever_order() -> None:
    past = [*answered("yes", choices=["yes", "no", "abstain"]), *answered("yes", choices=["no", "yes"])]
    assert answer_frequency("no", CHOICES, past, past) == 0
    assert answer_frequency("yes", CHOICES, past[:1], past) == 1, "none of the recalled ones: all of them decide"
    assert answer_frequency("yes", ["left", "right"], past, past) is None
    assert answer_frequency("yes", CHOICES, [], []) is None
    assert answer_frequency("yes", CHOICES, *[[engagement(0, choices=[])]] * 2) is None, (
        "an open question has no choices"
    )


@given(st.lists(st.sampled_from(CHOICES), min_size=1, max_size=20), st.data())
def test_the_choices_share_what_there_is(responses: Sequence[str], data: st.DataObject) -> None:
    past = answered(*responses)
    recalled = data.draw(st.lists(st.sampled_from(past), max_size=4))
    shares = [answer_frequency(choice, CHOICES, recalled, past) for choice in CHOICES]
    assert sum(share for share in shares if share is not None) == pytest.approx(1)
