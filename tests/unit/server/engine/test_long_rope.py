from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindprint_server.engine.long_rope import check_long_rope, find_original_length

PHI = {
    "model_type": "phi3",
    "max_position_embeddings": 131_072,
    "original_max_position_embeddings": 4096,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({}, None),
        (PHI, 4096),
        (PHI | {"rope_scaling": {"type": "su"}}, 4096),
        (PHI | {"rope_scaling": None}, None),
        (PHI | {"rope_scaling": {"rope_type": "yarn"}}, None),
        ({"rope_scaling": {"rope_type": "longrope", "original_max_position_embeddings": 32_768}}, 32_768),
        ({"rope_parameters": {"full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 8}}}, 8),
        ({"vision_config": {"hidden_size": 8}, "text_config": PHI}, 4096),
    ],
)
def test_find_original_length_when_a_part_has_long_rope_then_is_its_length(
    config: dict[str, Any], length: int | None
) -> None:
    assert find_original_length(config) == length


def test_max_model_len_when_above_the_original_length_then_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PHI))
    check_long_rope(tmp_path, 4096)
    with pytest.raises(
        RuntimeError, match=r"max_model_len 4097 is above 4096.* phi3 .*: set it to 4096 at most"
    ) as caught:
        check_long_rope(tmp_path, 4097)
    assert "\n" not in str(caught.value)


def test_model_when_it_has_no_configuration_then_is_not_refused(tmp_path: Path) -> None:
    check_long_rope(tmp_path, 4097)


@pytest.mark.parametrize("max_model_len", [32, 33])
def test_vllm_when_max_model_len_is_above_the_original_length_then_rotates_other_than_transformers(
    monkeypatch: pytest.MonkeyPatch, max_model_len: int
) -> None:
    """The reason of the refusal. If it fails above that length with a later release, the refusal can go."""
    from types import SimpleNamespace

    import torch
    from transformers import Phi3Config
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding, apply_rotary_pos_emb

    vllm_rope = pytest.importorskip("vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope")
    short, long = [1.0] * 4, [8.0] * 4
    config = Phi3Config(
        hidden_size=8,
        num_attention_heads=1,
        num_key_value_heads=1,
        vocab_size=128,
        pad_token_id=0,
        max_position_embeddings=128,
        original_max_position_embeddings=32,
        rope_scaling={"type": "longrope", "short_factor": short, "long_factor": long},
    )
    assert find_original_length(config.to_dict()) == 32
    running = SimpleNamespace(model_config=SimpleNamespace(max_model_len=max_model_len))
    monkeypatch.setattr(vllm_rope, "get_current_vllm_config", lambda: running)
    rope = vllm_rope.Phi3LongRoPEScaledRotaryEmbedding(8, 8, 128, 32, 10_000.0, True, torch.float32, short, long)
    queries, positions = torch.ones(20, 8), torch.arange(20)
    ours, _ = rope(positions, queries, queries)
    cosines, sines = Phi3RotaryEmbedding(config)(queries, positions[None])
    theirs, _ = apply_rotary_pos_emb(queries[None, None], queries[None, None], cosines, sines)
    assert torch.allclose(ours, theirs[0, 0], atol=1e-5) is (max_model_len <= 32)
