"""The text around thinking: its tags, its opening, and the answer's lead. Pure functions."""

from __future__ import annotations

import re

from mindprint_server.engine.base import FinishReason

OPEN = "<think>\n"
CLOSE = "\n</think>\n"
STOP = "</think>"
_LAST_SENTENCE = re.compile(r"^(.*[.!?](?=\s|$)|.*(?=\n))", re.DOTALL)


def thinking_prefix(opening: str) -> str:
    """Return the start of the assistant's turn, which the model continues."""
    return OPEN + opening


def finalize_thinking(opening: str, generated: str, finish: FinishReason) -> str:
    """Return the thinking to keep: the opening and the generated text.

    A thinking that was cut by its token limit ends at its last whole sentence.

    Args:
        opening: The text with which the thinking was made to begin.
        generated: What the model generated after it.
        finish: Why the generation ended.
    """
    if finish == "length" and (whole := _LAST_SENTENCE.match(generated)) and whole.group(0).strip():
        generated = whole.group(0)
    return (opening + generated).strip()


def split(thinking: str, opening: str) -> tuple[str, str]:
    """Return a thinking as its opening and the rest; the first is empty if the thinking does not begin with it."""
    begun = opening.strip()
    return (begun, thinking.removeprefix(begun)) if thinking.startswith(begun) else ("", thinking)


def render_thinking(thinking: str, answer_lead: str) -> str:
    """Return the part of the assistant's turn before the answer: the closed thinking and the answer's lead."""
    return f"{OPEN}{thinking}{CLOSE}{answer_lead}"


def answer_suffix(answer_lead: str, answer: str) -> str:
    """Return the answer as it follows its lead."""
    return f" {answer}" if answer_lead else answer
