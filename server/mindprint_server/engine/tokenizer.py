"""The model's tokenizer. What is read again and again, like a user's memory in each of its questions, is cut once."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from typing import Any

from cachetools import LRUCache

from mindprint_server.engine.base import Message

KEPT_TOKENS = 2**20
"""Token ids that are remembered, of all texts together: 4 MiB, and about as much for the texts."""


class HFTokenizer:
    """A transformers tokenizer, narrowed to what the server uses.

    A text falls apart before each of its special tokens: what stands on one side of such a place has no influence on
    the tokens of the other side. Whether the tokenizer at hand keeps to that is tried out once; if not, texts stay
    whole.
    """

    def __init__(self, tokenizer: Any, kept_tokens: int = KEPT_TOKENS) -> None:
        self._tokenizer = tokenizer
        self.eos_id: int = tokenizer.eos_token_id
        self.special: tuple[str, ...] = tuple(tokenizer.all_special_tokens)
        self._kept: LRUCache[str, array[int]] = LRUCache(kept_tokens, getsizeof=lambda ids: len(ids) + 1)
        self._before_special = re.compile("(?=" + "|".join(map(re.escape, self.special)) + ")")
        self._falls_apart = bool(self.special) and all(map(self._parts_at, self.special))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self._before_special.split(text) if self._falls_apart else [text]:
            ids += self._ids(part)
        return ids

    def render(self, messages: Sequence[Message]) -> str:
        return str(self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))

    def _ids(self, part: str) -> array[int]:
        if (known := self._kept.get(part)) is not None:
            return known
        ids = array("i", self._whole(part))
        if len(ids) < self._kept.maxsize:
            self._kept[part] = ids
        return ids

    def _whole(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _parts_at(self, special: str) -> bool:
        """Some special tokens take the white space before them along: then not."""
        return all(
            self._whole(before + special + after) == self._whole(before) + self._whole(special + after)
            for before in ("word", "word \n", f"word {special}")
            for after in ("", "word", " \nword")
        )
