"""How a thinking begins, ends, and stands in a training sample. Pure text, no engine."""

from __future__ import annotations

import re

from mindprint_server.engine.base import FinishReason

OPEN = "<think>\n"
CLOSE = "\n</think>\n"
STOP = "</think>"
_LAST_SENTENCE = re.compile(r"^(.*[.!?](?=\s|$)|.*(?=\n))", re.DOTALL)


def thinking_prefix(opening: str) -> str:
    """The text put at the start of the assistant's turn."""
    return OPEN + opening


def finalize_thinking(opening: str, generated: str, finish: FinishReason) -> str:
    """The thinking that is kept: opening and generated text; one cut by the budget ends at its last whole sentence."""
    if finish == "length" and (whole := _LAST_SENTENCE.match(generated)) and whole.group(0).strip():
        generated = whole.group(0)
    return (opening + generated).strip()


def split(thinking: str, opening: str) -> tuple[str, str]:
    """A kept thinking as its opening and what follows; the opening is empty where it does not begin with that one."""
    begun = opening.strip()
    return (begun, thinking.removeprefix(begun)) if thinking.startswith(begun) else ("", thinking)


def render_thinking(thinking: str, answer_lead: str) -> str:
    """The segment of the assistant's turn before the answer, as the answer step reads it."""
    return f"{OPEN}{thinking}{CLOSE}{answer_lead}"


def answer_suffix(answer_lead: str, answer: str) -> str:
    """The answer as it stands behind its lead."""
    return f" {answer}" if answer_lead else answer
