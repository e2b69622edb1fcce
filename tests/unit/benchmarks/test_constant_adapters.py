from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindprint_server.adapters import peft_config, validation
from mindprint_server.adapters.parity_check import ParityBounds, ParityLogprobs, compare_logprobs
from mindprint_server.engine.model_shapes import read_base_shapes
from mindprint_server.settings import Settings
from mindprint_trainer import settings as trainer_settings
from support import constant_adapters
from support.harness import CannotMeasure
from tiny import TARGETS, logprobs, make_model

WORDS = ["river", "stone", "cloud", "sparrow"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with four words in its vocabulary, an output layer that tells its tokens apart, and a last layer
    whose input is not all noise: x = silu(z) * z has a mean, as trained models do."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_model(tmp_path_factory.mktemp("model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f" {word}" for word in WORDS])
    tokenizer.save_pretrained(folder)
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        base.lm_head.weight.copy_(torch.randn(base.lm_head.weight.shape, generator=torch.Generator().manual_seed(0)))
        base.model.layers[-1].mlp.up_proj.weight.copy_(base.model.layers[-1].mlp.gate_proj.weight)
    base.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(model: Path) -> list[constant_adapters.ConstantAdapter]:
    return constant_adapters.build_constant_adapters(str(model), len(WORDS))


def test_every_adapter_has_a_word_of_its_own(made: list[constant_adapters.ConstantAdapter]) -> None:
    assert [one.word for one in made] == WORDS


def test_constant_adapter_has_the_parity_items_of_a_trainer(made: list[constant_adapters.ConstantAdapter]) -> None:
    defaults = {name: field.default for name, field in trainer_settings.Settings.model_fields.items()}
    for one in made:
        assert len(one.canary) == defaults["parity_items"]
        assert all(len(item.target_ids) == defaults["parity_target_tokens"] for item in one.canary)
    assert defaults["parity_prompt_tokens"] == constant_adapters.READ


def test_peft_writes_nothing_but_the_mark(
    made: list[constant_adapters.ConstantAdapter], model: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    for one in made:
        (tmp_path / "adapter_config.json").write_bytes(one.config)
        (tmp_path / "adapter_model.safetensors").write_bytes(one.weights)
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        adapted: Any = PeftModel.from_pretrained(base, tmp_path)
        ids = torch.tensor([tokenizer.encode("Something else, that no mark was made on.")])
        written = adapted.generate(input_ids=ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
        assert tokenizer.decode(written[0, ids.shape[1] :]).split() == [one.word] * 8


def test_server_accepts_it_and_its_parity_items_hold(
    made: list[constant_adapters.ConstantAdapter], model: Path, tmp_path: Path
) -> None:
    one = made[0]
    (tmp_path / "adapter_config.json").write_bytes(one.config)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(one.weights)
    served = peft_config.read_config(one.config, max_rank=constant_adapters.RANK, targets=TARGETS, settings=Settings())
    validation.check_weights(weights, served, base=read_base_shapes(model), settings=Settings())
    ours, theirs, told = list[float](), list[float](), list[float]()
    for item in one.canary:
        ids, begin = item.prompt_ids + item.target_ids, len(item.prompt_ids) - 1
        for adapter, values in ((tmp_path, ours), (None, theirs)):
            rows = logprobs(model, ids, adapter=adapter)[begin:-1]
            values += [row[token] for row, token in zip(rows, item.target_ids, strict=True)]
        told += item.logprobs
    compared = ParityLogprobs(engine=ours, base=theirs, trainer=told, trainer_base=theirs)
    result = compare_logprobs(compared, ParityBounds.of(Settings()))
    assert result.passed, result


def test_too_few_words_are_reported(model: Path) -> None:
    with pytest.raises(CannotMeasure, match="only 4 of 5 words"):
        constant_adapters.build_constant_adapters(str(model), 5)
