"""Count the words of a thinking. Gate, verdicts, chat and evaluation share this count."""

from __future__ import annotations

import re

OPENINGS = {"generic": "Let me think step by step.", "personal": "What this user has shown:"}
"""Default beginning of the thinking, by mode."""
ANSWER_LEAD = "This user's answer:"
"""Default words before the answer."""
LEAST_WORDS = 5
"""A thinking with fewer words of its own counts as empty (`method.md`: Collapse rate)."""

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese are written without spaces: each character counts as a word."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.lower())


def own_words(thinking: str, opening: str, answer_lead: str) -> int:
    """Count the words of a thinking without its opening and without the words before the answer.

    A thinking such as `This user's answer: yes` has next to no words of its own.

    Args:
        thinking: The thinking, with or without its opening.
        opening: Words with which the thinking began, given or learned.
        answer_lead: Words before the answer.
    """
    own = thinking.strip().removeprefix(opening.strip()).strip()
    return len(words(own.removeprefix(answer_lead.strip())))
