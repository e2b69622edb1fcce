"""OpenAI's routes on a real engine that can chat, through the official client."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from mindprint.types import BatchRequest
from mindprint_server.wiring import Services
from proved import live_version
from samples import engagement

ASK: Any = [{"role": "user", "content": "A walk by the lake?"}]


async def test_models_list_the_base(api: AsyncOpenAI) -> None:
    assert [model.id async for model in api.models.list()] == ["base"]


async def test_a_whole_answer(api: AsyncOpenAI) -> None:
    raw = await api.chat.completions.with_raw_response.create(model="base", messages=ASK, max_tokens=8, seed=1)
    answer = raw.parse()
    assert answer.model == "base"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert raw.headers["mindprint-model"] == "base"
    made_by = answer.model_extra["mindprint"]  # type: ignore[index]
    assert made_by["mode"] == "direct"
    assert made_by["base_digest"].startswith("sha256:")


async def test_a_user_s_memory_is_in_the_prompt(api: AsyncOpenAI, ann: str) -> None:
    plain = await api.chat.completions.create(model="base", messages=ASK, max_tokens=4)
    own = await api.chat.completions.create(model=ann, messages=ASK, max_tokens=4)
    assert plain.usage is not None
    assert own.usage is not None
    assert own.usage.prompt_tokens > plain.usage.prompt_tokens + 100


async def test_streaming_says_the_same(api: AsyncOpenAI, ann: str) -> None:
    whole = await api.chat.completions.create(model=ann, messages=ASK, max_tokens=12, temperature=0)
    pieces, made_by = [], None
    stream = await api.chat.completions.create(model=ann, messages=ASK, max_tokens=12, temperature=0, stream=True)
    async for chunk in stream:
        made_by = made_by or (chunk.model_extra or {}).get("mindprint")
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1
    assert made_by is not None
    assert made_by["model"] == "base"


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_comes_apart_from_the_answer(api: AsyncOpenAI, ann: str, stream: bool) -> None:
    extra = {"mode": "personal"}
    if stream:
        chunks = await api.chat.completions.create(
            model=ann, messages=ASK, max_tokens=40, stream=True, extra_body=extra
        )
        deltas = [choice.delta async for chunk in chunks for choice in chunk.choices]
        thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        text = "".join(delta.content or "" for delta in deltas)
    else:
        answer = await api.chat.completions.create(model=ann, messages=ASK, max_tokens=40, extra_body=extra)
        thought = answer.choices[0].message.reasoning_content  # type: ignore[attr-defined]
        text = answer.choices[0].message.content or ""
    assert thought.startswith("What this user has shown:")
    assert "<think>" not in text


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0},
        {"temperature": 1.0, "seed": 3},
        {"temperature": 1.0, "seed": 3, "n": 2},
        {"temperature": 0, "max_tokens": 3},
        {"temperature": 0, "logprobs": True, "top_logprobs": 2},
        {"temperature": 0, "response_format": {"type": "json_object"}},
    ],
)
async def test_streamed_answer_with_thinking_equals_the_whole_one(
    api: AsyncOpenAI, ann: str, more: dict[str, Any]
) -> None:
    request: dict[str, Any] = {"model": ann, "messages": ASK, "max_completion_tokens": 40, **more}
    if "max_tokens" in more:
        del request["max_completion_tokens"]
    extra = {"mode": "personal"}
    whole = await api.chat.completions.create(**request, extra_body=extra)
    options: Any = {"include_usage": True}
    stream = await api.chat.completions.create(**request, stream=True, stream_options=options, extra_body=extra)
    chunks = [chunk async for chunk in stream]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.model for chunk in chunks} == {whole.model} == {ann}
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 40 * len(whole.choices)
    assert whole.usage.completion_tokens_details is not None
    assert whole.usage.completion_tokens_details.reasoning_tokens
    for choice in whole.choices:
        deltas = [one.delta for chunk in chunks for one in chunk.choices if one.index == choice.index]
        for field in ("reasoning", "reasoning_content", "content", "role"):
            said = "".join(getattr(delta, field, None) or "" for delta in deltas)
            assert said == getattr(choice.message, field), field
        ends = [one.finish_reason for chunk in chunks for one in chunk.choices if one.index == choice.index]
        assert [end for end in ends if end] == [choice.finish_reason]


async def test_tools_without_a_parser_are_refused_before_the_thinking(
    api: AsyncOpenAI, services: Services, ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_asked(*_: Any, **__: Any) -> Any:
        raise AssertionError("it thinks")

    monkeypatch.setattr(services.engine, "stream", not_asked)
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    for extra in ({"mode": "personal", "tools": tools}, {"mode": "personal", "temperature": -3}):
        with pytest.raises(openai.BadRequestError) as error:
            await api.chat.completions.create(model=ann, messages=ASK, max_tokens=4, extra_body=extra)
        assert "tools" not in extra or "--engine-arg tool_call_parser=…" in error.value.message


async def test_turns_of_tools_reach_a_user_s_model(api: AsyncOpenAI, ann: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "lake"}'}}
    turns: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "sunny"}]},
    ]
    for mode in ("direct", "personal"):
        answer = await api.chat.completions.create(
            model=ann, messages=turns, max_tokens=40, extra_body={"mode": mode, "tool_choice": "none"}
        )
        assert answer.choices[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "gpt-4"}, 404, "model_not_found"),
        ({"model": "user/../etc"}, 404, "model_not_found"),
        ({"model": "user/nobody"}, 404, "user_not_found"),
        ({"model": "user/ann@7"}, 404, "version_not_found"),
        ({"messages": []}, 400, "validation_error"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "bad_request"),
        ({"extra_body": {"mode": "loud"}}, 400, "validation_error"),
        ({"extra_body": {"prompt_logprobs": 1}}, 400, "validation_error"),
        ({"max_tokens": -1}, 400, "bad_request"),
        ({"temperature": -3}, 400, "bad_request"),
        ({"model": "user/ann", "messages": [{"role": "user", "content": None}]}, 400, "validation_error"),
    ],
)
async def test_refusals(api: AsyncOpenAI, ann: str, body: dict[str, Any], status: int, code: str) -> None:
    request = {"model": "base", "messages": ASK, "max_tokens": 4} | body
    with pytest.raises(openai.APIStatusError) as error:
        await api.chat.completions.create(**request)
    assert (error.value.status_code, error.value.code) == (status, code)


def _schema(**schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


@pytest.mark.parametrize(
    "body",
    [
        {"cache_salt": ""},
        {"cache_salt": 3},
        _schema(type="nonsense"),
        _schema(type="string", pattern="("),
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "structural_tag", "structures": [], "triggers": ["x"]}},
        {"structured_outputs": {}},
        {"structured_outputs": {"structural_tag": "{"}},
        {"tools": []},
        {"tool_choice": "required"},
        {"stream_options": {"include_usage": True}},
        {"repetition_detection": {"max_pattern_size": 9, "min_count": 1}},
        {"messages": [{"role": "assistant", "tool_calls": 3}]},
        {"top_k": 10**30},
        {"top_k": 2**40},
        {"top_k": "4000000000"},
        {"kv_transfer_params": {"x": [2**64]}},
        {"use_beam_search": True, "n": 2, "length_penalty": 1e300},
        {"use_beam_search": True, "n": 2, "length_penalty": -1e300},
        {"n": "3"},
        {"n": 9},
        {"best_of": 16384},
        {"stop": ["x"] * 65},
    ],
)
async def test_odd_field_is_refused_and_the_engine_lives(
    api: AsyncOpenAI, services: Services, body: dict[str, Any]
) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        await api.chat.completions.create(model="base", messages=ASK, max_tokens=4, extra_body=body)
    assert error.value.status_code == 400, error.value
    assert error.value.code in ("validation_error", "bad_request")
    assert not services.engine.dead.is_set()


@pytest.mark.parametrize(("wanted", "mode"), [(-99.0, "personal"), (99.0, "direct")])
async def test_auto_goes_by_the_gains_that_a_batch_measured(
    api: AsyncOpenAI, services: Services, monkeypatch: pytest.MonkeyPatch, wanted: float, mode: str
) -> None:
    """What random weights gain by thinking is anyone's guess, so that the bound decides."""
    monkeypatch.setattr(services.auto, "_thresholds", replace(services.auto._thresholds, min_gain=wanted))
    await services.store.engagements.add("ann", [engagement(n, choices=[]) for n in range(18)])
    batch, _ = await services.batches.submit(BatchRequest())
    async for state in services.batches.watch(batch.id):
        batch = state
    assert batch.state == "done"
    known = (await services.auto.explain("ann")).open
    assert (known.mode, known.items) == (mode, 17), "nothing is known before the first one"

    extra = {"mode": "auto"}
    answer = await api.chat.completions.create(model="user/ann", messages=ASK, max_tokens=6, extra_body=extra)
    made_by = answer.model_extra["mindprint"]  # type: ignore[index]
    assert (made_by["mode"], made_by["mode_reason"]) == (mode, known.why)
    thought = getattr(answer.choices[0].message, "reasoning_content", None)
    assert (thought is not None) == (mode == "personal")


