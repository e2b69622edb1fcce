"""An index of texts by their words that grows at its end, and BM25 scores of any stretch of it.

A query may only see the engagements before its time, so each query has a corpus of its own: a stretch of one user's
texts. The index keeps where each word occurs. Document frequencies and lengths are counted for the stretch when it is
scored. So the scores are those of an index made of the stretch alone.
"""

from __future__ import annotations

import math
import re
import unicodedata
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

K1 = 1.5
B = 0.75
"""Parameters of BM25; those of most implementations."""

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def words(text: str) -> list[str]:
    """Return lower-cased words; each Chinese or Japanese character is one, since these scripts have no spaces."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class WordIndex:
    """The words of texts, in the order of the texts. One thread may extend it while others score what is there."""

    def __init__(self) -> None:
        self._lengths = array("d")
        """Words of each text."""
        self._words_before = array("q", [0])
        """Words of all texts before each text, and of all texts."""
        self._postings: dict[str, tuple[array[int], array[float]]] = {}
        """Of each word, the places of the texts that have it, in order, and how often each has it."""

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._lengths)

    def extend(self, texts: Iterable[Sequence[str]]) -> None:
        """Add texts at the end, each as its `words`."""
        for found in texts:
            place = len(self._lengths)
            for word, count in Counter(found).items():
                places, counts = self._postings.setdefault(word, (array("q"), array("d")))
                places.append(place)
                counts.append(count)
            self._words_before.append(self._words_before[-1] + len(found))
            self._lengths.append(len(found))

    def scores(self, query: str, start: int, end: int, skipped: int | None = None) -> NDArray[np.float32]:
        """Return the BM25 score of each text of a stretch, Lucene's variant; 0 if it has no word of the query.

        The numbers are rounded as bm25s rounds them: each word's share to 32 bits, added in the order of the query.

        Args:
            query: The query. A word that it repeats counts as often.
            start: Place of the first text.
            end: Place after the last text.
            skipped: Place of a text that is no part of the corpus. Its score is -inf.
        """
        scores = np.zeros(end - start, np.float32)
        total = self._words_before[end] - self._words_before[start]
        count = end - start
        if skipped is not None:
            total -= int(self._lengths[skipped])
            count -= 1
        if total:
            shares: dict[str, tuple[NDArray[np.int64], NDArray[np.float32]] | None] = {}
            for word in words(query):
                if word not in shares:
                    shares[word] = self._shares(word, start, end, skipped, count, total / count)
                if (share := shares[word]) is not None:
                    scores[share[0]] += share[1]
        if skipped is not None:
            scores[skipped - start] = -np.inf
        return scores

    def _shares(
        self, word: str, start: int, end: int, skipped: int | None, count: int, mean_length: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Return where in a stretch a word occurs, from its start, and the word's share in the scores there."""
        if (known := self._postings.get(word)) is None:
            return None
        low, high = bisect_left(known[0], start), bisect_left(known[0], end)
        # Copies: an array cannot grow while a view of it exists.
        places, counts = np.array(known[0][low:high], np.int64), np.array(known[1][low:high])
        if skipped is not None:
            counts, places = counts[places != skipped], places[places != skipped]
        if not len(places):
            return None
        frequency = len(places)
        weight = np.float32(math.log(1 + (count - frequency + 0.5) / (frequency + 0.5)))
        lengths = np.array([self._lengths[place] for place in places.tolist()])
        shares = np.float64(weight) * (counts / (K1 * ((1 - B) + B * lengths / mean_length) + counts))
        return places - start, shares.astype(np.float32)


def bm25(query: str, texts: Sequence[str]) -> list[float]:
    """Return the BM25 score of each text, by its words."""
    index = WordIndex()
    index.extend(map(words, texts))
    scores: list[float] = index.scores(query, 0, len(texts)).tolist()
    return scores
