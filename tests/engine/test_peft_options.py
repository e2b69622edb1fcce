"""Adapters of every kind that is served, as PEFT saves them, on a real engine: the same numbers as PEFT's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from mindprint.types import Version
from mindprint.types.keys import AdapterKey
from mindprint_server.adapters.peft_config import read_config
from mindprint_server.adapters.validation import check_weights, list_layers
from mindprint_server.engine import AdapterRef, Engine, Priority
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import AdapterSettings
from mindprint_server.wiring import Services
from mindprint_trainer.peft_import import measure_adapter
from mindprint_trainer.settings import Settings as TrainerSettings
from samples import engagement
from tiny import TARGETS, logprobs, make_adapter
from uploads import ended

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
TEXT, TOKENS = "A walk by the lake? ", "abcxyz"
NOW = Priority.INTERACTIVE
IDS_OF_OTHER_TESTS = 40
"""Engine ids that tests on the same engine may have left loaded, each with a store of its own."""
SETTINGS = AdapterSettings()
MEASURING = TrainerSettings(base_dtype="float32", compute_dtype="float32", device="cpu", parity_items=4)
OPTIONS: dict[str, dict[str, Any]] = {
    "expression": {"target_modules": r".*\.self_attn\.(q|v)_proj"},
    "all_linear": {"target_modules": "all-linear"},
    "full_paths": {"target_modules": ["model.layers.1.mlp.down_proj", "model.layers.0.self_attn.k_proj"]},
    "rank_and_alpha_pattern": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 9},
        "alpha_pattern": {r"^model\.layers\.0\..*": 3, "k_proj": 20.5},
    },
    "rslora": {"use_rslora": True, "rank_pattern": {"v_proj": 9}},
    "layers_to_transform": {"layers_to_transform": [1]},
    "part_of_packed_layers": {"target_modules": ["v_proj", "up_proj"]},
    "exclude_modules": {"exclude_modules": ["o_proj"]},
    "alpha_with_fraction": {"lora_alpha": 5.5},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
}


async def check_served(engine: Engine, folder: Path) -> None:
    """The checks of an upload, with the shapes of the engine's own layers."""
    config = read_config((folder / CONFIG).read_bytes(), max_rank=16, targets=TARGETS, settings=SETTINGS)
    shapes = await engine.layer_shapes(list_layers(folder / WEIGHTS, settings=SETTINGS))
    check_weights(folder / WEIGHTS, config, base=shapes, settings=SETTINGS)


async def answers(engine: Engine, folder: Path, number: int) -> list[float]:
    adapter = AdapterRef("user/ann", number, "sha256:0", number, folder)
    await engine.load(adapter)
    ids, tokens = engine.tokenizer.encode(TEXT), engine.tokenizer.encode(TOKENS)
    found = await engine.next_logprobs(ids, tokens, adapter=adapter, priority=NOW)
    await engine.unload(adapter)
    return found


@pytest.mark.parametrize("name", OPTIONS)
async def test_adapter_with_option_passes_the_checks_and_answers_as_with_peft(
    engine: Engine, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    folder = make_adapter(tiny_model, tmp_path / "made", seed=1, **OPTIONS[name])
    await check_served(engine, folder)
    ids, tokens = engine.tokenizer.encode(TEXT), engine.tokenizer.encode(TOKENS)
    base = await engine.next_logprobs(ids, tokens, adapter=None, priority=NOW)
    found = await answers(engine, folder, 3000 + list(OPTIONS).index(name))
    row = logprobs(tiny_model, ids, adapter=folder)[-1]
    assert found == pytest.approx([row[token] for token in tokens], abs=5e-3)
    assert found != pytest.approx(base, abs=5e-2)


@pytest.mark.parametrize("init", ["pissa", "olora"])
async def test_adapter_that_changed_the_base_answers_as_with_peft_once_it_is_converted(
    engine: Engine, tiny_model: Path, tmp_path: Path, init: str
) -> None:
    base = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    model: PeftModel = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=init)
    )
    start, folder = tmp_path / "start", tmp_path / "made"
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(start)
    model.peft_config["default"].init_lora_weights = init
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if "lora_" in weight_name:
                weight.add_(torch.randn(weight.shape, generator=noise) * 0.1)
    ids, tokens = engine.tokenizer.encode(TEXT), engine.tokenizer.encode(TOKENS)
    with torch.inference_mode():
        row = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(start))
    await check_served(engine, folder)
    found = await answers(engine, folder, 3100 + len(init))
    assert found == pytest.approx([float(row[token]) for token in tokens], abs=5e-3)


def renamed(folder: Path, adapter: Path, old: str, new: str) -> Path:
    folder.mkdir()
    (folder / CONFIG).write_bytes((adapter / CONFIG).read_bytes())
    tensors = {name.replace(old, new): tensor for name, tensor in load_file(adapter / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize(
    ("old", "new"),
    [("model.model.layers", "model.model.language_model.layers"), ("model.model.layers.1", "model.model.layers.7")],
)
async def test_adapter_with_a_layer_that_the_engine_lacks_is_refused(
    engine: Engine, adapters: list[Path], tmp_path: Path, old: str, new: str
) -> None:
    folder = renamed(tmp_path / "renamed", adapters[0], old, new)
    layers = list_layers(folder / WEIGHTS, settings=SETTINGS)
    assert len(await engine.layer_shapes(layers)) < len(layers)
    with pytest.raises(ValueError, match=r"user/ann@3200: it has no layer for \d+ layers of the adapter, such as"):
        await answers(engine, folder, 3200)


async def test_layer_shapes_are_those_of_the_models_files(engine: Engine, tiny_model: Path) -> None:
    base = load_file(tiny_model / "model.safetensors")
    layers = [name.removesuffix(".weight") for name in base if name.endswith("_proj.weight")]
    assert await engine.layer_shapes([*layers, "model.layers.9.self_attn.q_proj"]) == {
        f"{layer}.weight": tuple(base[f"{layer}.weight"].shape) for layer in layers
    }


async def test_import_goes_live_only_where_the_engine_answers_as_peft_does(
    services: Services, tiny_model: Path, tmp_path: Path
) -> None:
    """The second import has the same weights under another alpha: it passes every check of files."""
    await services.store.engagements.add("ann", [engagement(0)])
    for _ in range(IDS_OF_OTHER_TESTS):
        await services.store.versions.allocate("user/nobody")
    folder = make_adapter(tiny_model, tmp_path / "made", seed=1, **OPTIONS["rank_and_alpha_pattern"])
    measured = measure_adapter(folder, "user/ann", services.info(), MEASURING)
    upload = tmp_path / "upload"

    async def imported(config: bytes) -> Version:
        upload.write_bytes(measured.files.weights)
        job = await services.version_imports.import_version(AdapterKey.user("ann"), measured.manifest, config, upload)
        return await ended(services, job.id)

    version = await imported(measured.files.config)
    assert (version.state, version.version) == ("live", 1)
    assert version.parity is not None
    assert version.parity.against_trainer < 0.01 < version.parity.against_base

    config = json.loads(measured.files.config)
    with pytest.raises(Invalid) as error:
        await imported(json.dumps(config | {"lora_alpha": 4 * config["lora_alpha"]}).encode())
    assert error.value.code == "parity_failed"
    pointers = await services.store.live_versions.get("user/ann")
    assert pointers.live is not None
    assert pointers.live.version == 1
