"""Each family of causal language models: the trainer computes what transformers computes, or refuses in one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from families import FORWARD_PATHS, NOT_TINY, REFUSED, target_modules, tiny_base
from forward_equality import random_adapter, trained, transformers_own
from mindprint.types import LoraLimits
from mindprint_trainer.errors import TrainerError
from mindprint_trainer.forward_check import choose_forward_path
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.peft_io import adaptable_names, resolve_target_modules

TOLERANCE_NATS = 1e-3


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    """Several threads cost more than they save, and transformers warns of tokens that a tiny vocabulary lacks."""
    verbosity, threads = transformers.logging.get_verbosity(), torch.get_num_threads()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    yield
    transformers.logging.set_verbosity(verbosity)
    torch.set_num_threads(threads)


def loaded(model_type: str) -> tuple[Base, tuple[str, ...]]:
    """Do what the trainer does at its start."""
    base: Base = tiny_base(model_type)
    wanted = list(target_modules(model_type, adaptable_names(base.model)))
    targets = resolve_target_modules(base.model, None, LoraLimits(max_rank=8, target_modules=wanted))
    return choose_forward_path(base, targets, TOLERANCE_NATS), targets


@pytest.mark.parametrize("model_type", FORWARD_PATHS)
def test_family_when_it_can_be_trained_then_values_and_gradients_are_those_of_transformers(model_type: str) -> None:
    base, targets = loaded(model_type)
    assert str(base.path) == FORWARD_PATHS[model_type]
    adapter = random_adapter(base, targets)
    values, gradients = trained(base, adapter)
    wanted, wanted_gradients = transformers_own(base, adapter)
    assert values == pytest.approx(wanted, abs=3 * TOLERANCE_NATS)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in gradients.items():
        scale = max(1.0, wanted_gradients[name].abs().max().item())
        torch.testing.assert_close(gradient, wanted_gradients[name], atol=2e-3 * scale, rtol=1e-2)


@pytest.mark.parametrize("model_type", REFUSED)
def test_family_when_it_cannot_be_trained_then_one_line_says_so(model_type: str) -> None:
    with pytest.raises(TrainerError, match=REFUSED[model_type]) as caught:
        loaded(model_type)
    assert "\n" not in str(caught.value)
    assert "name another model with --model" in str(caught.value)


@pytest.mark.skipif(not transformers.__version__.startswith("5.19."), reason="another release has other families")
def test_families_when_transformers_has_more_then_each_is_measured_or_named() -> None:
    known = [*FORWARD_PATHS, *REFUSED, *NOT_TINY]
    assert sorted(known) == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
