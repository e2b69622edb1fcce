"""The text around thinking: the tags, the thinking prefix and the answer prefix. Pure functions."""

from __future__ import annotations

import re

from mindprint_server.engine.base import FinishReason

OPEN = "<think>\n"
CLOSE = "\n</think>\n"
STOP = "</think>"
_LAST_SENTENCE = re.compile(r"^(.*[.!?](?=\s|$)|.*(?=\n))", re.DOTALL)


def render_thinking_prefix(thinking_prefix: str) -> str:
    """Return the start of the assistant's turn, which the model continues."""
    return OPEN + thinking_prefix


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
    return (thinking_prefix + generated).strip()


def split(thinking: str, thinking_prefix: str) -> tuple[str, str]:
    """Return a thinking as two parts: its thinking prefix, empty if it begins otherwise, and the rest."""
    prefix = thinking_prefix.strip()
    return (prefix, thinking.removeprefix(prefix)) if thinking.startswith(prefix) else ("", thinking)


def render_thinking(thinking: str, answer_prefix: str) -> str:
    """Return the part of the assistant's turn before the answer: the closed thinking and the answer prefix."""
    return f"{OPEN}{thinking}{CLOSE}{answer_prefix}"


def answer_suffix(answer_prefix: str, answer: str) -> str:
    """Return the answer as it is written after the answer prefix: with a space, if there is a prefix."""
    return f" {answer}" if answer_prefix else answer
