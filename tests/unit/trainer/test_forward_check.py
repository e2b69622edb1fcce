from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from families import tiny_base
from mindprint.token_stretches import Token
from mindprint.types import Lease
from mindprint_trainer import forward_check
from mindprint_trainer.errors import TrainerError
from mindprint_trainer.forward_check import choose_forward_path, create_probe, decide, measure_path, refusal
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.forward_path import ForwardPath
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.multi_adapter import train_adapters

FAST, MASKED, SLOW = (
    ForwardPath("trees", "blocks", "head"),
    ForwardPath("trees", "sdpa", "head"),
    ForwardPath("chains", "eager", "tail"),
)
LAYERS = ("q_proj", "v_proj", "down_proj")


def test_decision_when_several_paths_are_right_then_is_the_first() -> None:
    assert decide({FAST: 0.4, MASKED: "ValueError: no", SLOW: 1e-3}, 1e-3) == SLOW
    assert decide({FAST: 1e-6, MASKED: 0.0}, 1e-3) == FAST
    assert decide({FAST: float("inf"), MASKED: 0.002}, 1e-3) is None
    assert decide({}, 1e-3) is None


def test_refusal_when_values_differ_then_names_model_difference_and_cure() -> None:
    line = refusal("granite", {FAST: 1.95, MASKED: 0.84, SLOW: "TypeError: x"})
    assert line == (
        "the trainer's log-probabilities of granite differ from the model's own by 0.84 nats at best "
        "(trees/sdpa/head): name another model with --model, or other layers in MINDPRINT_TRAIN_TARGET_MODULES"
    )


def test_refusal_when_nothing_can_be_computed_then_has_the_last_error_in_one_line() -> None:
    line = refusal("rwkv", {FAST: "a", MASKED: "AttributeError: no\nweight"})
    assert line.startswith("the trainer cannot compute the log-probabilities of rwkv (AttributeError: no weight): name")


def test_model_of_the_default_s_kind_when_loaded_then_keeps_the_fastest_path(base: Base) -> None:
    slow = replace(base, path=SLOW)
    chosen = choose_forward_path(slow, ("q_proj", "down_proj"), 1e-3)
    assert chosen.path == FAST
    assert chosen.model is base.model


@pytest.mark.parametrize(
    ("model_type", "wrong", "least_nats"),
    [
        ("granite", FAST, 0.5),
        ("gemma2", ForwardPath("chains", "sdpa", "tail"), 0.01),
        ("gemma2", ForwardPath("chains", "eager", "head"), 0.5),
        ("cohere", FAST, 0.5),
    ],
)
def test_part_of_the_forward_when_left_out_then_is_measured(
    model_type: str, wrong: ForwardPath, least_nats: float
) -> None:
    base: Base = tiny_base(model_type)
    outcome = measure_path(base, wrong, create_probe(base), LAYERS)
    assert not isinstance(outcome, str)
    assert outcome > least_nats


def test_probe_in_lower_precision_when_taken_then_is_compared_in_float32_and_leaves_the_weights() -> None:
    base: Base = tiny_base("gemma2")
    for parameter in base.model.parameters():
        parameter.data = parameter.data.bfloat16()
    before = {name: parameter.data_ptr() for name, parameter in base.model.named_parameters()}
    assert str(choose_forward_path(base, LAYERS, 1e-3).path) == "chains/eager/tail"
    assert before == {name: parameter.data_ptr() for name, parameter in base.model.named_parameters()}
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.bfloat16}
    assert not any(module._forward_hooks for module in base.model.modules())


def test_model_when_later_tokens_change_earlier_ones_then_is_refused() -> None:
    base: Base = tiny_base("bert")
    base.model.config.is_decoder = False
    for module in base.model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    with pytest.raises(TrainerError, match="bert is no causal language model: later tokens change"):
        choose_forward_path(base, ("query",), 1e-3)


def test_layer_when_it_gets_other_tokens_than_the_pass_has_then_is_refused() -> None:
    class Reversed(nn.Module):
        """A block that lays the tokens out in another order, so that spans of a pass are those of other adapters."""

        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.q_proj = layer

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            turned: torch.Tensor = self.q_proj(states.flip(0, 1)).flip(0, 1)
            return turned

    base: Base = tiny_base("llama")
    for layer in base.model.model.layers:
        layer.self_attn.q_proj = Reversed(layer.self_attn.q_proj)
    with pytest.raises(TrainerError, match="differ from the model's own by"):
        choose_forward_path(base, ("q_proj",), 1e-3)


def test_adapters_when_trained_together_on_a_slower_path_then_have_the_parity_of_the_model(
    settings: Settings, lease_of: Callable[..., Lease]
) -> None:
    base = choose_forward_path(replace(tiny_base("granite"), tokenize_text=short_tokens), LAYERS, 1e-3)
    assert base.path.logits == "tail"
    limits = lease_of().limits.model_copy(update={"target_modules": list(LAYERS)})
    leases = [lease_of(name, limits=limits) for name in ("anna", "ben")]
    made = train_adapters(base, leases, settings.model_copy(update={"max_length": 100, "epochs": 1}))
    for one in made:
        for item in one.manifest.parity_items:
            ids = [*item.prompt_ids, *item.target_ids]
            own = forward_check.own_logprobs(base.model, ids, base.device)[-len(item.target_ids) :]
            assert item.base_logprobs == pytest.approx(own, abs=1e-3)


def short_tokens(text: str) -> list[Token]:
    """Tokens that fit a tiny vocabulary."""
    return [Token(16 + byte % 96, place) for place, character in enumerate(text) for byte in character.encode()]
