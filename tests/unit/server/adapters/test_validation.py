from __future__ import annotations

from pathlib import Path

import pytest

from mindprint.adapter_config import AdapterConfig
from mindprint_server.adapters.validation import check_tensors, check_weights
from mindprint_server.adapters.weights_file import TensorEntry
from mindprint_server.engine.model_shapes import read_base_shapes
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import AdapterSettings
from weights import BASE, LAYER, NAMES, RANK, SHAPES, data_of, header_of, weights_file

ADAPTER = AdapterConfig(RANK, frozenset({"q_proj"}), frozenset({"q_proj"}))
A, B = NAMES


def entries(shapes: dict[str, tuple[int, int]]) -> list[TensorEntry]:
    return [TensorEntry(name, "F32", shape, 0, 0) for name, shape in shapes.items()]


def test_check_tensors_of_fitting_pairs_passes() -> None:
    check_tensors(entries(SHAPES), ADAPTER, base=BASE)


@pytest.mark.parametrize(
    ("shapes", "code"),
    [
        ({}, "adapter_shape"),
        ({A: (4, 8)}, "adapter_shape"),
        ({**SHAPES, A: (5, 8)}, "adapter_shape"),
        ({**SHAPES, B: (4, 8)}, "adapter_shape"),
        ({name.replace("layers.0", "layers.9"): shape for name, shape in SHAPES.items()}, "adapter_base_model"),
        ({**SHAPES, "base_model.model.lm_head.weight": (8, 8)}, "adapter_targets"),
        ({name.replace("q_proj", "up_proj"): shape for name, shape in SHAPES.items()}, "adapter_targets"),
        ({name.removeprefix("base_model.model."): shape for name, shape in SHAPES.items()}, "adapter_targets"),
        ({name.removesuffix(".weight"): shape for name, shape in SHAPES.items()}, "adapter_targets"),
        ({**SHAPES, f"{LAYER}.lora_magnitude_vector.weight": (8, 1)}, "adapter_targets"),
        ({**SHAPES, "": (0, 0)}, "adapter_targets"),
    ],
)
def test_check_tensors_that_do_not_fit_is_refused(shapes: dict[str, tuple[int, int]], code: str) -> None:
    with pytest.raises(Invalid) as error:
        check_tensors(entries(shapes), ADAPTER, base=BASE)
    assert error.value.code == code


def test_check_tensors_without_lora_b_names_the_layer_and_the_half() -> None:
    with pytest.raises(Invalid, match=r"layer 'model.layers.0.self_attn.q_proj' has no lora_B: "):
        check_tensors(entries({A: SHAPES[A]}), ADAPTER, base=BASE)


def test_check_tensors_takes_the_rank_of_the_pattern() -> None:
    adapter = AdapterConfig(RANK, frozenset({"q_proj"}), rank_pattern={"layers.0.self_attn.q_proj": 2})
    check_tensors(entries({A: (2, 8), B: (8, 2)}), adapter, base=BASE)
    with pytest.raises(Invalid, match="rank need"):
        check_tensors(entries(SHAPES), adapter, base=BASE)


def test_check_tensors_of_a_layer_that_the_base_lacks_matches_no_name_or_pattern() -> None:
    class Matched(AdapterConfig):
        def is_adapted(self, layer: str) -> bool:
            raise AssertionError(layer)

        def rank_of(self, layer: str) -> int:
            raise AssertionError(layer)

    with pytest.raises(Invalid, match="no linear layer") as error:
        check_tensors(entries(SHAPES), Matched(RANK, frozenset({"q_proj"})), base={})
    assert error.value.code == "adapter_base_model"


@pytest.mark.parametrize(
    "adapter",
    [
        AdapterConfig(RANK, frozenset({"q_proj"}), frozenset({"k_proj"})),
        AdapterConfig(RANK, frozenset({"q_proj"}), frozenset({"q_proj"}), layer_indices=frozenset({1})),
        AdapterConfig(RANK, frozenset({"q_proj"}), excluded=frozenset({"self_attn.q_proj"})),
    ],
)
def test_check_tensors_that_peft_would_leave_out_are_refused(adapter: AdapterConfig) -> None:
    with pytest.raises(Invalid, match="target_modules, exclude_modules and layers_to_transform leave out") as error:
        check_tensors(entries(SHAPES), adapter, base=BASE)
    assert error.value.code == "adapter_targets"


def test_check_weights_of_zeros_has_no_effect(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(weights_file(header_of(), data_of(values=0.0)))
    with pytest.raises(Invalid, match="changes nothing") as error:
        check_weights(path, ADAPTER, base=BASE, settings=AdapterSettings())
    assert error.value.code == "adapter_no_effect"


def test_check_tensors_on_a_layer_that_is_not_linear_is_refused() -> None:
    with pytest.raises(Invalid, match="no linear layer"):
        check_tensors(entries(SHAPES), ADAPTER, base={name: (*shape, 3) for name, shape in BASE.items()})


def test_check_weights_reads_file_shapes_and_values(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for dtype, value, code in (("F32", 0.01, None), ("BF16", float("nan"), "adapter_not_finite")):
        path.write_bytes(weights_file(header_of(dtype), data_of(dtype, value)))
        if code is None:
            check_weights(path, ADAPTER, base=BASE, settings=AdapterSettings())
            continue
        with pytest.raises(Invalid) as error:
            check_weights(path, ADAPTER, base=BASE, settings=AdapterSettings())
        assert error.value.code == code


def test_read_base_shapes_of_several_files_joins_them(base_folder: Path) -> None:
    (base_folder / "model-2.safetensors").write_bytes(weights_file())
    assert read_base_shapes(base_folder) == {
        "model.layers.0.self_attn.q_proj.weight": (8, 8),
        "model.layers.0.mlp.up_proj.weight": (16, 8),
        **SHAPES,
    }
