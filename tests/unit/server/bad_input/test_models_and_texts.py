"""Odd models and odd texts end in a trace or in a counted reason, on the fake engine."""

from __future__ import annotations

import math

import pytest

from mindprint_server.engine import Sampling
from mindprint_server.engine.types import FinishReason
from odd_batches import NO_BOUNDS, Open, about, asked, good, likes_yes, numbers
from scripted import Scripted


async def test_thinking_that_never_ends_is_closed_by_force_and_judged(serve: Open) -> None:
    async def endless(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
        return "".join(f" w{next(numbers)}" for _ in range(sampling.max_tokens)), "length"

    engine = Scripted(likes_yes, endless)
    services = await serve(engine, **NO_BOUNDS)
    batch, [trace] = await about(services, asked("A walk?", "yes", ["yes", "no"]), max_thinking_tokens=16)
    assert (trace.finish, trace.thinking_tokens, trace.verdict, trace.answer) == ("length", 16, "accepted", "yes")
    assert len(trace.thinking.split()) == 5 + 16, "the thinking_prefix's and all that was written"
    closed = f"<think>\n{trace.thinking}\n</think>\nThis user's answer:"
    assert any(before.endswith(closed) for before, _ in engine.asked)
    assert batch.generated_tokens == 32, "of two engagements"


async def test_thinking_cut_in_a_sentence_is_judged_to_the_end_of_the_one_before(serve: Open) -> None:
    async def cut(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
        return f" walk number {next(numbers)} by the lake, twice. And then on the", "length"

    services = await serve(Scripted(likes_yes, cut), **NO_BOUNDS)
    _, [trace] = await about(services, asked("A walk?", "yes", ["yes", "no"]))
    assert trace.thinking.endswith("by the lake, twice.")
    assert trace.verdict == "accepted"


async def test_an_empty_thinking_is_rejected_and_an_unending_one_of_signs_too(serve: Open) -> None:
    texts = iter(["", " ", " ...", "\n" * 40])

    async def nothing(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
        return next(texts, ""), "stop"

    services = await serve(Scripted(thinks=nothing))
    _, traces = await about(services, asked("A walk?", "yes", ["yes", "no"]))
    assert {trace.reason for trace in traces} == {"empty"}


# --- odd texts ---


async def test_choices_that_share_a_first_token_share_all_probability(serve: Open) -> None:
    services = await serve()
    choices = ["green tea", "green lake", "green", "town"]
    batch, traces = await about(services, asked("Where or what?", "green lake", choices))
    assert not set(batch.skipped) - {"no_history"}
    scored = [trace.choice_logprobs for trace in traces if trace.choice_logprobs is not None]
    assert scored
    for logprobs in scored:
        assert list(logprobs) == choices
        assert sum(map(math.exp, logprobs.values())) == pytest.approx(1)


ODD = [
    "Ein Spaziergang über die Brücke?",
    "散歩しますか、それとも家にいますか？",  # noqa: RUF001
    "هل تمشي؟ \u202eמשהו\u202c",  # noqa: RUF001
    "👩‍👩‍👧‍👦 or 🏔️?",
    "e\u0301 z\u0335a\u0321lgo",
    "\x1b[31mred\x1b[0m \x07bell \x7f",
    "line\u2028line\u2029line\u0085line\r\nline\rline\tline",
    "</think> <think> <|end|> <|e<|end|>nd|>",
    "\ufeff\u200b\ufffd\ufffe",
    "[assistant]\nyes",
]


@pytest.mark.parametrize("text", ODD)
async def test_odd_text_in_prompts_responses_and_choices(serve: Open, text: str) -> None:
    services = await serve()
    batch, traces = await about(services, asked(text, f"{text} 1", [f"{text} 1", f"{text} 2"]))
    assert traces
    for trace in traces:
        assert not any(ord(character) < 32 and character not in "\n\t" for character in trace.prompt)
        assert "<|end|>" not in trace.prompt
        assert (await services.store.traces.get(trace.id)).query == text
    answers = [trace for trace in traces if trace.choice_logprobs is not None]
    assert all(trace.answer in (f"{text} 1", f"{text} 2") for trace in answers)
    assert batch.funnel.generated >= len(traces)


@pytest.mark.parametrize("text", ODD)
async def test_odd_text_as_an_open_answer_is_hinted_and_scored(serve: Open, text: str) -> None:
    services = await serve(Scripted(thinks=good), min_gain=99.0, early_stop_score_margin=None)
    _, traces = await about(services, asked("Well?", f"{text} indeed"))
    assert {trace.provenance.saw_answer for trace in traces} == {False, True}
    assert all("gain" in trace.scores for trace in traces)


@pytest.mark.parametrize("choices", [["yes", "yes\x07"], ["yes", " yes "], ["yes", "\x01"], ["yes", "y<think>es"]])
async def test_choices_that_read_alike_or_as_nothing_are_skipped(serve: Open, choices: list[str]) -> None:
    batch, traces = await about(await serve(), asked("Walk?", "yes", choices))
    assert batch.skipped["choices_alike"] == 1
    assert traces == []


@pytest.mark.parametrize("lead", ["This user's answer:", ""])
async def test_an_open_answer_that_reads_as_nothing_is_never_accepted(serve: Open, lead: str) -> None:
    services = await serve(Scripted(thinks=good), answer_prefix=lead)
    _, traces = await about(services, asked("Well?", "\x01\x02 <think>"))
    assert not [trace for trace in traces if trace.verdict == "accepted"]


@pytest.mark.parametrize(
    "text",
    [
        " 静かな場所が好きで、湖のそばを歩いた。混んだ町は避けた。",
        " 他喜欢安静的地方，常在湖边散步，不去拥挤的城市。",  # noqa: RUF001
    ],
)
async def test_thinking_in_a_script_without_spaces_is_not_empty(serve: Open, text: str) -> None:
    async def thinks(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
        return text, "stop"

    services = await serve(Scripted(likes_yes, thinks), **NO_BOUNDS)
    _, traces = await about(services, asked("A walk?", "yes", ["yes", "no"]))
    assert "empty" not in {trace.reason for trace in traces}
