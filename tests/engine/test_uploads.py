"""What the checks of an upload let pass, real vLLM loads and answers with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mindprint_server.adapters.peft_config import read_config
from mindprint_server.adapters.validation import check_weights
from mindprint_server.engine import AdapterRef, Priority
from mindprint_server.engine.model_shapes import read_base_shapes
from mindprint_server.engine.vllm import VllmEngine
from mindprint_server.settings import AdapterSettings
from tiny import TARGETS, logprobs

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def saved_as(dtype: torch.dtype, adapter: Path, folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(adapter / CONFIG, folder)
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in load_file(adapter / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("dtype", DTYPES)
async def test_upload_of_each_served_dtype_passes_the_checks_and_answers_as_with_peft(
    engine: VllmEngine, tiny_model: Path, adapters: list[Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    folder, settings = saved_as(dtype, adapters[0], tmp_path / "saved"), AdapterSettings()
    config = read_config((folder / CONFIG).read_bytes(), max_rank=16, targets=TARGETS, settings=settings)
    check_weights(folder / WEIGHTS, config, base=read_base_shapes(tiny_model), settings=settings)

    ids, tokens = engine.tokenizer.encode("A walk by the lake? "), engine.tokenizer.encode("abcxyz")
    base = await engine.next_logprobs(ids, tokens, adapter=None, priority=Priority.INTERACTIVE)
    adapter = AdapterRef("user/ann", 70, f"sha256:{dtype}", 70 + DTYPES.index(dtype), folder)
    await engine.load(adapter)
    found = await engine.next_logprobs(ids, tokens, adapter=adapter, priority=Priority.INTERACTIVE)
    await engine.unload(adapter)
    row = logprobs(tiny_model, ids, adapter=folder)[-1]
    assert found == pytest.approx([row[token] for token in tokens], abs=5e-3)
    assert found != pytest.approx(base, abs=0.2)


async def test_every_token_id_that_a_manifest_may_name_is_scored(engine: VllmEngine) -> None:
    last = engine.tokenizer.vocab_size - 1
    [value] = await engine.next_logprobs([0, last], [last], adapter=None, priority=Priority.PARITY_CHECK)
    assert value < 0
