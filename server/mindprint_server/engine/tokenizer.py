"""The model's tokenizer, with a cache for texts that occur in many prompts, such as the memory of a user."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from mindprint.chat_format import ChatFormat
from mindprint.chat_template_trial import decide_chat_format, read_eos_ids
from mindprint.model_tokenizer import load_tokenizer
from mindprint_server.tenancy import drop_tenant, tenant_or_none

MAX_CACHED_TOKENS = 2**20
"""Token ids in the cache, of all texts together: 4 MiB, and about as much for the texts."""


_LOOKS_SPECIAL = re.compile(r"<[|\uff5c].*[|\uff5c]>", re.DOTALL)


def special_texts(named: Iterable[str], added: Iterable[Any]) -> tuple[str, ...]:
    """Return the texts that a user's text must not contain, each once.

    A tokenizer may turn texts into one token of its own that its map of special tokens does not name: the default
    model's has `<repo_name>` and 13 others. Some models do not even mark these as special, so `<|...|>` counts too.

    Args:
        named: The texts in the tokenizer's map of special tokens.
        added: Its added tokens (`AddedToken`), all of them.
    """
    others = (str(token) for token in added if token.special or _LOOKS_SPECIAL.fullmatch(str(token)))
    return tuple(dict.fromkeys(text for text in (*named, *others) if text))


class HFTokenizer:
    """A transformers tokenizer behind the `Tokenizer` protocol.

    Texts are split before each special token and every part is cached by itself. This gives the same ids only if text
    on one side of a special token does not change the tokens on the other side. The constructor tests this with the
    tokenizer at hand; where it does not hold, texts are tokenized whole.

    Args:
        tokenizer: A tokenizer of the transformers library.
        chat_format: What was decided about its chat template.
        max_cached_tokens: Number of token ids in the cache.
    """

    def __init__(self, tokenizer: Any, chat_format: ChatFormat, max_cached_tokens: int = MAX_CACHED_TOKENS) -> None:
        self._tokenizer = tokenizer
        self.chat_format = chat_format
        self.vocab_size: int = max(tokenizer.get_vocab().values()) + 1
        named = tuple(tokenizer.all_special_tokens)
        added = special_texts(named, tokenizer.added_tokens_decoder.values())
        self.special: tuple[str, ...] = tuple(dict.fromkeys((*added, *chat_format.markers, *chat_format.soft_switches)))
        self._cache: LRUCache[tuple[str | None, str], array[int]] = LRUCache(
            max_cached_tokens, getsizeof=lambda ids: len(ids) + 1
        )
        self._before_special = re.compile("(?=" + "|".join(map(re.escape, named)) + ")")
        self._is_splittable = bool(named) and all(map(self._splits_before, named))

    @classmethod
    def load(cls, folder: Path) -> HFTokenizer:
        """Load the tokenizer of a model and decide its chat format.

        Args:
            folder: The model's folder.

        Raises:
            UnsupportedTemplate: Tokenizer or chat template cannot be served; the message says why.
        """
        tokenizer = load_tokenizer(folder)
        return cls(tokenizer, decide_chat_format(tokenizer, read_eos_ids(folder)))

    @property
    def chat_template(self) -> str | None:
        """The template that renders all prompts; None where it depends on a request's tools which one does."""
        templates = self._tokenizer.chat_template
        if isinstance(templates, Mapping):
            return None if "tool_use" in templates else templates.get("default")
        return str(templates)

    def encode(self, text: str) -> list[int]:
        """Tokenize `text` without adding special tokens."""
        ids: list[int] = []
        for part in self._before_special.split(text) if self._is_splittable else [text]:
            ids += self._ids(part)
        return ids

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        thinking: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Apply the chat template, up to where the assistant's turn goes on; see `Tokenizer.render`."""
        return self.chat_format.render(self._tokenizer, messages, thinking=thinking, arguments=arguments)

    def single_ids(self, texts: Iterable[str]) -> list[int]:
        """Return the token ids of those texts that are one token."""
        return [ids[0] for text in texts if len(ids := self.encode(text)) == 1]

    def forget(self) -> None:
        """Drop the cached texts of the running work's tenant."""
        drop_tenant(self._cache)

    def _ids(self, part: str) -> array[int]:
        # By tenant: how long a text takes must not tell whether another tenant has sent it.
        key = (tenant_or_none(), part)
        if (known := self._cache.get(key)) is not None:
            return known
        ids = array("i", self._tokenize(part))
        if len(ids) < self._cache.maxsize:
            self._cache[key] = ids
        return ids

    def _tokenize(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _splits_before(self, special: str) -> bool:
        """Test whether text can be split before this special token. Some tokens absorb the white space before them."""
        return all(
            self._tokenize(before + special + after) == self._tokenize(before) + self._tokenize(special + after)
            for before in ("word", "word \n", f"word {special}")
            for after in ("", "word", " \nword")
        )
