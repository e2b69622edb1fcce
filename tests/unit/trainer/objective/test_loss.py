"""The loss against a naive one: every sequence alone, all its logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mindprint_trainer.data.packing import forward_passes, pack_rows
from mindprint_trainer.data.tokenization import Part, Segment, TokenizedSample, tokenize_all
from mindprint_trainer.model import peft_io
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.forward_path import ForwardPath
from mindprint_trainer.model.lora import LoraAdapter, LoraModelView, TokenSpan
from mindprint_trainer.objective.batch import collate
from mindprint_trainer.objective.loss import backward, measure_nll
from mindprint_trainer.objective.weights import TargetWeights, create_weights
from mindprint_trainer.settings import Settings

MASKED, UNMASKED = ForwardPath("trees", "sdpa", "head"), ForwardPath("trees", "blocks", "head")
WEIGHTS = TargetWeights(
    kinds={"slow": 0.7, "fast": 1.3, "replay": 0.4},
    parts={"thinking": 0.5, "answer": 2.0},
)


@pytest.fixture
def sequences(base: Base, settings: Settings, lease_of: Any) -> list[TokenizedSample]:
    made, dropped = tokenize_all(lease_of().samples, base.tokenize_text, base.end_of_turn, settings.max_length)
    assert dropped == 0
    return made


def naive(model: Any, sequences: list[TokenizedSample]) -> torch.Tensor:
    """The definition, word for word."""
    total = torch.zeros(())
    for sequence in sequences:
        logits = model(input_ids=torch.tensor([sequence.ids])).logits[0]
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        for segment in sequence.segments:
            places = range(segment.start, segment.stop)
            losses = torch.stack([-log_probs[place - 1, sequence.ids[place]] for place in places])
            total = total + WEIGHTS.kinds[sequence.kind] * WEIGHTS.parts[segment.part] * losses.mean()
    return total / len(sequences)


def ours(
    stack: LoraModelView,
    base: Base,
    sequences: list[TokenizedSample],
    *,
    tokens: int,
    chunk: int,
    share: bool,
    masked: bool,
) -> float:
    total = 0.0
    made = pack_rows(sequences, range(len(sequences)), tokens, share_prefixes=share, masked=masked)
    for together in forward_passes(made, tokens, masked=masked):
        batch = collate(together, base.device, masked=masked, pad=99)
        counts = WEIGHTS.of(sequences, batch.targets, len(sequences))
        values = backward(stack, batch, counts, None, chunk)
        total += sum(value * count for value, count in zip(values, counts, strict=True))
    return total


def gradients(adapter: LoraAdapter) -> list[torch.Tensor]:
    taken = []
    for parameter in adapter.parameters:
        assert parameter.grad is not None
        taken.append(parameter.grad.clone())
        parameter.grad = None
    return taken


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("tokens", "chunk", "share"), [(4000, 1024, True), (4000, 1024, False), (300, 7, True), (100, 1, False)]
)
def test_loss_and_gradient_are_those_of_the_definition(
    base: Base,
    settings: Settings,
    sequences: list[TokenizedSample],
    tokens: int,
    chunk: int,
    share: bool,
    masked: bool,
    lease_of: Any,
) -> None:
    adapter = peft_io.create_initial_adapter(base.model, None, settings, lease_of().limits, 1)
    for parameter in adapter.parameters:  # with B at zero, A would have no gradient
        nn.init.normal_(parameter, std=0.05)
    plain = LoraModelView(base.model, [adapter])
    plain.route([TokenSpan(0, 0, 10_000)])
    wanted = naive(plain.model, sequences)
    wanted.backward()  # type: ignore[no-untyped-call]
    wanted_gradients = gradients(adapter)
    stack = LoraModelView(base.model, [adapter], MASKED if masked else UNMASKED)
    got = ours(stack, base, sequences, tokens=tokens, chunk=chunk, share=share, masked=masked)
    got_gradients = gradients(adapter)
    assert got == pytest.approx(wanted.item(), abs=1e-5)
    for one, other in zip(got_gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_sharing_saves_tokens(sequences: list[TokenizedSample]) -> None:
    every = range(len(sequences))
    shared = sum(map(len, pack_rows(sequences, every, 4000, share_prefixes=True)))
    assert shared < 0.7 * sum(map(len, pack_rows(sequences, every, 4000, share_prefixes=False)))


def test_each_segment_counts_as_much_however_long_it_is() -> None:
    slow = TokenizedSample("slow", "e", tuple(range(12)), (Segment("thinking", 2, 10), Segment("answer", 10, 12)))
    (row,) = pack_rows([slow], [0], 100, share_prefixes=True)
    weights = TargetWeights(kinds={"slow": 1}, parts={"thinking": 1, "answer": 1}).of([slow], row.targets, 4)
    assert weights == [1 / 8 / 4] * 8 + [1 / 2 / 4] * 2


def test_prompt_tokens_are_no_targets(sequences: list[TokenizedSample]) -> None:
    (row,) = pack_rows(sequences, [0], 1000, share_prefixes=False)
    first, last = sequences[0].segments[0].start, len(sequences[0].ids)
    assert [target.row_index for target in row.targets] == list(range(first - 1, last - 1))
    assert [target.token for target in row.targets] == list(sequences[0].ids[first:])


@pytest.mark.parametrize("masked", [True, False])
def test_padding_and_other_rows_change_nothing(base: Base, sequences: list[TokenizedSample], masked: bool) -> None:
    every = range(len(sequences))
    plain, stack = (
        LoraModelView(base.model, []),
        LoraModelView(base.model, [], MASKED if masked else UNMASKED),
    )
    for pad in (0, 99):
        batch = collate(pack_rows(sequences, every, 10_000, share_prefixes=True), base.device, masked=masked, pad=pad)
        values = measure_nll(stack, batch, 1024)
        for number in every:
            (row,) = pack_rows(sequences, [number], 10_000, share_prefixes=False)
            alone = measure_nll(plain, collate([row], base.device, masked=True), 1024)
            among = [v for v, target in zip(values, batch.targets, strict=True) if target.sequence == number]
            assert among == pytest.approx(alone, abs=1e-4)


def of_kinds(part: Part = "answer", **counts: int) -> list[TokenizedSample]:
    segment = (Segment(part, 1, 2),)
    return [TokenizedSample(kind, "e", (1, 2), segment) for kind, count in counts.items() for _ in range(count)]  # type: ignore[arg-type]


def test_settings_become_weights(settings: Settings) -> None:
    settings = settings.model_copy(update={"slow_weight": 2.0, "thinking_weight": 0.25, "balance": False})
    weights = create_weights(settings, of_kinds(slow=1, fast=9))
    assert weights.kinds == {"slow": 2.0, "fast": 1.0, "replay": 1.0}
    assert weights.parts == {"thinking_prefix": 1.0, "thinking": 0.25, "thinking_suffix": 1.0, "answer": 1.0}


def test_slow_and_fast_count_alike_whatever_their_numbers(settings: Settings) -> None:
    balanced = settings.model_copy(update={"balance": True})
    kinds = create_weights(balanced, of_kinds(slow=2, fast=8, replay=1)).kinds
    assert kinds == {"slow": 2.5, "fast": 0.625, "replay": 1.0}
    assert 2 * kinds["slow"] == 8 * kinds["fast"] == 5.0
    apart = of_kinds(slow=2, fast=8) + of_kinds("thinking", slow=2)
    assert create_weights(balanced, apart).kinds["slow"] == 2.5, (
        "thinking and answer of two, each in a sequence of its own"
    )
    more = of_kinds(slow=1, fast=8) + of_kinds("thinking", slow=4)
    assert create_weights(balanced, more).kinds == {"slow": 1.5, "fast": 0.75, "replay": 1.0}
    alone = {"slow": 1.0, "fast": 1.0, "replay": 1.0}
    assert create_weights(balanced, of_kinds(fast=8)).kinds == alone
    one_after_the_other = balanced.model_copy(update={"schedule": "sequential"})
    assert create_weights(one_after_the_other, of_kinds(slow=2, fast=8)).kinds == alone
