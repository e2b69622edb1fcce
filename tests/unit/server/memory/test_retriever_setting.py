"""Which retriever a setting chooses, on a store."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
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

from mindprint_server.auto_mode.service import AutoModeSelector
from mindprint_server.chat.request import read_request
from mindprint_server.chat.service import ChatService
from mindprint_server.context import ServerContext
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.memory import MemoryService, UserHistory
from mindprint_server.memory.episodic import (
    Bm25,
    Embeddings,
    Recency,
    create_retriever,
)
from mindprint_server.memory.word_index import words
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings
from mindprint_server.sharing.admission import AdmissionController
from mindprint_server.store import Store
from recalling import WALKS, Events
from samples import engagement


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


# --- chosen by setting, on a store ---


def test_settings_choose(model: Path) -> None:
    assert isinstance(create_retriever(Settings()), Bm25)
    assert create_retriever(Settings(recall="recency")) == Recency(4, 5)
    assert isinstance(create_retriever(Settings(recall="embeddings", embedding_model=model)), Embeddings)


@pytest.mark.parametrize(("folder", "why"), [(None, "it is not set"), ("/nowhere", "/nowhere has no config.json")])
def test_embeddings_without_a_model_are_refused(folder: Path | None, why: str) -> None:
    with pytest.raises(ValidationError, match=f"recall=embeddings needs the folder of a transformers model, but {why}"):
        Settings(recall="embeddings", embedding_model=folder)


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
    body = {"model": "user/ann", "messages": [*said, {"role": "user", "content": "A walk?"}]}
    recalled = await chat._recall(read_request(body, special=(), unsupported={}, max_answers=1))
    assert recalled is not None
    assert [episode.prompt for episode in recalled.episodes] == ["a walk by the lake"]


@pytest.mark.parametrize(("texts", "query", "is_inline"), [(20, "lake 3", True), (2000, "lake 3", False)])
async def test_the_words_of_a_long_history_are_split_in_a_thread(
    texts: int, query: str, is_inline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()

    def noted(text: str) -> list[str]:
        threads.add(threading.get_ident())
        return words(text)

    monkeypatch.setattr("mindprint_server.memory.history.words", noted)
    past = UserHistory(Events([f"walk {n} by lake {n % 7}" for n in range(texts)]).all, []).all()
    assert len(await Bm25(3, texts, Recency(3)).recall(past, query)) == 3
    assert (threading.get_ident() in threads) == is_inline
