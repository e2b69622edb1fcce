"""The index of words against bm25s, which makes an index of each stretch alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import bm25s
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.memory import UserHistory
from mindprint_server.memory.episodic import Bm25, Recency
from mindprint_server.memory.history import HistoryPrefix
from mindprint_server.memory.word_index import WordIndex, words
from recalling import Events

TEXTS = st.lists(st.sampled_from(["tea", "Tea", "lake", "walk", "tax", "東京", "é", "?"]), max_size=9).map(" ".join)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import sets it to DEBUG


def reference(query: str, texts: Sequence[str]) -> list[float]:
    """The scores of bm25s."""
    asked, corpus = words(query), [words(text) for text in texts]
    if not asked or not any(corpus):  # bm25s cannot index an empty corpus
        return [0.0] * len(texts)
    index = bm25s.BM25(backend="numpy")
    index.index(corpus, show_progress=False)
    scores: list[float] = index.get_scores(asked).tolist()
    return scores


@given(texts=st.lists(TEXTS, min_size=1, max_size=30), query=TEXTS, data=st.data())
def test_scores_of_any_stretch_are_those_of_bm25s_to_the_last_bit(
    texts: list[str], query: str, data: st.DataObject
) -> None:
    index = WordIndex()
    first = data.draw(st.integers(0, len(texts)))
    for some in (texts[:first], texts[first:]):
        index.extend(map(words, some))
    start = data.draw(st.integers(0, len(texts) - 1))
    end = data.draw(st.integers(start + 1, len(texts)))
    skipped = data.draw(st.none() | st.integers(start, end - 1))
    scores = index.scores(query, start, end, skipped).tolist()
    kept = [place for place in range(start, end) if place != skipped]
    assert [scores[place - start] for place in kept] == reference(query, [texts[place] for place in kept])


@given(texts=st.lists(TEXTS, max_size=30), query=TEXTS, k=st.integers(0, 5), data=st.data())
async def test_a_history_that_grows_recalls_what_an_index_of_its_own_would(
    texts: list[str], query: str, k: int, data: st.DataObject
) -> None:
    """Each length that a history ever had is asked, as the questions of a batch and of growing histories do."""
    events = Events(texts).all
    considered = data.draw(st.integers(1, 12))
    excluded = data.draw(st.none() | st.integers(0, max(0, len(texts) - 1)))
    retriever = Bm25(k, considered, Recency(k))
    grown = UserHistory([], [])
    for length in range(len(texts) + 1):
        grown = UserHistory(events[:length], [], 0, grown.index)
        left_out = excluded if excluded is not None and excluded < length else None
        found = await retriever.recall(HistoryPrefix(grown, length, left_out), query)
        past = [event for place, event in enumerate(events[:length]) if place != left_out][-considered:]
        scores = reference(query, [event.prompt for event in past])
        best = sorted(range(len(past)), key=lambda place: (scores[place], place))[max(0, len(past) - k) :]
        if query.strip():
            assert list(found) == ([past[place] for place in sorted(best)] if k else [])
