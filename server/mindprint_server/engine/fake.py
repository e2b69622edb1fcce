"""A deterministic engine without a model, for tests of HTTP and of the store. It cannot test generation."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mindprint.chat_format import ChatFormat
from mindprint.model_files import model_digest
from mindprint_server.engine.base import ChatBackend
from mindprint_server.engine.model_shapes import Shapes, read_base_shapes
from mindprint_server.engine.types import (
    AdapterRef,
    EngineInfo,
    EngineStats,
    GenerationOutput,
    Priority,
    PromptTooLong,
    Sampling,
)

_END = "<|end|>"
_TOKEN = re.compile(rf"{re.escape(_END)}|\s*\w+|(?!\s*{re.escape(_END)})\s*[^\w\s]|\s+")


class FakeTokenizer:
    """Splits text into words and marks. Ids are assigned in the order in which tokens first occur."""

    chat_format = ChatFormat(end_id=0, end_text=_END, stop_ids=(0,))
    special = (_END,)

    def __init__(self) -> None:
        self._ids: dict[str, int] = {_END: 0}
        self._texts: list[str] = [_END]

    @property
    def vocab_size(self) -> int:
        """Return the number of tokens that occurred so far."""
        return len(self._texts)

    def encode(self, text: str) -> list[int]:
        """Tokenize `text`."""
        ids = []
        for token in _TOKEN.findall(text):
            if token not in self._ids:
                self._ids[token] = len(self._texts)
                self._texts.append(token)
            ids.append(self._ids[token])
        return ids

    def forget(self) -> None:
        """Drop nothing: the ids are the tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the tokens."""
        return "".join(self._texts[i] for i in ids)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        thinking: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Render each message as its role in brackets and its text."""
        return self.chat_format.render(self, messages, thinking=thinking, arguments=arguments)

    def apply_chat_template(self, conversation: Any, **arguments: Any) -> str:
        """Apply the template of this tokenizer; see `render`."""
        return "".join(f"[{message['role']}] {message['content']}\n" for message in conversation) + "[assistant]\n"


class FakeEngine:
    """`Engine` that writes words chosen by a hash of prompt, seed and adapter, and scores tokens by the same hash.

    Args:
        model_path: Folder of the base model; its files are only read for the digest and the shapes.
        delay_s: Seconds that every request takes.
        max_model_len: Longest sequence in tokens.
    """

    def __init__(self, *, model_path: Path, delay_s: float = 0.0, max_model_len: int = 4096) -> None:
        self.tokenizer = FakeTokenizer()
        self.ready = False
        self.dead = asyncio.Event()
        self.unsupported_fields: Mapping[str, str] = {}
        self.ignored_adapter_options: frozenset[str] = frozenset()
        self.loaded: dict[int, AdapterRef] = {}
        self._delay_s = delay_s
        self._info = EngineInfo(
            name="fake 1", device="none", model_path=str(model_path), max_model_len=max_model_len, base_digest="unread"
        )

    async def start(self, progress: Callable[[str], None]) -> None:
        """Read the digest of the base model."""
        progress("reading the model's digest")
        digest = await asyncio.to_thread(model_digest, Path(self._info.model_path))
        self._info = replace(self._info, base_digest=digest)
        self.ready = True

    async def stop(self) -> None:
        """Set `ready` to False."""
        self.ready = False

    def info(self) -> EngineInfo:
        """Return the facts about the engine."""
        return self._info

    def stats(self) -> EngineStats:
        """Report an idle engine."""
        return EngineStats()

    async def chat_backend(self) -> ChatBackend | None:
        """Return None: the fake engine cannot chat."""
        return None

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        """Write up to twelve words, chosen by a hash; see `Engine.generate`."""
        self._check_length(prompt_ids, sampling.max_tokens)
        await asyncio.sleep(self._delay_s)
        words = ("this", "user", "likes", "quiet", "places", "and", "short", "walks", "near", "water")
        start = self._hash(prompt_ids, sampling.seed, adapter)
        text = "".join(f" {words[(start + 3 * i) % len(words)]}" for i in range(min(12, sampling.max_tokens)))
        ids = tuple(self.tokenizer.encode(text))
        logprobs = tuple(-1.0 for _ in ids) if sampling.logprobs else None
        return GenerationOutput(text, ids, "stop", len(prompt_ids), 0, logprobs)

    async def stream(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> AsyncGenerator[GenerationOutput]:
        """Yield what `generate` writes, token by token; see `Engine.stream`."""
        whole = await self.generate(prompt_ids, sampling, adapter=adapter, priority=priority)
        for count in range(1, len(whole.token_ids)):
            text = self.tokenizer.decode(whole.token_ids[:count])
            yield replace(whole, text=text, token_ids=whole.token_ids[:count], finish="abort")
        yield whole

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
    ) -> list[float]:
        """Score each token by a hash; see `Engine.next_logprobs`."""
        self._check_length(prompt_ids, 1)
        await asyncio.sleep(self._delay_s)
        # Hash the token's text: its id depends on the order of earlier texts and would change the score between runs.
        texts = [self.tokenizer.decode([token]) for token in token_ids]
        return [math.log((self._hash(prompt_ids, text, adapter) % 997 + 1) / 1000) for text in texts]

    async def layer_shapes(self, layers: Sequence[str]) -> Shapes:
        """Read the shapes from the model's files; see `Engine.layer_shapes`."""
        shapes = await asyncio.to_thread(read_base_shapes, Path(self._info.model_path))
        names = [f"{layer}.weight" for layer in layers]
        return {name: shapes[name] for name in names if name in shapes}

    async def load(self, adapter: AdapterRef) -> None:
        """Remember the adapter in `loaded`; its files are not read."""
        self.loaded[adapter.engine_id] = adapter

    async def unload(self, adapter: AdapterRef) -> None:
        """Forget the adapter."""
        self.loaded.pop(adapter.engine_id, None)

    def _check_length(self, prompt_ids: Sequence[int], max_tokens: int) -> None:
        limit = self._info.max_model_len
        if len(prompt_ids) + max_tokens > limit:
            raise PromptTooLong(
                f"{len(prompt_ids)} prompt tokens and {max_tokens} to generate exceed the fake engine's {limit}: "
                "shorten the prompt, or ask for fewer tokens"
            )

    def _hash(self, prompt_ids: Sequence[int], salt: int | str | None, adapter: AdapterRef | None) -> int:
        text = f"{self.tokenizer.decode(prompt_ids)}|{salt}|{adapter.name if adapter else ''}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
