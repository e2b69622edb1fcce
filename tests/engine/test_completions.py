"""Raw prompts and the Responses API on a real engine that can chat, through the official client."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from mindprint_server.engine import Priority
from mindprint_server.wiring import Services
from proved import live_version

TEXT = "A walk by the lake"


def scores_of(answer: Any) -> list[Any]:
    """The log-probabilities of the tokens of a completion's first choice."""
    scores: list[Any] = answer.choices[0].logprobs.token_logprobs
    return scores


async def test_texts_and_token_ids_say_the_same(api: AsyncOpenAI, services: Services) -> None:
    ids = services.engine.tokenizer.encode(TEXT)
    wanted: dict[str, Any] = {"model": "base", "max_tokens": 6, "temperature": 0}
    one = await api.completions.create(prompt=TEXT, **wanted, extra_body={"add_special_tokens": False})
    assert one.usage is not None
    assert (one.object, one.model, one.usage.completion_tokens) == ("text_completion", "base", 6)
    assert one.usage.prompt_tokens == len(ids)
    prompts: list[tuple[Any, int]] = [(ids, 1), ([TEXT, TEXT], 2), ([ids, ids], 2)]
    for prompt, count in prompts:
        answer = await api.completions.create(prompt=prompt, **wanted, extra_body={"add_special_tokens": False})
        assert [choice.text for choice in answer.choices] == [one.choices[0].text] * count
    assert one.model_extra["mindprint"]["base_digest"].startswith("sha256:")


async def test_streaming_says_the_same(api: AsyncOpenAI) -> None:
    wanted: dict[str, Any] = {"model": "base", "prompt": TEXT, "max_tokens": 12, "temperature": 0}
    whole = await api.completions.create(**wanted)
    stream = await api.completions.create(**wanted, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    pieces = [choice.text for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == whole.choices[0].text
    assert len([piece for piece in pieces if piece]) > 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


async def test_a_prompt_with_two_answers_and_a_stop(api: AsyncOpenAI) -> None:
    answer = await api.completions.create(model="base", prompt=[TEXT, "Tea"], n=2, max_tokens=3, stop=["\n"])
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_the_log_likelihood_of_a_text_is_that_of_its_tokens_one_by_one(
    api: AsyncOpenAI, services: Services, max_tokens: int
) -> None:
    """What lm-eval's `local-completions` asks: token ids, `echo` and `logprobs`."""
    ids = services.engine.tokenizer.encode(TEXT)
    answer = await api.completions.create(
        model="base", prompt=[ids], max_tokens=max_tokens, echo=True, logprobs=1, temperature=0
    )
    (choice,) = answer.choices
    assert choice.text.startswith(TEXT)
    found = scores_of(answer)
    assert found[0] is None, "nothing is before the first token"
    assert len(found) == len(ids) + max_tokens
    for place in range(1, len(ids)):
        (wanted,) = await services.engine.next_logprobs(
            ids[:place], [ids[place]], adapter=None, priority=Priority.INTERACTIVE
        )
        assert found[place] == pytest.approx(wanted, abs=1e-3)
    assert "prompt_logprobs" not in (choice.model_extra or {})


async def test_log_likelihoods_of_many_prompts_beside_answers_leave_the_engine_alive(
    api: AsyncOpenAI, services: Services, adapters: list[Path], tmp_path: Path
) -> None:
    await live_version(services, adapters[0], tmp_path, 1)
    asked = [
        api.completions.create(
            model=("base", "user/ann")[n % 2], prompt=[f"{TEXT} {n}", TEXT * 3], max_tokens=1, echo=True, logprobs=2
        )
        for n in range(6)
    ]
    plain = [api.completions.create(model="base", prompt=[TEXT, "Tea"], max_tokens=8) for _ in range(4)]
    answers = await asyncio.gather(*asked, *plain)
    assert [len(answer.choices) for answer in answers] == [2] * 10
    assert not services.engine.dead.is_set()


async def test_a_version_s_adapter_applies_and_no_memory_goes_before_the_prompt(
    api: AsyncOpenAI, services: Services, adapters: list[Path], tmp_path: Path
) -> None:
    ann = "user/ann"
    version = await live_version(services, adapters[0], tmp_path, 1)
    ids = services.engine.tokenizer.encode(TEXT)
    wanted: dict[str, Any] = {"prompt": ids, "max_tokens": 1, "echo": True, "logprobs": 1}
    base = await api.completions.create(model="base", **wanted)
    raw = await api.completions.with_raw_response.create(model=ann, **wanted)
    own = raw.parse()
    named = await api.completions.create(model=f"{ann}@{version.version}", **wanted)
    assert (own.model, named.model) == (ann, f"{ann}@{version.version}")
    assert raw.headers["mindprint-model"] == f"{ann}@{version.version}"
    assert base.usage is not None
    assert own.usage is not None
    assert own.usage.prompt_tokens == base.usage.prompt_tokens == len(ids)
    of_base, of_own, of_named = (scores_of(answer)[1 : len(ids)] for answer in (base, own, named))
    assert of_own == pytest.approx(of_named, abs=1e-3)
    assert of_own != pytest.approx(of_base, abs=1e-3)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "gpt-4"}, 404, "model"),
        ({"model": "user/nobody"}, 404, None),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": [0, 10**6]}, 400, None),
        ({"prompt": [-1]}, 400, "prompt[0]"),
        ({"prompt": [1] * 5000}, 400, None),
        ({"suffix": "end"}, 400, "suffix"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"logprobs": 1000}, 400, "logprobs"),
        ({"logprobs": "x"}, 400, "logprobs"),
        ({"extra_body": {"mode": "personal"}}, 400, "mode"),
        ({"extra_body": {"prompt_embeds": "AAAA"}}, 400, "prompt_embeds"),
    ],
)
async def test_refusals(api: AsyncOpenAI, body: dict[str, Any], status: int, param: str | None) -> None:
    request: dict[str, Any] = {"model": "base", "prompt": TEXT, "max_tokens": 4} | body
    with pytest.raises(openai.APIStatusError) as error:
        await api.completions.create(**request)
    assert error.value.status_code == status
    assert error.value.type == "invalid_request_error"
    if param is not None:
        assert error.value.param == param


