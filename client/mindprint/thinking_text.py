"""How many words of a thinking are its own. Pure: gate, verdicts, chat and evaluations all count by it."""

from __future__ import annotations

import re

OPENINGS = {"generic": "Let me think step by step.", "personal": "What this user has shown:"}
"""How each thinking mode begins unless it is set otherwise."""
ANSWER_LEAD = "This user's answer:"
"""What leads an answer in unless it is set otherwise."""
LEAST_WORDS = 5
"""A thinking of fewer words of its own is empty (`method.md`: Collapse rate)."""

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese: written without spaces, each character counts as a word."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """In lower case."""
    return _WORD.findall(text.lower())


def own_words(thinking: str, opening: str, answer_lead: str) -> int:
    """Words without those of the opening, given or learned, and of what leads an answer in: what says
    `This user's answer: yes` and no more did not think."""
    own = thinking.strip().removeprefix(opening.strip()).strip()
    return len(words(own.removeprefix(answer_lead.strip())))
