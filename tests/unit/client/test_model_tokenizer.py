"""The tokenizer is the one that the engine loads, whatever other files lie beside it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from chat_templates import make_tokenizer, save_tokenizer
from mindprint.chat_template_trial import decide_chat_format, read_eos_ids
from mindprint.model_tokenizer import load_tokenizer
from mindprint.trial_conversations import UnsupportedTemplate

WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTROL = [
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
    "[ARGS]",
    "[CALL_ID]",
    "[THINK]",
    "[/THINK]",
]


def write_tekken(folder: Path) -> None:
    """Write a tokenizer in Mistral's own format: a token for each byte."""
    special = [{"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(CONTROL)]
    letters: list[dict[str, Any]] = [
        {"rank": byte, "token_bytes": base64.b64encode(bytes([byte])).decode(), "token_str": None}
        for byte in range(256)
    ]
    config = {
        "pattern": WORD,
        "num_vocab_tokens": 256,
        "default_vocab_size": 256 + len(special),
        "default_num_special_tokens": len(special),
        "version": "v11",
    }
    whole = {"config": config, "vocab": letters, "special_tokens": special}
    (folder / "tekken.json").write_text(json.dumps(whole), encoding="utf-8")


@pytest.mark.parametrize("model_type", ["mistral", "mistral3", "ministral3"])
def test_tokenizer_of_mistral_is_the_one_with_a_chat_template(tmp_path: Path, model_type: str) -> None:
    """transformers would take `tekken.json`, as its package comes with vLLM."""
    pytest.importorskip("mistral_common")
    from transformers import AutoTokenizer

    save_tokenizer("mistral_v3", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    write_tekken(tmp_path)
    assert type(AutoTokenizer.from_pretrained(tmp_path)).__name__ == "MistralCommonBackend"
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.get_vocab() == make_tokenizer("mistral_v3").get_vocab()
    assert decide_chat_format(tokenizer, read_eos_ids(tmp_path)).end_text == "</s>"


def test_tokenizer_with_code_of_its_own_is_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own"}), encoding="utf-8")
    config = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["code.OwnTokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        UnsupportedTemplate, match=r"code is in the model's folder, which is not run: .*tokenizer\.json"
    ):
        load_tokenizer(tmp_path)
