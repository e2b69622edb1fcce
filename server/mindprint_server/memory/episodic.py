"""Retrieves past engagements for a prompt: the newest, or those most similar to the query. Never later ones."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from mindprint.types import Engagement
from mindprint_server.settings import MemorySettings

if TYPE_CHECKING:
    from torch import Tensor

MAX_EMBEDDED_TOKENS = 256
"""Longest text to embed, in tokens. Small embedding models are not trained on longer texts."""
EMBEDDING_BATCH = 32
"""Texts that are embedded at once."""
CACHED_EMBEDDINGS = 16_384


class HistoryView(Protocol):
    """The engagements of one user that happened before a query. A retriever sees no others."""

    async def length(self) -> int:
        """Return how many engagements there are."""
        ...

    async def newest(self, limit: int) -> Sequence[Engagement]:
        """Return the newest engagements, at most `limit`, oldest first."""
        ...

    async def word_scores(self, query: str, newest: Sequence[Engagement]) -> Sequence[float]:
        """Return the BM25 score of each engagement that `newest` returned, among these; 0 if no word is shared."""
        ...


class Retriever(Protocol):
    """Chooses engagements from a history.

    Attributes:
        is_query_independent: Whether all queries at one time get the same engagements. If so, they share a prefix.
    """

    is_query_independent: ClassVar[bool]

    async def recall(self, past: HistoryView, query: str | None) -> Sequence[Engagement]:
        """Return the chosen engagements, oldest first.

        Args:
            past: The engagements to choose from.
            query: The query; None or blank if there is none to compare with.
        """
        ...


def create_retriever(settings: MemorySettings) -> Retriever:
    """Create the retriever that the settings name. The settings have checked that the embedding model exists."""
    recency = Recency(settings.recency_k, settings.recency_step)
    if settings.recall == "bm25":
        return Bm25(settings.recency_k, settings.recall_from, recency)
    if settings.recall == "embeddings":
        assert settings.embedding_model is not None
        return Embeddings(settings.recency_k, settings.recall_from, recency, settings.embedding_model)
    return recency


def create_reminder_retriever(settings: MemorySettings) -> Retriever:
    """Create the retriever of reminders: the engagements most similar by words; none without a query."""
    return Bm25(settings.reminder_engagements, settings.recall_from, Recency(0))


@dataclass(frozen=True)
class Recency:
    """Retrieves the newest engagements: at least `k`, and at most `k + step - 1`. A `k` of 0 retrieves none.

    The window keeps its start for `step` engagements and grows at its end. So a user's consecutive queries share their
    memory as a prefix, which the engine computes once.
    """

    is_query_independent: ClassVar[bool] = True

    k: int
    step: int = 1

    async def recall(self, past: HistoryView, query: str | None) -> Sequence[Engagement]:
        """Return the window of newest engagements, oldest first. The query is not used."""
        if self.k == 0:
            return []
        return await past.newest(self.k + await past.length() % self.step)


class SimilarityRetriever(ABC):
    """Retrieves the `k` engagements most similar to the query.

    Args:
        k: Number of engagements.
        considered: Number of newest engagements among which it chooses.
        otherwise: Retriever for requests without a query.
    """

    is_query_independent: ClassVar[bool] = False

    def __init__(self, k: int, considered: int, otherwise: Retriever) -> None:
        self._k = k
        self._considered = considered
        self._otherwise = otherwise

    async def recall(self, past: HistoryView, query: str | None) -> Sequence[Engagement]:
        """Return the most similar engagements, oldest first."""
        if query is None or not query.strip():
            return await self._otherwise.recall(past, query)
        episodes = await past.newest(self._considered if self._k else 0)
        if len(episodes) <= self._k:
            return episodes
        return most_similar(episodes, await self.scores(query, past, episodes), self._k)

    @abstractmethod
    async def scores(self, query: str, past: HistoryView, newest: Sequence[Engagement]) -> Sequence[float]:
        """Return a score for each of the newest engagements of a history: the higher, the more like the query."""


def most_similar(episodes: Sequence[Engagement], scores: Sequence[float], k: int) -> list[Engagement]:
    """Return the `k` engagements with the highest scores, oldest first; of equal scores the newer ones."""
    order = np.argsort(np.asarray(scores), kind="stable")
    return [episodes[at] for at in sorted(order[max(0, len(order) - k) :].tolist())]


class Bm25(SimilarityRetriever):
    """Retrieves by the words that texts share with the query."""

    async def scores(self, query: str, past: HistoryView, newest: Sequence[Engagement]) -> Sequence[float]:
        """Return the BM25 score of each engagement's prompt."""
        return await past.word_scores(query, newest)


class Embeddings(SimilarityRetriever):
    """Retrieves by the cosine of mean-pooled embeddings, which are cached.

    One thread owns the model and the embeddings. So they need no lock, and long histories do not block shared threads.
    """

    def __init__(self, k: int, considered: int, otherwise: Retriever, folder: Path) -> None:
        super().__init__(k, considered, otherwise)
        self._folder = folder
        self._max_cached = max(CACHED_EMBEDDINGS, 2 * considered)
        self._cache: OrderedDict[bytes, Tensor] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embeddings")

    def forget(self) -> None:
        """Drop all cached embeddings, in the thread that owns them."""
        self._thread.submit(self._cache.clear)

    async def scores(self, query: str, past: HistoryView, newest: Sequence[Engagement]) -> Sequence[float]:
        """Return the cosine of each engagement's prompt and the query, rounded to 5 digits."""
        texts = [engagement.prompt for engagement in newest]
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._cosines, query, texts)

    @cached_property
    def _embed(self) -> Callable[[Sequence[str]], list[Tensor]]:
        return embedder(self._folder)

    def _cosines(self, query: str, texts: Sequence[str]) -> list[float]:
        import torch

        asked, *vectors = self._vectors([query, *texts])
        # Round, so that equal texts have equal cosines whatever the order of the sums.
        cosines: list[float] = (torch.stack(vectors) @ asked).round(decimals=5).tolist()
        return cosines

    def _vectors(self, texts: Sequence[str]) -> list[Tensor]:
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._cache}
        self._cache.update(zip(new, self._embed(list(new.values())), strict=True))
        for key in keys:
            self._cache.move_to_end(key)
        vectors = [self._cache[key] for key in keys]
        while len(self._cache) > self._max_cached:
            self._cache.popitem(last=False)
        return vectors


def embedder(folder: Path) -> Callable[[Sequence[str]], list[Tensor]]:
    """Return the model in `folder` as a function from texts to unit vectors; a text without tokens gets zeros."""
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    room = getattr(model.config, "max_position_embeddings", MAX_EMBEDDED_TOKENS)
    limit = min(MAX_EMBEDDED_TOKENS, tokenizer.model_max_length, room)

    def embed_batch(texts: Sequence[str]) -> Tensor:
        rows = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        ids = torch.zeros((len(rows), max(1, *map(len, rows))), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[at, : len(row)] = 1
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        # The sum has the direction of the mean. Do not multiply with the mask: a row of padding only may be NaN.
        summed = hidden.masked_fill(mask.unsqueeze(-1) == 0, 0).sum(1)
        return torch.nn.functional.normalize(summed, dim=1)

    def embed(texts: Sequence[str]) -> list[Tensor]:
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # texts of similar length need little padding
        vectors: dict[int, Tensor] = {}
        for start in range(0, len(order), EMBEDDING_BATCH):
            some = order[start : start + EMBEDDING_BATCH]
            vectors.update(zip(some, embed_batch([texts[at] for at in some]).unbind(), strict=True))
        return [vectors[at] for at in range(len(texts))]

    return embed
