from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from mindprint_trainer.data.packing import pack_rows
from mindprint_trainer.data.tokenization import TokenizedSample, tokenize_all
from mindprint_trainer.model import peft_io
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.lora import LoraModelView
from mindprint_trainer.objective import soft_labels
from mindprint_trainer.objective.batch import collate
from mindprint_trainer.objective.loss import Objective, backward, soft_cross_entropy
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.multi_adapter import train_adapter

K = 3


@pytest.fixture
def sequences(base: Base, settings: Settings, lease_of: Any) -> list[TokenizedSample]:
    return tokenize_all(lease_of().samples[:4], base.tokenize_text, base.end_of_turn, settings.max_length)[0]


def test_the_base_teaches_its_likeliest_tokens_at_every_token_of_thinking(
    base: Base, settings: Settings, sequences: list[TokenizedSample], lease_of: Any
) -> None:
    adapter = peft_io.create_initial_adapter(base.model, None, settings, lease_of().limits, 0)
    for parameter in adapter.parameters:
        torch.nn.init.normal_(parameter)  # the adapter must not show
    stack = LoraModelView(base.model, [adapter], base.path)
    teacher = soft_labels.Teacher(base, stack, 400, lambda: None)
    taught = soft_labels.distill_targets(sequences, K, 5, teacher)
    thinking = {
        (number, place)
        for number, one in enumerate(sequences)
        for part in one.segments
        if part.part == "thinking"
        for place in range(part.start, part.stop)
    }
    assert taught.keys() == thinking
    for (number, place), (ids, chances) in taught.items():
        with torch.inference_mode():
            logits = base.model(input_ids=torch.tensor([sequences[number].ids[:place]])).logits[0, -1]
        best = torch.softmax(logits.float(), -1).topk(K)
        assert ids.tolist() == best.indices.tolist()
        torch.testing.assert_close(chances, best.values / best.values.sum(), atol=1e-4, rtol=1e-4)


def test_answers_keep_their_hard_label(base: Base, sequences: list[TokenizedSample]) -> None:
    (row,) = pack_rows(sequences, [0], 1000, share_prefixes=False)
    first = row.targets[0]
    taught = {(0, first.position): (torch.tensor([5, 6, 7]), torch.tensor([0.5, 0.3, 0.2]))}
    made = soft_labels.build_soft_labels(row.targets, taught, base.device)
    assert made.ids[0].tolist() == [5, 6, 7]
    assert made.probs[1:].tolist() == [[1.0, 0.0, 0.0]] * (len(row.targets) - 1)
    assert made.ids[1:, 0].tolist() == [target.token for target in row.targets[1:]]
    states = torch.randn(len(row.targets), 64)
    got = soft_cross_entropy(LoraModelView(base.model, []), states, made)
    logs = torch.log_softmax(base.model.lm_head(states).float(), -1)
    assert got[0].item() == pytest.approx(-(logs[0, 5] * 0.5 + logs[0, 6] * 0.3 + logs[0, 7] * 0.2).item(), rel=1e-5)
    hard = functional.nll_loss(logs[1:], made.ids[1:, 0], reduction="none")
    torch.testing.assert_close(got[1:], hard)


def test_hard_labels_as_soft_ones_give_the_same_losses(
    base: Base, settings: Settings, sequences: list[TokenizedSample], lease_of: Any
) -> None:
    adapter = peft_io.create_initial_adapter(base.model, None, settings, lease_of().limits, 0)
    stack = LoraModelView(base.model, [adapter], base.path)
    batch = collate(pack_rows(sequences, range(4), 1000, share_prefixes=True), base.device, masked=False)
    targets = list(batch.targets)
    weights = [1.0] * len(targets)
    one = backward(stack, batch, weights, None, 7)
    other = backward(stack, batch, weights, soft_labels.build_soft_labels(targets, {}, base.device), 7)
    assert one == pytest.approx(other, rel=1e-5)


def test_training_goes_towards_what_the_base_held_for_likely(base: Base, settings: Settings, lease_of: Any) -> None:
    asked = settings.model_copy(update={"soft_labels": K, "epochs": 4, "answer_weight": 0})
    manifest = train_adapter(base, lease_of(), asked).manifest
    hard = train_adapter(base, lease_of(), asked.model_copy(update={"soft_labels": 0})).manifest
    assert manifest.settings["soft_labels"] == K
    assert manifest.losses["slow_thinking_first"] < hard.losses["slow_thinking_first"]
    assert manifest.losses["slow_thinking_last"] < manifest.losses["slow_thinking_first"]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"answer_smoothing": 0.0, "soft_labels": 0}, []),
        ({"answer_smoothing": 0.3, "soft_labels": 0}, ["AnswerSmoothing"]),
        ({"answer_smoothing": 0.0, "soft_labels": K}, ["ThinkingDistillation"]),
        ({"answer_smoothing": 0.3, "soft_labels": K}, ["AnswerSmoothing", "ThinkingDistillation"]),
    ],
)
def test_losses_when_settings_ask_for_them_then_are_enabled(
    settings: Settings, changes: dict[str, Any], names: list[str]
) -> None:
    losses = soft_labels.enabled_losses(settings.model_copy(update=changes))
    assert [type(loss).__name__ for loss in losses] == names


def test_objective_when_no_loss_is_enabled_then_has_no_soft_labels(
    base: Base, settings: Settings, sequences: list[TokenizedSample]
) -> None:
    (row,) = pack_rows(sequences, [0], 1000, share_prefixes=False)
    plain = settings.model_copy(update={"answer_smoothing": 0.0})
    assert Objective(sequences, plain).labels(row.targets, base.device) is None
    soft = Objective(sequences, settings).labels(row.targets, base.device)
    assert soft is not None
    assert soft.ids[:, 0].tolist() == [target.token for target in row.targets]
