"""What is wrong with a candidate, cheapest test first. Pure; the reason is kept with the trace and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from mindprint.thinking_text import own_words, words
from mindprint.types import Reason
from mindprint_server.engine.base import FinishReason

_TAG = re.compile(r"</?think>", re.IGNORECASE)
_LEAK = re.compile(
    r"\b(the|this|their) (given|provided|actual|real|stated|known|target|gold|expected) (answer|response|choice)\b"
    r"|\b(answer|response|choice) (is|was) (given|provided|already known)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Thresholds:
    """Bounds on the scores, in nats a token; None: the score is stored and decides nothing."""

    gain: float | None = 0.0
    """Least Gain: the thinking must make the real answer likelier than answering at once."""
    anchor: float | None = 0.0
    """Least Anchor against the nearest other user."""
    hindsight: float | None = None
    """Largest hindsight gap of a candidate whose writer saw the answer."""


def loops(text: str) -> bool:
    """One 4-gram of words occurs five times or more (`method.md`: Loop)."""
    said = words(text)
    grams = Counter(zip(said, said[1:], said[2:], said[3:], strict=False))
    return bool(grams) and max(grams.values()) >= 5


def fingerprint(thinking: str) -> str:
    """What two traces share that say the same in the same words."""
    return " ".join(words(thinking))


def sampled(thinking: str, share: float) -> bool:
    """Whether this thinking is among the `share` that get a score which decides nothing; the same at every call."""
    return int.from_bytes(sha256(thinking.encode()).digest()[:4], "big") < share * 2**32


def of_thinking(
    thinking: str, opening: str, finish: FinishReason, *, min_words: int, answer_lead: str
) -> Reason | None:
    """Why this thinking can no longer be accepted, whatever the answer; None if it can. Neither the words of the
    opening count as its own nor those that lead an answer in."""
    if finish == "loop" or loops(thinking):
        return "loop"
    if _TAG.search(thinking):
        return "parse"
    if own_words(thinking, opening, answer_lead) < min_words:
        return "empty"
    if _LEAK.search(thinking):
        return "leak"
    return None


def shortfall(choices: Mapping[str, float], target: str) -> float:
    """Nats by which the real answer trails the likeliest choice; 0 where it is the likeliest."""
    return max(choices.values()) - choices[target]


def of_gain(gain: float, thresholds: Thresholds) -> Reason | None:
    return "low_gain" if thresholds.gain is not None and not gain >= thresholds.gain else None


def of_anchor(anchor: float, thresholds: Thresholds) -> Reason | None:
    return "low_anchor" if thresholds.anchor is not None and not anchor >= thresholds.anchor else None


def of_hindsight(gap: float, thresholds: Thresholds) -> Reason | None:
    return "hindsight" if thresholds.hindsight is not None and not gap <= thresholds.hindsight else None
