from __future__ import annotations

from torch import nn

from families import tiny_model
from mindprint_trainer.model.module_copy import copy_modules


def test_copy_when_it_is_changed_then_the_model_has_the_same_weights_and_no_change() -> None:
    model = tiny_model("llama")
    twin = copy_modules(model)
    assert [id(weight) for weight in twin.parameters()] == [id(weight) for weight in model.parameters()]
    layer = model.model.layers[0].mlp
    changed = twin.model.layers[0].mlp
    changed.down_proj = nn.Identity()
    changed.register_forward_hook(lambda *_: None)
    twin.set_attn_implementation("eager")
    assert isinstance(layer.down_proj, nn.Linear)
    assert not layer._forward_hooks
    assert len(changed._forward_hooks) == 1
    assert not changed._forward_pre_hooks
    assert (model.config._attn_implementation, twin.config._attn_implementation) == ("sdpa", "eager")
