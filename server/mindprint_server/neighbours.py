"""Who is the nearest other user: the hard negative of Anchor (`method.md`: profile swap). Pure."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from mindprint.types import Engagement

Features = Mapping[str, float]
_WORD = re.compile(r"\w+")


def features(history: Sequence[Engagement]) -> Features:
    """Unit vector of how a user answers to which words: with choices each word of a question next to the answer given,
    without them the words of the answer."""
    counts: Counter[str] = Counter()
    for engagement in history:
        if engagement.choices:
            words = set(_WORD.findall(engagement.prompt.lower()))
            counts.update(f"{word}={engagement.response}" for word in words)
        else:
            counts.update(set(_WORD.findall(engagement.response.lower())))
    # A word that is everywhere says little: its count enters by its root.
    damped = {word: math.sqrt(count) for word, count in counts.items()}
    length = math.sqrt(sum(value * value for value in damped.values()))
    return {word: value / length for word, value in damped.items()} if length else {}


def similarity(one: Features, other: Features) -> float:
    """Cosine, 0 to 1."""
    if len(other) < len(one):
        one, other = other, one
    return sum(value * other.get(word, 0.0) for word, value in one.items())


def pick(user_id: str, mine: Features, others: Mapping[str, Features]) -> tuple[str | None, str | None]:
    """The nearest other user and a random one (the same at every call), who differ where there are two."""
    ids = sorted(id for id, theirs in others.items() if theirs and id != user_id)
    if not ids:
        return None, None
    nearest = max(ids, key=lambda id: similarity(mine, others[id]))
    rest = [id for id in ids if id != nearest]
    return nearest, random.Random(user_id).choice(rest) if rest else None
