"""Retriever by recency and by similarity, over a past in a list; then as the memory uses it, over a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mindprint_server.memory.episodic import (
    Bm25,
    Recency,
    embedder,
    most_similar,
)
from mindprint_server.memory.word_index import bm25, words
from mindprint_server.settings import Settings
from mindprint_server.store import Store
from recalling import TEXTS, WALKS, Events, recalled, sent_to_the_model, similar


@pytest.fixture(scope="module", params=["[CLS]", ""], ids=["bert", "without special tokens"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer with random weights that knows a few words."""
    folder = tmp_path_factory.mktemp("embeddings")
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *words("a walk by the lake tax forms new tea café 東 京")]
    tokenizer = Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if request.param:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=24,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        BertModel(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    opened = await Store.open(settings.url)
    yield opened
    await opened.close()


# --- recency ---


@given(k=st.integers(0, 6), step=st.integers(1, 6), length=st.integers(0, 40))
def test_the_window_holds_the_newest_and_is_bounded(k: int, step: int, length: int) -> None:
    window = recalled(Recency(k, step), ["a"] * length)
    assert window == list(range(length))[length - len(window) :]
    assert min(k, length) <= len(window) <= (k + step - 1 if k else 0)


@given(k=st.integers(1, 6), step=st.integers(1, 6), length=st.integers(0, 40))
def test_the_window_only_grows_at_its_end_for_a_step(k: int, step: int, length: int) -> None:
    first = length - length % step
    windows = [recalled(Recency(k, step), ["a"] * (first + more)) for more in range(step)]
    assert all(windows[more] == [*windows[more - 1], first + more - 1] for more in range(1, step))


def test_a_step_of_one_is_plain_recency() -> None:
    assert recalled(Recency(3), ["a"] * 8) == [5, 6, 7]


# --- similarity ---


@given(
    texts=st.lists(TEXTS, max_size=20),
    query=st.none() | TEXTS,
    k=st.integers(0, 5),
    considered=st.integers(1, 12),
)
def test_at_most_k_of_those_considered_oldest_first(
    texts: list[str], query: str | None, k: int, considered: int
) -> None:
    found = recalled(Bm25(k, considered, Recency(k)), texts, query)
    assert found == sorted(set(found))
    assert len(found) <= k
    if query is not None and query.strip():
        assert len(found) == min(k, considered, len(texts))
        assert all(place >= len(texts) - considered for place in found)


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), max_size=12), st.integers(0, 12))
def test_none_left_out_is_more_similar_or_as_similar_and_newer(scores: list[float], k: int) -> None:
    best = [int(e.id[1:]) for e in most_similar(Events(["a"] * len(scores)).all, scores, k)]
    left = set(range(len(scores))) - set(best)
    assert len(best) == min(k, len(scores))
    assert all((scores[out], out) < (scores[kept], kept) for out in left for kept in best)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("Which LAKE?", [0, 2]),
        ("the tax", [1, 3]),
        ("tax", [1, 3]),
        ("spaziergang", [4, 6]),  # one is similar, the newest fills up
        ("zebra", [5, 6]),
        ("?!", [5, 6]),
        ("  \n", [5, 6]),
        (None, [5, 6]),
    ],
)
def test_bm25_finds_what_shares_words(query: str | None, found: list[int]) -> None:
    assert recalled(Bm25(2, 100, Recency(2)), WALKS, query) == found


def test_equal_prompts_tie_to_the_newer() -> None:
    texts = ["tea or coffee", "a walk", "tea or coffee", "tea or coffee", "a walk", "a run"]
    assert recalled(Bm25(2, 100, Recency(2)), texts, "tea or coffee") == [2, 3]


def test_a_history_without_words_or_without_events() -> None:
    assert recalled(Bm25(2, 100, Recency(2)), ["...", "", "?", "!"], "tea") == [2, 3]
    assert recalled(Bm25(2, 100, Recency(2)), [], "tea") == []


def test_words_of_any_script() -> None:
    assert words("Straße, CAFÉ & 3.5 cafe\u0301!") == ["strasse", "café", "3", "5", "café"]
    assert words("東京タワーへ行くTokyo ДОМ") == [*"東京タワーへ行く", "tokyo", "дом"]
    assert bm25("京都の庭", ["東京の塔", "京都は雨", "a garden"])[1] > 0
    assert words("?! \n") == []


def test_only_the_newest_are_considered() -> None:
    past = Events(["tea", *["a walk"] * 9])
    found = asyncio.run(Bm25(2, 5, Recency(2)).recall(past, "tea"))
    assert [e.id for e in found] == ["e008", "e009"]
    assert past.asked == [5]


# --- embeddings ---


def test_the_same_words_are_most_similar(model: Path) -> None:
    texts = ["tax forms", "a walk by the lake", "new tea", "A WALK by the lake", "café 東 京", "tax"]
    assert recalled(similar(model), texts, "a walk by the lake") == [1, 3]
    assert recalled(similar(model, k=1), texts, "a walk by the lake") == [3]
    assert recalled(similar(model, k=1), texts, "café 東 京") == [4]


def test_embeddings_of_odd_texts(model: Path) -> None:
    odd = ["", " \n", "?", "zebra", "tea " * 500, "café 東京 😀", "tax"]
    vectors = torch.stack(embedder(model)(odd))
    assert vectors.isfinite().all()
    lengths = vectors.norm(dim=1)
    assert ((lengths - 1).abs().lt(1e-5) | lengths.eq(0)).all()
    assert len(recalled(similar(model), odd, "?!")) == 2
    assert recalled(similar(model), odd, None) == recalled(similar(model), odd, " ") == [5, 6]
    assert recalled(similar(model), [], "tea") == []


def test_company_does_not_change_an_embedding(model: Path) -> None:
    embed = embedder(model)
    texts = ["tea", "a walk by the lake", "", *["new tax forms by the lake"] * 40]
    for text, vector in zip(texts, embed(texts), strict=True):
        torch.testing.assert_close(vector, embed([text])[0], atol=1e-5, rtol=0)


def test_the_embedding_is_the_mean_over_tokens(model: Path) -> None:
    text = "a walk by the lake"
    ids = torch.tensor([PreTrainedTokenizerFast.from_pretrained(model)(text)["input_ids"]])
    bert = BertModel.from_pretrained(model, dtype=torch.float32).eval()
    with torch.inference_mode():
        mean = bert(input_ids=ids).last_hidden_state[0].mean(0)
    torch.testing.assert_close(embedder(model)([text])[0], mean / mean.norm())


def test_a_text_is_embedded_once_while_it_is_kept(model: Path) -> None:
    recall = similar(model, considered=3)
    sent = sent_to_the_model(recall)
    texts = ["tax forms", "a walk", "a walk", "new tea"]
    first = recalled(recall, texts, "tea")
    assert sorted(sent) == ["a walk", "new tea", "tea"]
    assert recalled(recall, texts, "tea") == first
    assert len(sent) == 3
    recall._max_cached = 1
    recalled(recall, texts, "tea")
    assert len(recall._cache) == 1
    assert recalled(recall, texts, "tea") == first


def test_recalls_at_once_share_the_work(model: Path) -> None:
    recall = similar(model)
    sent = sent_to_the_model(recall)

    async def many() -> None:
        past = Events(["tax forms", "a walk", "new tea"])
        await asyncio.gather(*(recall.recall(past, "tea") for _ in range(5)))

    asyncio.run(many())
    assert len(sent) == 4
