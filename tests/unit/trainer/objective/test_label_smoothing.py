from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mindprint.types import Sample
from mindprint_trainer.data.tokenization import tokenize_all
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.objective import soft_labels
from mindprint_trainer.objective.soft_labels import SoftLabels, smooth_answer, smooth_sequence
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.multi_adapter import train_adapter

END = 0
CHOICES = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=5, unique_by=tuple).map(
    lambda texts: [(*ids, END) for ids in texts]
)


@given(CHOICES, st.floats(0, 0.99), st.data())
def test_the_real_answer_keeps_its_share_and_what_is_after_each_token_sums_to_one(
    choices: list[tuple[int, ...]], share: float, data: st.DataObject
) -> None:
    answer = data.draw(st.sampled_from(choices))
    steps = list(smooth_answer(answer, choices, share))
    assert len(steps) == len(answer)
    assert all(sum(chances.values()) == pytest.approx(1) for chances in steps)
    whole = math.prod(chances[token] for chances, token in zip(steps, answer, strict=True))
    assert whole == pytest.approx(1 - share + share / len(choices))


def test_only_where_choices_part_something_is_left_open() -> None:
    steps = list(smooth_answer((5, 6, END), [(5, 6, END), (5, 7, END), (8, END), (5, 6, 9, END)], 0.4))
    assert steps == [
        {5: pytest.approx(0.9), 8: pytest.approx(0.1)},
        {6: pytest.approx(0.8 / 0.9), 7: pytest.approx(0.1 / 0.9)},
        {END: pytest.approx(0.7 / 0.8), 9: pytest.approx(0.1 / 0.8)},
    ]


def closed(choices: Sequence[str] = (" tea", " coffee"), **changes: Any) -> Sample:
    asked = Sample(kind="fast", user_id="anna", engagement_id="e", prompt="Tea or coffee?", answer=" tea")
    return asked.model_copy(update={"choices": list(choices), **changes})


@pytest.mark.parametrize(
    ("sample", "share"),
    [
        (closed(choices=()), 0.3),
        (closed(), 0.0),
        (closed(answer="", thinking="anna likes tea"), 0.3),
        (closed(choices=[" tea"]), 0.3),
    ],
    ids=["an open answer", "no smoothing", "thinking alone", "a single choice"],
)
def test_nothing_is_left_open(base: Base, sample: Sample, share: float) -> None:
    ((sequence,), _) = tokenize_all([sample], base.tokenize_text, base.end_of_turn, 100)
    assert smooth_sequence(sequence, share) == {}


def test_places_are_those_of_the_answer(base: Base) -> None:
    ((sequence,), _) = tokenize_all([closed()], base.tokenize_text, base.end_of_turn, 100)
    tea, coffee = base.encode_text("t") + base.encode_text("c")
    behind_the_space = sequence.segments[-1].start + 1
    assert smooth_sequence(sequence, 0.3) == {behind_the_space: {tea: pytest.approx(0.85), coffee: pytest.approx(0.15)}}
    ids, chances = soft_labels.smoothing_targets([sequence], 0.3)[0, behind_the_space]
    assert dict(zip(ids.tolist(), chances.tolist(), strict=True)) == pytest.approx({tea: 0.85, coffee: 0.15})


def test_labels_of_several_adapters_are_as_wide_as_the_widest() -> None:
    narrow = SoftLabels(torch.tensor([[4]]), torch.tensor([[1.0]]))
    wide = SoftLabels(torch.tensor([[5, 6]]), torch.tensor([[0.5, 0.5]]))
    joined = SoftLabels.concatenate([narrow, wide])
    assert joined is not None
    assert (joined.ids.tolist(), joined.probs.tolist()) == ([[4, 0], [5, 6]], [[1.0, 0.0], [0.5, 0.5]])


def test_an_adapter_trained_long_stays_less_certain(base: Base, settings: Settings, lease_of: Any) -> None:
    """The least that the loss can be is the entropy of what was asked for: nearly none without smoothing."""
    lease = lease_of(samples=[closed(user_id="anna", engagement_id=f"e{n}") for n in range(4)])
    asked = settings.model_copy(update={"epochs": 40, "learning_rate": 1e-2, "answer_smoothing": 0.0})
    sure = train_adapter(base, lease, asked).manifest
    smooth = train_adapter(base, lease, asked.model_copy(update={"answer_smoothing": 0.4})).manifest
    assert smooth.settings["answer_smoothing"] == 0.4
    tokens = len(base.encode_text(" tea")) + 1
    least = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2)) / tokens
    assert sure.losses["fast_answer_last"] < least / 2
    assert smooth.losses["fast_answer_last"] == pytest.approx(least, rel=0.2)
    assert smooth.losses["fast_answer_last"] >= least * 0.99
