"""Count the words of a thinking. Gate, verdicts, chat and evaluation share this count."""

from __future__ import annotations

import re

THINKING_PREFIXES = {"generic": "Let me think step by step.", "personal": "What this user has shown:"}
"""Default beginning of the thinking, by mode."""
ANSWER_PREFIX = "This user's answer:"
"""Default words before the answer."""
LEAST_WORDS = 5
"""A thinking with fewer words of its own counts as empty (`method.md`: Collapse rate)."""

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese are written without spaces: each character counts as a word."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.lower())


def own_words(thinking: str, thinking_prefix: str, answer_prefix: str) -> int:
    """Count the words of a thinking without its thinking prefix and without the answer prefix.

    A thinking such as `This user's answer: yes` has hardly any words of its own.

    Args:
        thinking: The thinking, with or without its thinking prefix.
        thinking_prefix: Words with which the thinking began, given or learned.
        answer_prefix: Words before the answer.
    """
    own = thinking.strip().removeprefix(thinking_prefix.strip()).strip()
    return len(words(own.removeprefix(answer_prefix.strip())))
