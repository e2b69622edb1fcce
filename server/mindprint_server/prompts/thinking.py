"""The text around thinking: the thinking prefix and the answer prefix. Pure functions."""

from __future__ import annotations

import re

from mindprint_server.engine.types import FinishReason

_LAST_SENTENCE = re.compile(r"^(.*[.!?](?=\s|$)|.*(?=\n))", re.DOTALL)


def finalize_thinking(thinking_prefix: str, generated: str, finish: FinishReason) -> str:
    """Return the thinking to keep: the thinking prefix and the generated text.

    A thinking that was cut by its token limit ends at its last whole sentence.

    Args:
        thinking_prefix: The text with which the thinking was made to begin.
        generated: What the model generated after it.
        finish: Why the generation ended.
    """
    if finish == "length" and (whole := _LAST_SENTENCE.match(generated)) and whole.group(0).strip():
        generated = whole.group(0)
    return (thinking_prefix.strip() + generated).strip()


def split(thinking: str, thinking_prefix: str) -> tuple[str, str]:
    """Return a thinking as two parts: its thinking prefix, empty if it begins otherwise, and the rest."""
    prefix = thinking_prefix.strip()
    return (prefix, thinking.removeprefix(prefix)) if thinking.startswith(prefix) else ("", thinking)


def split_answer_prefix(answer_prefix: str) -> tuple[str, str]:
    """Return the answer prefix as it is written, and what stands between it and an answer.

    Spaces at its end belong to the answer: most tokenizers write a word and the space before it as one token.

    Args:
        answer_prefix: The setting `answer_prefix`.
    """
    written = answer_prefix.rstrip(" \t")
    space = answer_prefix[len(written) :]
    return written, space or ("" if not written or written.endswith("\n") else " ")
