"""The adapters' layers and the attention against PEFT and torch's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from mindprint.types import LoraLimits
from mindprint_trainer.model import peft_io
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.forward_path import ForwardPath
from mindprint_trainer.model.lora import LoraAdapter, LoraConfig, LoraModelView, TokenSpan, init_adapter, linear_layers
from mindprint_trainer.settings import Settings

LIMITS = LoraLimits(max_rank=8, target_modules=["q_proj", "v_proj", "down_proj"])
IDS = torch.arange(40).unsqueeze(0)


@pytest.fixture
def adapter(base: Base, settings: Settings) -> LoraAdapter:
    return moved(peft_io.create_initial_adapter(base.model, None, settings, LIMITS, 1))


def moved(adapter: LoraAdapter) -> LoraAdapter:
    """With B at zero nothing would show."""
    with torch.no_grad():
        for parameter in adapter.parameters:
            parameter.normal_(std=0.05, generator=adapter.generator)
    return adapter


def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS).logits
    return found


def test_forward_and_gradient_are_those_of_peft(
    base: Base, adapter: LoraAdapter, model_path: Path, tmp_path: Path
) -> None:
    peft_io.serialize(adapter, base.digest, torch.float32).write(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(plain, str(tmp_path), is_trainable=True)
    stack = LoraModelView(base.model, [adapter])
    stack.route([TokenSpan(0, 0, 40)])
    ours, wanted = logits(stack.model), logits(theirs)
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
    ours.square().mean().backward()  # type: ignore[no-untyped-call]
    wanted.square().mean().backward()  # type: ignore[no-untyped-call]
    gradients = {name.replace(".default", ""): one.grad for name, one in theirs.named_parameters() if one.requires_grad}
    assert gradients.keys() == peft_io.named_parameters(adapter).keys()
    for name, parameter in peft_io.named_parameters(adapter).items():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-4, rtol=1e-3)


def test_first_weights_are_drawn_as_peft_draws_them(base: Base) -> None:
    shape = LoraConfig(4, 8, ("q_proj",))
    adapter = init_adapter(base.model, shape, 0, 3)
    bound = 1 / 64**0.5
    (name, down), *_ = adapter.lora_A.items()
    assert name.endswith("q_proj")
    assert down.abs().max() <= bound
    assert down.abs().max() > 0.9 * bound
    assert not any(tensor.any() for tensor in adapter.lora_B.values())
    assert torch.equal(down, init_adapter(base.model, shape, 0, 3).lora_A[name])
    assert not torch.equal(down, init_adapter(base.model, shape, 0, 4).lora_A[name])


def test_drawing_leaves_the_common_random_state_alone(base: Base, settings: Settings) -> None:
    before = torch.random.get_rng_state()
    peft_io.create_initial_adapter(base.model, None, settings, LIMITS, 1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_base_is_untouched_and_shares_its_weights(base: Base, adapter: LoraAdapter) -> None:
    before = logits(base.model)
    names = [f"{name}: {type(module).__name__}" for name, module in base.model.named_modules()]
    stack = LoraModelView(base.model, [adapter], ForwardPath("trees", "blocks", "head"))
    stack.route([TokenSpan(0, 0, 40)])
    held = {id(tensor) for tensor in base.model.parameters()}
    assert {id(tensor) for tensor in stack.model.parameters()} == held
    assert names == [f"{name}: {type(module).__name__}" for name, module in base.model.named_modules()]
    assert torch.equal(before, logits(base.model))
    assert base.model.config._attn_implementation == "sdpa"


def test_with_the_adapters_off_the_bits_are_the_base_s(base: Base, adapter: LoraAdapter) -> None:
    stack = LoraModelView(base.model, [adapter])
    before = logits(base.model)
    with stack.disable_adapters():
        stack.route([TokenSpan(0, 0, 40)])
        assert torch.equal(logits(stack.model), before)
    stack.route([TokenSpan(0, 0, 40)])
    assert not torch.equal(logits(stack.model), before)


def test_each_token_goes_through_its_own_adapter(base: Base, settings: Settings, adapter: LoraAdapter) -> None:
    narrow = LoraLimits(max_rank=2, target_modules=["q_proj", "up_proj"])
    other = moved(peft_io.create_initial_adapter(base.model, None, settings, narrow, 2))
    pair = LoraModelView(base.model, [adapter, other])
    layers = dict(linear_layers(base.model, ["q_proj", "up_proj", "down_proj"]))
    for name, layer in layers.items():
        states = torch.randn(10, layer.in_features)
        pair.route([TokenSpan(1, 2, 5), TokenSpan(0, 5, 9)])
        got = pair.model.get_submodule(name)(states)
        want = layer(states)
        for span in (TokenSpan(1, 2, 5), TokenSpan(0, 5, 9)):
            one = (adapter, other)[span.adapter]
            if name in one.lora_A:
                here = slice(span.start, span.stop)
                want[here] += states[here] @ one.lora_A[name].T @ one.lora_B[name].T * one.config.scaling
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_dropout_only_in_training_and_drawn_by_the_adapter_s_own_generator(base: Base, adapter: LoraAdapter) -> None:
    adapter.dropout = 0.5
    stack = LoraModelView(base.model, [adapter])
    stack.route([TokenSpan(0, 0, 40)])
    stack.set_training(False)
    assert torch.equal(logits(stack.model), logits(stack.model))
    stack.set_training(True)
    state = adapter.generator.get_state()
    torch.manual_seed(1)
    one = logits(stack.model)
    assert not torch.equal(one, logits(stack.model))
    adapter.generator.set_state(state)
    torch.manual_seed(2)
    assert torch.equal(one, logits(stack.model))


def test_the_gradient_of_dropout_is_exact(base: Base, settings: Settings) -> None:
    """Against autograd through the definition, with the same mask."""
    shape = LoraConfig(2, 4, ("q_proj",))
    adapter = moved(init_adapter(base.model, shape, 0.5, 1))
    stack = LoraModelView(base.model, [adapter])
    stack.set_training(True)
    name, layer = linear_layers(base.model, ["q_proj"])[0]
    module = stack.model.get_submodule(name)
    states = torch.randn(6, layer.in_features, requires_grad=True)
    state = adapter.generator.get_state()
    stack.route([TokenSpan(0, 1, 5)])
    module(states).square().sum().backward()
    got = [states.grad, adapter.lora_A[name].grad, adapter.lora_B[name].grad]
    states.grad = adapter.lora_A[name].grad = adapter.lora_B[name].grad = None
    adapter.generator.set_state(state)
    mask = torch.empty(4, layer.in_features).bernoulli_(0.5, generator=adapter.generator) * 2
    out = layer(states)
    extra = (states[1:5] * mask) @ adapter.lora_A[name].T @ adapter.lora_B[name].T * shape.scaling
    torch.cat([out[:1], out[1:5] + extra, out[5:]]).square().sum().backward()  # type: ignore[no-untyped-call]
    for one, want in zip(got, [states.grad, adapter.lora_A[name].grad, adapter.lora_B[name].grad], strict=True):
        torch.testing.assert_close(one, want, atol=1e-4, rtol=1e-3)
