"""Made-up histories, and what is recalled of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import torch
from hypothesis import strategies as st

from mindprint.types import Engagement
from mindprint_server.memory.episodic import (
    Embeddings,
    Recency,
    Retriever,
)
from mindprint_server.memory.word_index import bm25
from samples import engagement

TEXTS = st.text("ab é東.\n", max_size=12)
WALKS = ["a walk by the lake", "tax forms", "the lake at night", "a new tax", "ein Spaziergang", " ", "?!"]


class Events:
    """A past in a list, oldest first."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.all = [engagement(n).model_copy(update={"prompt": text}) for n, text in enumerate(texts)]
        self.asked: list[int] = []

    async def length(self) -> int:
        return len(self.all)

    async def newest(self, limit: int) -> Sequence[Engagement]:
        self.asked.append(limit)
        return self.all[max(0, len(self.all) - limit) :]

    async def word_scores(self, query: str, newest: Sequence[Engagement]) -> Sequence[float]:
        return bm25(query, [engagement.prompt for engagement in newest])


def recalled(recall: Retriever, texts: Sequence[str], query: str | None = None) -> list[int]:
    """Which of the texts, as their places."""
    return [int(e.id[1:]) for e in asyncio.run(recall.recall(Events(texts), query))]


def sent_to_the_model(recall: Embeddings) -> list[str]:
    """A list that from now on every text is added to that is embedded."""
    sent: list[str] = []
    embed = recall._embed

    def listening(texts: Sequence[str]) -> list[torch.Tensor]:
        sent.extend(texts)
        return embed(texts)

    recall.__dict__["_embed"] = listening
    return sent


def similar(model: Path, k: int = 2, considered: int = 100) -> Embeddings:
    return Embeddings(k, considered, Recency(k), model)