async def test_a_profile_is_written_by_the_model(services: Services, ann: str) -> None:
    profile = await services.profiles.renew("ann")
    assert profile.covers == 4
    assert profile.text
    memory, version = await services.memory.recall("ann", before=None)
    assert (memory.profile, version) == (profile.text, profile.version)


async def test_answers_follow_the_live_version(
    api: AsyncOpenAI, services: Services, adapters: list[Path], tmp_path: Path
) -> None:
    """Two versions in turn: each is proved, answers under its name, and a stream that began on the first ends on it."""

    async def text(model: str) -> tuple[str, str | None]:
        answer = await api.chat.completions.create(model=model, messages=ASK, max_tokens=16, temperature=0)
        assert answer.model == model, "the name that was asked"
        return answer.model_extra["mindprint"]["model"], answer.choices[0].message.content  # type: ignore[index]

    first = await live_version(services, adapters[0], tmp_path, 1)
    assert first.parity is not None
    assert first.parity.passed
    assert first.parity.against_trainer < 0.02
    on_first = await text("user/ann")
    assert on_first[0] == "user/ann@1"

    crowd = await asyncio.gather(*(text(model) for model in ["user/ann", "base"] * 8))
    assert {answer for answer in crowd if answer[0] != "base"} == {on_first}

    stream = await api.chat.completions.create(
        model="user/ann", messages=ASK, max_tokens=200, temperature=0, stream=True
    )
    begun = [await anext(aiter(stream)) for _ in range(2)]
    second = await live_version(services, adapters[1], tmp_path, 2)
    assert second.version == 2
    on_second = await text("user/ann")
    assert on_second[0] == "user/ann@2"
    assert on_second[1] != on_first[1]

    rest = [chunk async for chunk in stream]
    assert {chunk.model for chunk in [*begun, *rest]} == {"user/ann"}
    streamed = "".join(choice.delta.content or "" for chunk in [*begun, *rest] for choice in chunk.choices)
    assert streamed.startswith(str(on_first[1]))

    assert await text("user/ann@1") == on_first
    assert {model.id async for model in api.models.list()} == {"base", "user/ann", "user/ann@1", "user/ann@2"}
    await services.adapters.rollback("user/ann")
    assert await text("user/ann") == on_first
    assert services.adapters.residency.loaded() == ["user/ann@1"]
    await services.adapters.promote("user/ann", None)
    assert (await text("user/ann"))[0] == "base"
    assert services.adapters.residency.loaded() == []
