"""When a profile is due and of which pieces it is made. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def due(covered: int, total: int, every: int) -> list[int]:
    """The history lengths at which a profile is still to be written: the multiples of `every` in (covered, total].

    One profile for each length, not only the newest: a query from the middle of a history may only be answered with a
    profile that ends before it.
    """
    return list(range((covered // every + 1) * every, total + 1, every))


def pieces(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Consecutive pieces of `size`, the last one possibly shorter. Earlier pieces stay the same as a history grows."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def sentences(text: str) -> str:
    """A model's notes without repeated sentences and without a last one that was cut off."""
    kept: list[str] = []
    for sentence in text.replace("\n", " ").split(". "):
        sentence = sentence.strip()
        if sentence and sentence.rstrip(".") not in (k.rstrip(".") for k in kept):
            kept.append(sentence)
    if len(kept) > 1 and not kept[-1].endswith((".", "!", "?")):
        kept.pop()
    joined = ". ".join(sentence.rstrip(".") for sentence in kept)
    return f"{joined}." if joined and joined[-1] not in "!?" else joined
