"""Lay out a question about which of several texts a user prefers."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from string import ascii_uppercase


def listed(question: str, asked: str, chosen: str, rejected: Sequence[str]) -> tuple[str, list[str], str]:
    """Return a prompt with the candidates as [A], [B], ..., the labels, and the label of the chosen one.

    The candidates come in the order of their digests, so that the place of an answer says nothing about it.

    Args:
        question: What the candidates answer.
        asked: The words before the candidates, such as `Which answer do you prefer?`.
        chosen: The candidate that the user chose.
        rejected: The other candidates.

    Raises:
        ValueError: There are more candidates than letters.
    """
    candidates = sorted({chosen, *rejected}, key=_digest)
    if len(candidates) > len(ascii_uppercase):
        raise ValueError(f"more than {len(ascii_uppercase)} candidates")
    labels = list(ascii_uppercase[: len(candidates)])
    lines = "\n".join(f"[{label}] {text}" for label, text in zip(labels, candidates, strict=True))
    return f"{question}\n\n{asked}\n{lines}", labels, labels[candidates.index(chosen)]


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
