"""Tokenize an assistant's turn in stretches. Server and trainer share this rule, so that their token ids agree.

A stretch ends where the server really starts to generate or to score: after the prompt, after the text with which a
thinking is made to begin, and before the answer. The token ids before such a place are fixed there. So no token may
cross it, in training either. Inside of a stretch the text is tokenized as a whole: "." and the line end behind it are
one token for some tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

CONTEXT_CHARS = 64
"""Characters before a stretch that can change its tokens. A word, a number or a run of spaces is rarely longer."""

Encode = Callable[[str], list[int]]
"""Encodes text to token ids, without adding special tokens. Those written in the text count as special tokens."""


class Token(NamedTuple):
    """A token of a text."""

    id: int
    start: int
    """Index of the text's character in which the token begins."""


Tokenize = Callable[[str], Sequence[Token]]
"""Tokenizes text as `Encode` does, with the place of each token."""


def continue_ids(encode: Encode, before: str, text: str) -> list[int]:
    """Return the token ids of a stretch as the continuation of the text before it.

    Where a token would cross the border, the stretch is tokenized alone.

    Args:
        encode: Encodes text without adding special tokens.
        before: All text before the stretch, or at least its last `CONTEXT_CHARS` characters.
        text: The stretch.
    """
    if not text:
        return []
    context = before[-CONTEXT_CHARS:]
    head, whole = encode(context), encode(context + text)
    return whole[len(head) :] if whole[: len(head)] == head else encode(text)


def continue_tokens(tokenize: Tokenize, before: str, text: str) -> list[Token]:
    """Return the tokens of a stretch, with the ids of `continue_ids` and places in the stretch.

    Args:
        tokenize: Tokenizes text without adding special tokens.
        before: All text before the stretch, or at least its last `CONTEXT_CHARS` characters.
        text: The stretch.
    """
    if not text:
        return []
    context = before[-CONTEXT_CHARS:]
    head, whole = tokenize(context), tokenize(context + text)
    count = len(head)
    if [token.id for token in whole[:count]] != [token.id for token in head]:
        return list(tokenize(text))
    return [Token(token.id, max(0, token.start - len(context))) for token in whole[count:]]


def split_tokens(tokens: Sequence[Token], lengths: Sequence[int]) -> list[int]:
    """Return the index of the token before which each part of a stretch ends.

    A token that crosses the border of two parts belongs to the part in which it begins.

    Args:
        tokens: The tokens of the stretch.
        lengths: Characters of each part; together they are the stretch.
    """
    ends, border, index = [], 0, 0
    for length in lengths:
        border += length
        while index < len(tokens) and tokens[index].start < border:
            index += 1
        ends.append(index)
    if ends:
        ends[-1] = len(tokens)
    return ends


def place_tokens(ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[Token]:
    """Return tokens with their places, from the offsets of a transformers tokenizer.

    Some tokenizers leave the space before a word out of its offsets. It belongs to the token that follows.

    Args:
        ids: Token ids.
        offsets: Start and end of each token in the text.
    """
    placed, covered = [], 0
    for token, (start, end) in zip(ids, offsets, strict=True):
        placed.append(Token(token, min(start, covered)))
        covered = max(covered, end)
    return placed
