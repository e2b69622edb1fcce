"""Whether the engine and the trainer read the same weights from a model's folder."""

from __future__ import annotations

from pathlib import Path

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def check_weight_files(folder: Path) -> None:
    """Refuse a folder of which vLLM would read other weight files than the trainer.

    Without an index vLLM reads every safetensors file (0.32, `filter_duplicate_safetensors_files`). transformers reads
    `model.safetensors` alone. Some folders have the same weights once more, such as `consolidated.safetensors`.

    Args:
        folder: The model.

    Raises:
        RuntimeError: There are other safetensors files beside `model.safetensors`, and no index.
    """
    others = sorted(path.name for path in folder.glob("*.safetensors") if path.name != WEIGHTS)
    if others and (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        raise RuntimeError(
            f"{', '.join(others)} beside {WEIGHTS} in {folder}: vLLM would read all of them, and the trainer "
            f"{WEIGHTS} alone: move the others out of the folder"
        )
