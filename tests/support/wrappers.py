"""Tiny random models that read images too, with a text model inside."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "depth": 1,
    "num_heads": 4,
    "num_attention_heads": 4,
    "out_hidden_size": 32,
    "image_size": 28,
    "patch_size": 14,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
    "fullatt_block_indexes": [0],
}
MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}


def make_wrapper(base: Path, folder: Path, model_type: str, *, seed: int = 0) -> Path:
    """Save a tiny model of a multimodal family, with the tokenizer and the vocabulary of another model.

    Args:
        base: The model whose tokenizer is taken.
        folder: Where the model is written.
        model_type: The family in transformers.
        seed: Seed of the weights.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    tokenizer = AutoTokenizer.from_pretrained(base)
    kind = CONFIG_MAPPING[model_type]
    default = kind()
    text = TEXT | {"vocab_size": len(tokenizer), "model_type": default.text_config.model_type}
    text |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if model_type.startswith("qwen"):
        text["rope_parameters"] = MROPE
    fields = default.vision_config.to_dict()
    vision = {name: value for name, value in VISION.items() if name in fields}
    names = [name for name in default.to_dict() if name.endswith(("token_id", "token_index"))]
    special = {name: 200 + i for i, name in enumerate(names)}
    more = {"mm_tokens_per_image": 4} if hasattr(default, "mm_tokens_per_image") else {}
    torch.manual_seed(seed)
    config = kind(text_config=text, vision_config=vision | {"model_type": fields["model_type"]}, **special, **more)
    AutoModelForImageTextToText.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    for path in base.iterdir():
        if "token" in path.name or path.name == "chat_template.jinja":
            shutil.copy(path, folder)
    return folder
