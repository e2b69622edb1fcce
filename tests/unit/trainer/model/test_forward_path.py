from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig, MistralConfig

from mindprint_trainer.model.forward_path import candidate_paths, has_full_attention


@pytest.mark.parametrize(
    ("fields", "full"),
    [
        ({}, True),
        ({"layer_types": ["full_attention", "full_attention"], "sliding_window": 64}, True),
        ({"layer_types": ["full_attention", "sliding_attention"]}, False),
        ({"layer_types": ["linear_attention", "full_attention"]}, False),
        ({"sliding_window": 64}, False),
        ({"sliding_window": None}, True),
        ({"window_size": 64}, False),
        ({"attention_chunk_size": 64}, False),
        ({"index_topk": 64, "layer_types": ["full_attention"]}, False),
    ],
)
def test_full_attention_when_a_field_limits_it_then_is_false(fields: dict[str, Any], full: bool) -> None:
    config = LlamaConfig(num_hidden_layers=2)
    for name, value in fields.items():
        setattr(config, name, value)
    assert has_full_attention(config) is full


def test_candidates_when_on_a_cpu_then_begin_with_blocks_of_trees() -> None:
    paths = [str(path) for path in candidate_paths(LlamaConfig(), "cpu")]
    assert paths[:4] == ["trees/blocks/head", "trees/blocks/tail", "trees/sdpa/head", "trees/sdpa/tail"]
    assert paths[-2:] == ["chains/sdpa/forward", "chains/eager/forward"]
    assert len(paths) == len(set(paths)) == 12


def test_candidates_when_on_a_gpu_then_have_no_blocks() -> None:
    paths = candidate_paths(LlamaConfig(), "cuda")
    assert str(paths[0]) == "trees/sdpa/head"
    assert "blocks" not in {path.attention for path in paths}


def test_candidates_when_attention_is_limited_then_share_no_rows() -> None:
    paths = candidate_paths(MistralConfig(sliding_window=64), "cpu")
    assert {path.rows for path in paths} == {"chains"}
    assert str(paths[0]) == "chains/sdpa/head"
