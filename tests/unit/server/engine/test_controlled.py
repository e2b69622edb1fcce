"""Controlled questions: whose memory the prompt shows, thinking that is given, choices that are not shown."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mindprint.types import Trace, TraceRequest
from mindprint_server.engine import Sampling
from mindprint_server.engine.types import FinishReason
from mindprint_server.exceptions import Invalid, ServerError
from mindprint_server.settings import Settings
from mindprint_server.store import RecordNotFound
from mindprint_server.wiring import Services
from samples import START, engagement
from scripted import Scripted, serving

Open = Callable[..., Awaitable[Services]]
CHOICES = ["yes", "no"]
THOUGHT = "What this user has shown: they took the quiet walk by the lake"
OPEN_TARGET, OPEN_TOKENS = "Gladly, at noon.", 5


async def good(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
    return " they took the quiet walk by the lake", "stop"


def even(before: str, token: str) -> float:
    return -0.5


@pytest.fixture
async def serve(settings: Settings, base_folder: Path) -> AsyncIterator[Open]:
    """Opens services on an engine, with some settings changed; ann and bob have a history each."""
    async with AsyncExitStack() as stack:

        async def open(engine: Scripted | None = None, **changes: Any) -> Services:
            engine = engine or Scripted()
            engine.read_model_of(base_folder)
            services = await stack.enter_async_context(serving(settings.model_copy(update=changes), engine))
            for user in ("ann", "bob"):
                rows = [engagement(n).model_copy(update={"reason": f"because of {user}"}) for n in range(8)]
                await services.store.engagements.add(user, rows)
            return services

        yield open


async def ask(services: Services, **request: Any) -> Trace:
    asked = {"user_id": "ann", "query": "A walk?", "choices": CHOICES, "mode": "direct"} | request
    return await services.traces.create(TraceRequest.model_validate(asked))


# --- memory ---


@pytest.mark.parametrize(
    ("memory", "shown"), [("own", {"ann"}), ("none", set()), ("user/bob", {"bob"}), ("user/ann", {"ann"})]
)
async def test_whose_memory_the_prompt_shows(serve: Open, memory: str, shown: set[str]) -> None:
    trace = await ask(await serve(), memory=memory)
    assert {user for user in ("ann", "bob") if f"because of {user}" in trace.prompt} == shown
    assert ("Nothing is known about this user yet." in trace.prompt) == (not shown)
    assert (trace.user_id, trace.provenance.sampling["memory"]) == ("ann", memory)


@pytest.mark.parametrize("memory", ["own", "user/bob"])
async def test_nobodys_memory_is_later_than_the_query(serve: Open, memory: str) -> None:
    services = await serve(recall="recency", recency_k=3)
    trace = await ask(services, memory=memory, asked_at=START + timedelta(days=5))
    assert [n for n in range(8) if f"walk number {n}?" in trace.prompt] == [2, 3, 4]


async def test_anothers_profile_comes_with_the_memory(serve: Open) -> None:
    services = await serve()
    profile = await services.profiles.renew("bob")
    mine, others = await ask(services), await ask(services, memory="user/bob")
    assert (mine.provenance.profile_version, others.provenance.profile_version) == (None, 1)
    assert profile.text in others.prompt


@pytest.mark.parametrize("memory", ["own", "user/bob"])
async def test_anothers_memory_is_chosen_by_the_query_as_ones_own(serve: Open, memory: str) -> None:
    services = await serve(recall="bm25", recency_k=1)
    trace = await ask(services, memory=memory, query="Would you take walk number 3?")
    assert [n for n in range(8) if f"walk number {n}?" in trace.prompt.split("[user]")[0]] == [3]


async def test_a_user_who_is_not_there(serve: Open) -> None:
    services = await serve()
    with pytest.raises(ServerError) as error:
        await ask(services, memory="user/nobody")
    assert (type(error.value), error.value.code, error.value.param) == (RecordNotFound, "user_not_found", "memory")
    for memory in ("own", "none", "user/ann"):
        with pytest.raises(RecordNotFound, match="user 'nobody'"):
            await ask(services, user_id="nobody", memory=memory)


# --- thinking ---


async def test_given_thinking_is_scored_as_generated_thinking_is(serve: Open) -> None:
    engine = Scripted(thinks=good)
    services = await serve(engine)
    written = await ask(services, mode="personal", target="no")
    engine.begun.clear()
    given = await ask(services, mode="personal", target="no", thinking=written.thinking)
    assert not engine.begun.is_set(), "nothing is written"
    assert given.choice_logprobs == written.choice_logprobs
    same = ("thinking", "answer", "verdict", "reason", "scores", "finish", "prompt")
    assert [getattr(given, name) for name in same] == [getattr(written, name) for name in same]
    assert given.thinking == THOUGHT
    assert given.thinking_tokens == len(engine.tokenizer.encode(THOUGHT))
    lead = services.settings.answer_prefix
    assert given.provenance.sampling == {"thinking": "imported", "answer_prefix": lead, "memory": "own"}
    assert {"temperature", "thinking_prefix", "memory"} <= written.provenance.sampling.keys()
    assert "thinking" not in written.provenance.sampling


async def test_an_open_question_is_answered_after_given_thinking(serve: Open) -> None:
    engine = Scripted(even)
    trace = await ask(await serve(engine), choices=None, mode="generic", thinking=THOUGHT, target=OPEN_TARGET)
    assert trace.answer
    assert trace.scores == pytest.approx({"target_logprob": -0.5 * OPEN_TOKENS, "target_tokens": OPEN_TOKENS})
    assert any(before.endswith(f"<think>\n{THOUGHT}\n</think>\nThis user's answer:") for before, _ in engine.asked)


@pytest.mark.parametrize(
    ("thinking", "reason"),
    [
        (THOUGHT, None),
        ("", "empty"),
        (" \n", "empty"),
        ("What this user has shown: too little", "empty"),
        ("on and on and on and on " * 4, "loop"),
        ("they like walks so the given answer is yes", "leak"),
    ],
)
async def test_what_is_wrong_with_given_thinking_is_said_and_it_is_answered(
    serve: Open, thinking: str, reason: str | None
) -> None:
    trace = await ask(await serve(), mode="personal", thinking=thinking, target="yes")
    assert trace.reason == reason or (reason is None and trace.reason == "wrong_answer")
    assert (trace.answer in CHOICES, trace.thinking) == (True, thinking.strip())


async def test_given_thinking_cannot_end_itself_or_the_turn(serve: Open) -> None:
    engine = Scripted()
    services = await serve(engine)
    trace = await ask(services, mode="personal", thinking="they walk</think> <|<think>end|> by the\x07 lake, often")
    assert trace.thinking == r"they walk  by the\x07 lake, often"
    assert all(before.count("</think>") == 1 and "<|end|>" not in before for before, _ in engine.asked)


async def test_long_given_thinking_shortens_the_memory(serve: Open) -> None:
    services = await serve(Scripted(max_model_len=600), recency_k=8, recency_step=1)
    short = await ask(services, mode="personal", thinking=THOUGHT)
    long = await ask(services, mode="personal", thinking="word " * 300)
    assert short.provenance.memory_dropped < long.provenance.memory_dropped
    with pytest.raises(ServerError) as error:
        await ask(services, mode="personal", thinking="word " * 600)
    assert (type(error.value), error.value.code, error.value.param) == (Invalid, "prompt_too_long", "thinking")


# --- choices ---


async def test_choices_that_are_not_shown_are_scored(serve: Open) -> None:
    services = await serve()
    shown, hidden = await ask(services), await ask(services, show_choices=False)
    assert "Choices: yes / no" in shown.prompt
    assert "Choices:" not in hidden.prompt
    assert list(hidden.choice_logprobs or {}) == CHOICES
    assert hidden.provenance.sampling["show_choices"] is False
    assert "show_choices" not in shown.provenance.sampling


# --- how likely the real answer is ---


@pytest.mark.parametrize("mode", ["direct", "generic", "personal"])
async def test_the_real_answer_to_an_open_question_is_scored(serve: Open, mode: str) -> None:
    services = await serve(Scripted(even, good))
    trace = await ask(services, choices=None, mode=mode, target=OPEN_TARGET)
    assert trace.scores == pytest.approx({"target_logprob": -0.5 * OPEN_TOKENS, "target_tokens": OPEN_TOKENS})
    assert (trace.verdict, trace.choice_logprobs) == ("unjudged", None)
    assert trace.answer


async def test_of_a_long_open_answer_the_beginning_is_scored(serve: Open) -> None:
    services = await serve(Scripted(even), score_tokens=3)
    trace = await ask(services, choices=None, target=OPEN_TARGET)
    assert trace.scores == pytest.approx({"target_logprob": -1.5, "target_tokens": 3})


@pytest.mark.parametrize("target", [None, "\x01 <think>"])
async def test_where_no_real_answer_can_be_read_there_is_no_score(serve: Open, target: str | None) -> None:
    trace = await ask(await serve(Scripted(even)), choices=None, target=target)
    assert trace.scores == {}


async def test_a_closed_answer_has_its_length_too(serve: Open) -> None:
    services = await serve(Scripted(even))
    trace = await ask(services, choices=["yes of course", "no"], target="yes of course")
    assert trace.choice_logprobs is not None
    assert trace.scores == {"target_logprob": trace.choice_logprobs["yes of course"], "target_tokens": 3}
