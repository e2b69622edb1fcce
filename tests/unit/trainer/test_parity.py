from __future__ import annotations

from typing import Any

import pytest
import torch

from mindprint.types import ParityItem
from mindprint_trainer import parity
from mindprint_trainer.data.tokenization import TokenizedSample, tokenize_all
from mindprint_trainer.errors import NotFinite
from mindprint_trainer.model import peft_io
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.lora import LoraAdapter, LoraModelView, TokenSpan
from mindprint_trainer.settings import Settings


@pytest.fixture
def sequences(base: Base, settings: Settings, lease_of: Any) -> list[TokenizedSample]:
    return tokenize_all(lease_of().samples, base.tokenize_text, base.end_of_turn, settings.max_length)[0]


@pytest.fixture
def adapter(base: Base, settings: Settings, lease_of: Any) -> LoraAdapter:
    return peft_io.create_initial_adapter(base.model, None, settings, lease_of().limits, 0)


def stack_of(base: Base, *adapters: LoraAdapter) -> LoraModelView:
    return LoraModelView(base.model, adapters, base.path)


def naive(model: Any, prompt: list[int], target: list[int]) -> list[float]:
    """One token after the other, as an engine decodes."""
    found = []
    with torch.inference_mode():
        for place, token in enumerate(target):
            logits = model(input_ids=torch.tensor([prompt + target[:place]])).logits[0, -1]
            found.append(torch.log_softmax(logits.float(), dim=-1)[token].item())
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_are_those_of_the_adapter_as_saved_and_of_the_base(
    base: Base, settings: Settings, sequences: list[TokenizedSample], lease_of: Any, adapter: LoraAdapter, dtype: str
) -> None:
    other = peft_io.create_initial_adapter(base.model, None, settings, lease_of().limits, 5)
    for parameter in (*adapter.parameters, *other.parameters):
        torch.nn.init.normal_(parameter, std=0.1)
    adapter.round_to(getattr(torch, dtype))
    items = parity.measure_parity_items(
        base, stack_of(base, other, adapter), 1, sequences, float, settings, lambda: None
    )
    alone = LoraModelView(base.model, [adapter])
    for item in items:
        alone.route([TokenSpan(0, 0, 1000)])
        assert item.logprobs == pytest.approx(naive(alone.model, item.prompt_ids, item.target_ids), abs=1e-4)
        assert item.base_logprobs == pytest.approx(naive(base.model, item.prompt_ids, item.target_ids), abs=1e-4)
        assert parity.mean_shift_nats(item) > 0.01
    assert len(items) == settings.parity_items
    assert [parity.evidence_nats(item) for item in items] == sorted(map(parity.evidence_nats, items), reverse=True)


def test_likely_item_has_more_evidence_than_one_with_a_larger_shift() -> None:
    def item(ours: list[float], theirs: list[float]) -> ParityItem:
        return ParityItem(prompt_ids=[1], target_ids=[2, 3], logprobs=ours, base_logprobs=theirs)

    unlikely, likely = item([-6.8, -5.5], [-11.4, -9.7]), item([-0.5, 0.0], [-8.0, -1.0])
    assert parity.mean_shift_nats(unlikely) > parity.mean_shift_nats(likely)
    assert parity.evidence_nats(unlikely) < parity.evidence_nats(likely)
    learned, unmoved = likely, item([-0.1, -0.1], [-0.2, -0.1])
    assert parity.evidence_nats(unmoved) < parity.evidence_nats(learned)


def test_the_ends_of_prompts_and_beginnings_of_targets_are_taken(
    sequences: list[TokenizedSample], settings: Settings
) -> None:
    whole, short = sequences[0], parity.shorten_sample(sequences[0], settings)
    begin = whole.prompt_length
    assert short.ids == whole.ids[begin - 20 : begin + 4]
    assert short.prompt_length == 20


def test_the_pool_is_what_learned_most(
    base: Base, settings: Settings, sequences: list[TokenizedSample], adapter: LoraAdapter
) -> None:
    few = settings.model_copy(update={"parity_pool": 2, "parity_items": 5, "parity_prompt_tokens": 40})
    favourites = [7, 3]
    learned = lambda number: float(number in favourites)  # noqa: E731
    items = parity.measure_parity_items(base, stack_of(base, adapter), 0, sequences, learned, few, lambda: None)
    wanted = {parity.shorten_sample(sequences[number], few).ids for number in favourites}
    assert {(*item.prompt_ids, *item.target_ids) for item in items} == wanted


def test_it_can_be_interrupted(
    base: Base, settings: Settings, sequences: list[TokenizedSample], adapter: LoraAdapter
) -> None:
    def check() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        parity.measure_parity_items(base, stack_of(base, adapter), 0, sequences, float, settings, check)


def test_log_probabilities_that_are_not_finite_say_what_to_do(
    base: Base, settings: Settings, sequences: list[TokenizedSample], adapter: LoraAdapter
) -> None:
    with torch.no_grad():
        adapter.parameters[0].fill_(torch.nan)
    with pytest.raises(NotFinite, match="lower MINDPRINT_TRAIN_LEARNING_RATE"):
        parity.measure_parity_items(base, stack_of(base, adapter), 0, sequences, float, settings, lambda: None)
