"""What the installed vLLM says of architectures and quantizations, without an engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindprint.base_support import SERVED_METHODS
from mindprint_server.engine.lora_support import check_architecture


def config(folder: Path, *architectures: str) -> Path:
    (folder / "config.json").write_text(json.dumps({"architectures": architectures}))
    return folder


def test_an_architecture_without_adapters_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="vLLM serves no adapters on StableLmForCausalLM: name another") as caught:
        check_architecture(config(tmp_path, "StableLmForCausalLM"))
    assert "\n" not in str(caught.value)
    check_architecture(tmp_path, "transformers")


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "AnArchitectureThatVllmDoesNotKnow"])
def test_an_architecture_with_adapters_is_not_refused(name: str, tmp_path: Path) -> None:
    check_architecture(config(tmp_path, name))


def test_the_list_of_quantizations_is_that_of_vllm() -> None:
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    assert SERVED_METHODS - {"auto-round"} <= set(QUANTIZATION_METHODS)
