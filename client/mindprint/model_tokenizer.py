"""Loads a model's tokenizer. Server, trainer and `mindprint doctor` load it alike, and as the engine does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindprint.chat_format import one_line
from mindprint.trial_conversations import UnsupportedTemplate


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer of transformers. Nothing is downloaded, and no code of the folder is run.

    Beside `tekken.json`, transformers takes Mistral's own tokenizer where its package is installed, as it is with vLLM.
    That one has no chat template and no places of tokens. vLLM takes the other files (0.32).

    Args:
        folder: The model's folder.

    Raises:
        UnsupportedTemplate: It cannot be loaded.
        OSError: A file is missing.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, mistral_format=False
        )
    except ValueError as error:
        reason = one_line(error)
        if "trust_remote_code" in str(error):
            reason = "its code is in the model's folder, which is not run: save it as a fast one, tokenizer.json"
        raise UnsupportedTemplate(f"the tokenizer cannot be loaded: {reason}") from error
