"""TODO."""

from __future__ import annotations

from collections.abc import Sequence

from mindprint_server.prompts.templates import clean
from mindprint_server.prompts.types import Question


def unfit(question: Question, special: Sequence[str]) -> str | None:
    """Why an engagement cannot be thought about, if so."""
    if not question.memory.episodes and not question.memory.profile:
        return "no_history"
    if question.choices is None and not clean(question.target or "", special):
        return "no_answer"
    return None
