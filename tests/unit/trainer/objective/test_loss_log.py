from __future__ import annotations

import pytest

from mindprint_trainer.data.packing import Target
from mindprint_trainer.data.tokenization import Segment, TokenizedSample
from mindprint_trainer.objective.loss_log import LossLog

SLOW = TokenizedSample("slow", "e", (0,) * 6, (Segment("thinking", 1, 4), Segment("answer", 4, 6)))
FAST = TokenizedSample("fast", "e", (0,) * 3, (Segment("answer", 1, 3),))
TARGETS = [Target(0, 0, 0, 0, 1)] * 3 + [Target(0, 0, 0, 1, 4)] * 2 + [Target(0, 0, 1, 0, 1)] * 2


def test_means_are_over_segments_and_epochs_stay_apart() -> None:
    losses = LossLog([SLOW, FAST])
    losses.add(0, TARGETS, [3, 3, 3, 5, 7, 2, 4])
    losses.add(1, TARGETS, [1, 1, 1, 2, 2, 9, 9])
    assert losses.means(0) == {"fast_answer": 3, "slow_answer": 6, "slow_thinking": 3}
    assert losses.first_and_last() == {
        "fast_answer_first": 3,
        "slow_answer_first": 6,
        "slow_thinking_first": 3,
        "fast_answer_last": 9,
        "slow_answer_last": 2,
        "slow_thinking_last": 1,
    }
    assert losses.improvement(0) == pytest.approx(21 / 5 - 7 / 5)
    assert losses.improvement(1) == -6


def test_what_was_collected_can_be_put_away_and_taken_up_again() -> None:
    losses, other = LossLog([SLOW, FAST]), LossLog([SLOW, FAST])
    losses.add(0, TARGETS, [3, 3, 3, 5, 7, 2, 4])
    other.load_state_dict(losses.state_dict())
    assert other.means(0) == losses.means(0)
    other.add(0, TARGETS, [1] * 7)
    assert losses.means(0)["fast_answer"] == 3
