"""What is wrong with a candidate, cheapest test first. Pure; the reason is kept with the trace and counted."""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

from mindprint_server.engine.protocol import Finish

Reason = Literal["empty", "loop", "leak", "wrong_answer"]

_WORD = re.compile(r"\w+")
_LEAK = re.compile(
    r"\b(the|this|their) (given|provided|actual|real|stated|known|target|gold|expected) (answer|response|choice)\b"
    r"|\b(answer|response|choice) (is|was) (given|provided|already known)\b",
    re.IGNORECASE,
)


def loops(text: str) -> bool:
    """One 4-gram of words occurs five times or more (`method.md`: Loop)."""
    words = _WORD.findall(text.lower())
    grams = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return bool(grams) and max(grams.values()) >= 5


def of_thinking(thinking: str, opening: str, finish: Finish, *, min_words: int) -> Reason | None:
    """Why this thinking can no longer be accepted, whatever the answer; None if it can."""
    if finish == "loop" or loops(thinking):
        return "loop"
    if len(_WORD.findall(thinking.removeprefix(opening))) < min_words:
        return "empty"
    if _LEAK.search(thinking):
        return "leak"
    return None


def of_answer(answer: str, target: str) -> Reason | None:
    """A closed answer is right or wrong."""
    return None if answer == target else "wrong_answer"
