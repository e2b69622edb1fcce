"""Tiny base models with random weights, one for each architecture, as folders that server and trainer read.

Each has the configuration of its model type, with the parts that its forward pass depends on, and the tokenizer and
chat template of a known family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chat_templates import make_tokenizer, save_tokenizer
from tiny import TARGETS

HIDDEN, HEAD = 64, 32
"""vLLM's attention on a CPU takes heads of 32 features at least."""
WINDOW = 64
"""Tokens of a sliding window: fewer than a prompt has."""
SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": HEAD,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
IMAGE_TOKENS = {
    "boi_token": "<start_of_image>",
    "image_token": "<image_soft_token>",
    "eoi_token": "<end_of_image>",
}
"""Gemma 3's tokens around an image, by their names in its processor; they follow the tokenizer's own."""
IMAGE = {"image_size": 32, "patch_size": 8}
TOKENS_PER_IMAGE = 4
LAYERS = ["sliding_attention", "full_attention"]
GEMMA: dict[str, Any] = {"query_pre_attn_scalar": HEAD, "sliding_window": WINDOW, "layer_types": LAYERS}


@dataclass(frozen=True)
class Architecture:
    """One row of the matrix."""

    title: str
    model_type: str
    """The type of its configuration in transformers."""
    chat: str
    """Family of the tokenizer and the chat template (`chat_templates`)."""
    config: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = tuple(TARGETS)
    """The server's `target_modules`."""
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "plain"
    """How the weights are written: a name in `WRITERS`."""
    refusal: str | None = None
    """Words of the line with which the server refuses to start; None for a model that it serves."""


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("Llama", "llama", "llama3", {"tie_word_embeddings": False}),
    "qwen2": Architecture("Qwen2", "qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen3": Architecture("Qwen3", "qwen3", "qwen3", {"tie_word_embeddings": True}),
    "gemma2": Architecture(
        "Gemma 2", "gemma2", "gemma", GEMMA | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 6.0}
    ),
    "gemma3_text": Architecture("Gemma 3 (text)", "gemma3_text", "gemma", GEMMA | {"initializer_range": 0.1}),
    "mistral": Architecture("Mistral", "mistral", "mistral_v3", {"sliding_window": None}),
    "phi3": Architecture(
        "Phi-3",
        "phi3",
        "phi3",
        {"sliding_window": None, "pad_token_id": 0},
        targets=("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    ),
    "granite": Architecture(
        "Granite",
        "granite",
        "llama3",
        {
            "logits_scaling": 2.0,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
    ),
    "olmo2": Architecture("OLMo 2", "olmo2", "chatml"),
    "stablelm": Architecture("StableLM", "stablelm", "chatml", refusal="vLLM serves no adapters on StableLm"),
    "stablelm_transformers": Architecture(
        "StableLM, `model_impl=transformers`", "stablelm", "chatml", engine_args={"model_impl": "transformers"}
    ),
    "gemma3": Architecture(
        "Gemma 3 with its image encoder", "gemma3", "gemma", weights="images", refusal="needs the package torchvision"
    ),
    "gemma3_only": Architecture(
        "Gemma 3 with its image encoder, `language_model_only`",
        "gemma3",
        "gemma",
        engine_args={"language_model_only": True},
        weights="images",
        refusal="needs the package torchvision",
    ),
    "qwen3_moe": Architecture(
        "Qwen3, mixture of experts",
        "qwen3_moe",
        "qwen3",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        refusal="is a mixture of experts",
    ),
    "quantized": Architecture("Llama, quantized to int8", "llama", "llama3", weights="int8", refusal="are int8"),
    "pickled": Architecture("Llama, weights in `.bin` only", "llama", "llama3", weights="bin", refusal="*.safetensors"),
    "consolidated": Architecture(
        "Mistral with `consolidated.safetensors` too",
        "mistral",
        "mistral_v3",
        {"sliding_window": None},
        weights="consolidated",
        refusal="consolidated.safetensors",
    ),
}
"""All architectures of the matrix, by name."""


def make_base(architecture: Architecture, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny model of an architecture, with its tokenizer, into a folder."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(make_config(architecture))
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(architecture.chat, folder)
    WRITERS[architecture.weights](folder)
    return folder


def make_config(architecture: Architecture) -> Any:
    """Build the tiny configuration of an architecture."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    tokenizer = make_tokenizer(architecture.chat)
    fields = {
        **SIZES,
        "vocab_size": max(tokenizer.get_vocab().values()) + 1,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
        **architecture.config,
    }
    if architecture.model_type != "gemma3":
        return CONFIG_MAPPING[architecture.model_type](**fields)
    first = fields["vocab_size"]
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, **IMAGE}
    return CONFIG_MAPPING["gemma3"](
        text_config=fields | GEMMA | {"vocab_size": first + len(IMAGE_TOKENS)},
        vision_config=vision,
        mm_tokens_per_image=TOKENS_PER_IMAGE,
        boi_token_index=first,
        image_token_index=first + 1,
        eoi_token_index=first + 2,
    )


def _leave(folder: Path) -> None:
    """Keep what was saved."""


def _pickle(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")
    path.unlink()


def _consolidate(folder: Path) -> None:
    """Write the same weights once more under the names of Mistral's own format."""
    from safetensors.torch import load_file, save_file

    own = {name.removeprefix("model."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(own, folder / "consolidated.safetensors")


def _quantize(folder: Path) -> None:
    """Quantize the linear layers to int8 with one scale a row, in the format of compressed-tensors."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        weight = tensors[name].float()
        scale = weight.abs().amax(1, keepdim=True) / 127
        tensors[name] = (weight / scale).round().to(torch.int8)
        tensors[f"{name}_scale"] = scale.to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    int8 = {"num_bits": 8, "type": "int", "symmetric": True}
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": int8 | {"strategy": "channel", "dynamic": False},
                "input_activations": int8 | {"strategy": "token", "dynamic": True},
            }
        },
    }
    path.write_text(json.dumps(config), encoding="utf-8")


def _add_images(folder: Path) -> None:
    """Write the processor of a Gemma 3 that reads images, and add its tokens to the tokenizer."""
    from transformers import AutoTokenizer
    from transformers.models.gemma3 import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=IMAGE_TOKENS)
    size = {"height": IMAGE["image_size"], "width": IMAGE["image_size"]}
    images = Gemma3ImageProcessorPil(size=size)
    Gemma3Processor(images, tokenizer, image_seq_length=TOKENS_PER_IMAGE).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


WRITERS = {"plain": _leave, "images": _add_images, "bin": _pickle, "consolidated": _consolidate, "int8": _quantize}
"""What is done to the saved files, by the name in `Architecture.weights`."""
