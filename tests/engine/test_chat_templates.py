"""Chats through templates that cut a thinking, or take no system role, on a real engine of their own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from chat_templates import make_model
from mindprint_server.app import create_app
from mindprint_server.engine import Engine
from mindprint_server.engine.factory import create_engine
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services, close_services, open_services
from samples import engagement

ASK: Any = [{"role": "user", "content": "A walk by the lake?"}]
NO_RULES: Any = []
RULES: Any = [{"role": "developer", "content": "Be kind."}, {"role": "system", "content": "Be short."}]


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["qwen3", "gemma", "magistral"])
async def own_engine(
    request: pytest.FixtureRequest, engine_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Engine, Settings]]:
    folder = make_model(request.param, tmp_path_factory.mktemp(request.param))
    # Gemma's end of a turn is then named by the template alone.
    (folder / "generation_config.json").write_text(json.dumps({}))
    settings = engine_settings.model_copy(update={"model": str(folder)})
    engine = create_engine(settings)
    await engine.start(lambda _: None)
    yield engine, settings
    await engine.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def own_services(own_engine: tuple[Engine, Settings], tmp_path: Path) -> AsyncIterator[Services]:
    engine, settings = own_engine
    opened = await open_services(settings.model_copy(update={"data_dir": tmp_path / "server"}), engine=engine)
    if opened.chat._backend is None:
        pytest.skip("the engine cannot chat")
    await opened.store.engagements.add("ann", [engagement(n) for n in range(4)])
    yield opened
    await close_services(opened, keep_engine=True)


async def post(services: Services, **body: Any) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(services.settings, services=services))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        return await http.post("/v1/chat/completions", json={"messages": ASK, "max_tokens": 32} | body, timeout=120)


def read_by(services: Services, ids: Sequence[int]) -> str:
    """The text of what the engine read."""
    return str(services.engine.tokenizer._tokenizer.decode(list(ids)))  # type: ignore[attr-defined]


async def test_every_mode_answers(own_services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights may think in loops, so that the base model answers. What they go on after is always the same."""
    begun: list[str] = []
    engine, chat_format = own_services.engine, own_services.engine.tokenizer.chat_format
    stream = engine.stream

    def record(prompt_ids: Sequence[int], *rest: Any, **options: Any) -> Any:
        begun.append(read_by(own_services, prompt_ids))
        return stream(prompt_ids, *rest, **options)

    monkeypatch.setattr(engine, "stream", record)
    prefixes = own_services.settings.thinking_prefixes
    for model in ("base", "user/ann"):
        for mode in ("direct", "generic", "personal"):
            for rules in (NO_RULES, RULES):
                begun.clear()
                reply = await post(own_services, model=model, mode=mode, messages=[*rules, *ASK])
                assert reply.status_code == 200, reply.text
                made_by = reply.json()["mindprint"]
                assert made_by["mode"] == ("direct" if made_by["fallback"] == "direct" else mode)
                assert bool(begun) == (mode != "direct")
                for text in begun:
                    before, opened, thinking = text.partition(chat_format.tags[0])
                    assert opened, "the thinking begins behind the tag"
                    assert thinking.strip().startswith(prefixes.get(mode, "").strip())
                    assert not any(tag in before + thinking for tag in chat_format.tags)


async def test_answer_continues_the_whole_thinking(own_services: Services) -> None:
    """The engine reads the whole thinking, which the template would cut out of a message."""
    reply = await post(own_services, model="base", mode="generic", temperature=0, return_token_ids=True)
    read = read_by(own_services, reply.json()["prompt_token_ids"])
    thinking = reply.json()["choices"][0]["message"]["reasoning_content"]
    opens, closes = own_services.engine.tokenizer.chat_format.tags
    assert read.count(opens) == read.count(closes) == 1
    continued = read.partition(opens)[2].partition(closes)[0].strip()
    assert continued
    assert thinking.startswith(continued), "a thinking that was cut goes on after its last whole sentence"
    assert read.endswith("This user's answer:")


async def test_direct_chat_is_rendered_by_the_template_that_was_decided(own_services: Services) -> None:
    reply = await post(own_services, model="base", return_token_ids=True, messages=[*RULES, *ASK])
    tokenizer = own_services.engine.tokenizer
    wanted = tokenizer.encode(tokenizer.render([*RULES, *ASK]))
    assert reply.json()["prompt_token_ids"] == wanted


@pytest.mark.parametrize("mode", ["direct", "generic"])
async def test_turn_ends_with_the_token_that_is_learned(own_services: Services, mode: str) -> None:
    end = own_services.engine.tokenizer.chat_format.end_id
    reply = await post(own_services, model="base", mode=mode, logit_bias={str(end): 100})
    choice = reply.json()["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", "")
    usage = reply.json()["usage"]
    thinking = (usage["completion_tokens_details"] or {}).get("reasoning_tokens", 0)
    assert usage["completion_tokens"] - thinking == 1


async def test_callers_cannot_send_a_template_or_token_ids(own_services: Services) -> None:
    for field in (
        {"chat_template": "{{ 'x' }}"},
        {"chat_template_kwargs": {"chat_template": "{{ 'x' }}"}},
        {"kv_transfer_params": {"prompt_token_ids": [1, 2]}},
    ):
        reply = await post(own_services, model="base", **field)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "validation_error")


async def test_roles_that_the_template_refuses_are_the_callers_fault(own_services: Services) -> None:
    refuses = own_services.engine.tokenizer.chat_format.system == "fold"
    for mode in ("direct", "generic"):
        reply = await post(own_services, model="base", mode=mode, messages=[*ASK, *ASK])
        assert reply.status_code == (400 if refuses else 200), reply.text