async def test_a_response_is_the_chat_s_answer(api: AsyncOpenAI, ann: str) -> None:
    chat = await api.chat.completions.create(
        model=ann, messages=[{"role": "user", "content": TEXT}], max_tokens=8, temperature=0
    )
    response = await api.responses.create(model=ann, input=TEXT, max_output_tokens=8, temperature=0)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage is not None
    assert chat.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == 8


@pytest.mark.parametrize("mode", ["direct", "personal"])
async def test_a_streamed_response_says_the_same(api: AsyncOpenAI, ann: str, mode: str) -> None:
    wanted: dict[str, Any] = {"model": ann, "input": TEXT, "max_output_tokens": 40, "temperature": 0}
    whole = await api.responses.create(**wanted, extra_body={"mode": mode})
    async with api.responses.stream(**wanted, extra_body={"mode": mode}) as stream:
        events = [event async for event in stream]
    kinds, last = [event.type for event in events], events[-1]
    assert last.type == "response.incomplete", "the answer was cut"
    final = last.response
    assert final.output_text == whole.output_text
    assert [item.type for item in final.output] == [item.type for item in whole.output]
    assert [item.type for item in final.output] == ["reasoning"] * (mode != "direct") + ["message"]
    assert kinds[0] == "response.created"
    assert kinds.count("response.output_text.delta") > 1
    assert final.usage is not None


async def test_what_a_response_would_need_a_store_for_is_refused(api: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="send the whole input") as error:
        await api.responses.create(model="base", input=TEXT, previous_response_id="resp_1")
    assert error.value.param == "previous_response_id"
