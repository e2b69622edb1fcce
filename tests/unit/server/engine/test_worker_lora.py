from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mindprint_server.engine.vllm_lora import check_targets
from mindprint_server.engine.worker_lora import (
    LoraReporter,
    join_layers,
    list_layers,
    list_targets,
    list_unapplied,
    rename,
    unapplied_by_all,
)

ATTENTION = "language_model.model.layers.0.self_attn"


def linear(*widths: int, inputs: int = 8, **more: Any) -> Any:
    base = SimpleNamespace(input_size=inputs, output_size=sum(widths), output_sizes=list(widths), **more)
    return SimpleNamespace(base_layer=base)


class Mapper:
    """Renames as that of a text model inside a multimodal wrapper."""

    def get_rename_mapper(self) -> Mapper:
        return self

    def _map_name(self, name: str) -> str:
        return name.replace("model.language_model.", "language_model.model.")


def manager(**changes: Any) -> Any:
    parts = {
        "model": SimpleNamespace(hf_to_vllm_mapper=Mapper()),
        "modules": {
            f"{ATTENTION}.qkv_proj": linear(
                64, 16, 16, total_num_heads=4, total_num_kv_heads=2, head_size=16, v_head_size=8
            ),
            f"{ATTENTION}.o_proj": linear(32, inputs=64),
            "language_model.logits_processor": SimpleNamespace(base_layer=SimpleNamespace()),
        },
        "packed_modules": {f"{ATTENTION}.qkv_proj": [f"{ATTENTION}.{letter}_proj" for letter in "qkv"]},
        "packed_modules_mapping": {"qkv_proj": ["q_proj", "k_proj", "v_proj"]},
        "supported_lora_modules": ["qkv_proj", "o_proj"],
        "list_adapters": lambda: {7: SimpleNamespace(loras={f"{ATTENTION}.qkv_proj": 1, "layers.9.o_proj": 1})},
    }
    return SimpleNamespace(**parts | changes)


class Worker(LoraReporter):
    def __init__(self, manager: Any) -> None:
        self.model_runner = SimpleNamespace(lora_manager=SimpleNamespace(_adapter_manager=manager))


def test_list_layers_gives_packed_layers_their_own_names_and_whole_shapes() -> None:
    assert list_layers(manager()) == {
        f"{ATTENTION}.q_proj": [64, 8],
        f"{ATTENTION}.k_proj": [32, 8],
        f"{ATTENTION}.v_proj": [16, 8],
        f"{ATTENTION}.o_proj": [32, 64],
    }
    assert list_targets(manager()) == ["k_proj", "o_proj", "q_proj", "v_proj"]


def test_find_lora_layers_of_a_wrapped_model_follows_vllms_names() -> None:
    names = ["model.language_model.layers.0.self_attn.o_proj", "model.layers.0.self_attn.o_proj"]
    assert Worker(manager()).find_lora_layers(names) == {names[0]: [32, 64]}
    assert rename(SimpleNamespace(), "model.layers.0.o_proj") == "model.layers.0.o_proj"


def test_rename_follows_the_mapper_of_vllm() -> None:
    mapper = pytest.importorskip("vllm.model_executor.models.utils").WeightsMapper(
        orig_to_new_prefix={"model.language_model.": "language_model.model."}
    )
    model = SimpleNamespace(hf_to_vllm_mapper=mapper)
    wrapped = "model.language_model.layers.0.self_attn.q_proj"
    assert rename(model, wrapped) == "language_model.model.layers.0.self_attn.q_proj"
    assert rename(model, "model.layers.0.self_attn.q_proj") == "model.layers.0.self_attn.q_proj"


def test_list_unapplied_names_layers_that_the_worker_lacks() -> None:
    assert Worker(manager()).list_unapplied_lora(7) == ["layers.9.o_proj"]
    assert list_unapplied(manager(), SimpleNamespace(loras={f"{ATTENTION}.o_proj": 1})) == []


def test_worker_of_another_form_does_not_know() -> None:
    for unknown in (Worker(None), Worker(SimpleNamespace()), LoraReporter()):
        assert unknown.report_lora_layers() is None
        assert unknown.find_lora_layers(["a"]) is None
        assert unknown.list_unapplied_lora(7) is None
    assert Worker(manager()).list_unapplied_lora(8) is None


def test_unapplied_by_all_is_what_no_worker_applied() -> None:
    assert unapplied_by_all([["a", "b"], ["b", "c"]]) == ["b"]
    assert unapplied_by_all([["a"], None]) == []
    assert unapplied_by_all([]) == []


def test_join_layers_needs_every_worker() -> None:
    assert join_layers([{"a": [1, 2]}, {"b": [3, 4]}]) == {"a": (1, 2), "b": (3, 4)}
    assert join_layers([{"a": [1, 2]}, None]) is None


def test_check_targets_names_what_the_model_has() -> None:
    check_targets(["model.layers.0.q_proj"], ["q_proj", "k_proj"], [])
    with pytest.raises(RuntimeError, match=r"none of the layers q_proj that .* target_modules \(gate_up_proj, qkv\)"):
        check_targets(["model.layers.0.qkv"], ["q_proj"], ["qkv", "gate_up_proj"])
