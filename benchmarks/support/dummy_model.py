"""Makes the folder of a model that has a large model's shape and no weights, to be served with `load_format=dummy`.

The shape is that of Llama 3.1 8B. The tokenizer is the default model's, whose tokens are the first of the vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mindprint.model_files import DEFAULT, resolve

LLAMA_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rope_theta": 500_000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def make_dummy_model(folder: Path, shape: dict[str, float | int | bool]) -> None:
    """Write configuration, tokenizer and a file of no tensors: a folder without one counts as incomplete."""
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, LlamaConfig

    tokenizer = AutoTokenizer.from_pretrained(resolve(DEFAULT))
    config = LlamaConfig(
        **shape,
        architectures=["LlamaForCausalLM"],
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file({}, folder / "model.safetensors", metadata={"format": "pt"})


def main(folder: Annotated[Path, typer.Argument(help="Where it goes.")]) -> None:
    make_dummy_model(folder, LLAMA_8B)


if __name__ == "__main__":
    typer.run(main)
