"""Retriever by recency and by similarity, over a past in a list; then as the memory uses it, over a store."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mindprint.types import Engagement
from mindprint_server.admission import AdmissionController
from mindprint_server.auto_mode.service import AutoModeSelector
from mindprint_server.chat.service import ChatService
from mindprint_server.context import ServerContext
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.exceptions import ServerError
from mindprint_server.memory import MemoryService
from mindprint_server.memory.episodic import (
    Bm25,
    Embeddings,
    Recency,
    Retriever,
    SimilarityRetriever,
    bm25,
    create_retriever,
    embedder,
    most_similar,
    words,
)
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings
from mindprint_server.store import Store
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


def recalled(recall: Retriever, texts: Sequence[str], query: str | None = None) -> list[int]:
    """Which of the texts, as their places."""
    return [int(e.id[1:]) for e in asyncio.run(recall.recall(Events(texts), query))]


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


def test_bm25_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    bm25("tea", ["tea", "coffee"])
    assert logging.getLogger("bm25s").level == logging.WARNING
    assert capfd.readouterr() == ("", "")


# --- embeddings ---


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


# --- chosen by setting, on a store ---


def test_settings_choose(model: Path) -> None:
    assert isinstance(create_retriever(Settings()), Bm25)
    assert create_retriever(Settings(recall="recency")) == Recency(4, 5)
    assert isinstance(create_retriever(Settings(recall="embeddings", embedding_model=model)), Embeddings)


@pytest.mark.parametrize(("folder", "why"), [(None, "it is not set"), ("/nowhere", "/nowhere has no config.json")])
def test_embeddings_without_a_model_are_refused(folder: Path | None, why: str) -> None:
    with pytest.raises(ValidationError, match=f"recall=embeddings needs the folder of a transformers model, but {why}"):
        Settings(recall="embeddings", embedding_model=folder)


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    opened = await Store.open(settings.url)
    yield opened
    await opened.close()


@pytest.mark.parametrize("way", ["recency", "bm25", "embeddings"])
@hypothesis.settings(max_examples=15, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@given(
    days=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    at=st.integers(0, 11),
    texts=st.lists(st.sampled_from(WALKS), min_size=12, max_size=12),
    k=st.integers(0, 4),
)
async def test_nothing_recalled_is_as_late_as_the_query(
    way: str,
    settings: Settings,
    store: Store,
    base_folder: Path,
    model: Path,
    days: list[int],
    at: int,
    texts: list[str],
    k: int,
) -> None:
    settings = settings.model_copy(
        update={"recall": way, "embedding_model": model, "recency_k": k, "reminder_engagements": 2}
    )
    memory = MemoryService(ServerContext(settings, store, FakeEngine(model_path=base_folder), Metrics()))
    user = uuid4().hex
    events = [engagement(n, day=day).model_copy(update={"prompt": texts[n]}) for n, day in enumerate(days)]
    await store.engagements.add(user, events)
    asked = events[at % len(events)]
    earlier = {event.id for event in events if event.occurred_at < asked.occurred_at}
    later = asked.occurred_at + timedelta(days=9)
    others = {event.id for event in events} - {asked.id}
    for before, known in ((asked.occurred_at, earlier), (later, others), (None, others)):
        for query in (asked.prompt, None):
            memories, _ = await memory.recall(user, before=before, not_id=asked.id, query=query)
            times = [episode.occurred_at for episode in memories.episodes]
            assert times == sorted(times)
            assert {episode.id for episode in memories.episodes} <= known
            assert {reminder.id for reminder in memories.reminders} <= known
            assert len(memories.reminders) == (min(2, len(known)) if query and query.strip() else 0)
            by_time = way == "recency" or not (query and query.strip())
            most = k + settings.recency_step - 1 if by_time and k else k
            assert min(k, len(known)) <= len(times) <= most


@pytest.mark.parametrize(("way", "episodes"), [("recency", 2), ("bm25", 0), ("embeddings", 0)])
async def test_memory_that_all_queries_share_has_episodes_only_if_no_query_chooses_them(
    way: str, episodes: int, settings: Settings, store: Store, base_folder: Path, model: Path
) -> None:
    settings = settings.model_copy(update={"recall": way, "embedding_model": model, "reminder_engagements": 1})
    memory = MemoryService(ServerContext(settings, store, FakeEngine(model_path=base_folder), Metrics()))
    await store.engagements.add("ann", [engagement(n) for n in range(2)])
    shared = await memory.recall_shared("ann")
    assert len(shared.episodes) == episodes
    assert (shared.profile, shared.reminders) == (None, ())


async def test_chat_recalls_what_the_last_message_is_like(settings: Settings, store: Store, base_folder: Path) -> None:
    settings = settings.model_copy(update={"recall": "bm25", "recency_k": 1})
    ctx = ServerContext(settings, store, FakeEngine(model_path=base_folder), Metrics())
    memory, admission = MemoryService(ctx), AdmissionController(1, 1)
    adapters: Any = None  # it resolves no model here
    chat = ChatService(
        ctx, memory=memory, adapters=adapters, auto=AutoModeSelector(ctx), admission=admission, backend=None
    )
    await store.engagements.add("ann", Events(WALKS).all)
    said = [{"role": "user", "content": "tax forms"}, {"role": "assistant", "content": "no"}]
    recalled = await chat._recall([*said, {"role": "user", "content": "A walk?"}], "user/ann", "direct")
    assert recalled is not None
    assert [episode.prompt for episode in recalled.episodes] == ["a walk by the lake"]
    with pytest.raises(ServerError, match="text content"):
        await chat._recall([{"role": "user", "content": ["A walk?"]}], "user/ann", "direct")


async def test_the_loop_stays_free_while_words_are_counted() -> None:
    recall: SimilarityRetriever = Bm25(3, 2000, Recency(3))
    past = Events([f"walk {n} by lake {n % 7}" for n in range(2000)])
    ticks = 0
    work = asyncio.create_task(recall.recall(past, "lake 3"))
    while not work.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert ticks > 1
    assert len(work.result()) == 3


STAND_IN = """
import os
print("jax on", os.environ.get("JAX_PLATFORMS"))
def top_k(values, k): return values, values
"""


def test_jax_stays_off_the_gpu_where_it_is_installed(tmp_path: Path) -> None:
    """bm25s runs JAX when it is imported, and JAX takes most of what is free of a GPU."""
    package = tmp_path / "jax"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "lax.py").write_text(STAND_IN)
    script = "from mindprint_server.memory.episodic import bm25; print(bm25('lake', ['the lake', 'a tax'])[1])"
    for environment, told in (({}, "jax on cpu"), ({"JAX_PLATFORMS": "cuda"}, "jax on cuda")):
        path = os.pathsep.join([str(tmp_path), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True, text=True, check=True, timeout=60, env={"PYTHONPATH": path, **environment},
        )  # fmt: skip
        assert done.stdout.splitlines() == [told, "0.0"]
