"""The page of architectures shows what the kept runs say, and a trial stops at the first step that fails."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from architecture_steps import (
    Answer,
    Figures,
    StepFailed,
    _Trial,
    compare_training,
    compare_with_peft,
    explain,
    go_through,
    largest_difference,
)
from architectures import ARCHITECTURES, make_base
from chat_templates import FAMILIES
from mindprint.local.processes import ProcessFailed
from mindprint.types import ChatCompletion
from support.architecture_page import STEPS, render
from tiny_servers import SERVER

HIDE = Path("/a/place")
PASSED: dict[str, Any] = dict.fromkeys(STEPS, "yes")
FIGURES: dict[str, Any] = {"forward_nats": 1e-6, "parity_nats": 2e-6, "adapter_nats": 3e-6, "shift_nats": 0.5}
NO_FIGURES: dict[str, Any] = dict.fromkeys(FIGURES)


def run(*rows: dict[str, Any], torch: str = "2.13") -> dict[str, Any]:
    return {"rows": list(rows), "versions": {"python": "3.11", "torch": torch, "peft": "0.20"}}


def row(title: str, *, why: str = "", **outcomes: str) -> dict[str, Any]:
    figures = NO_FIGURES if outcomes else FIGURES
    return {"architecture": title, "chat_format": "llama3"} | PASSED | outcomes | figures | {"why": why}


async def works() -> Figures:
    return {"nats": 0.5}


async def fails() -> Figures:
    raise ProcessFailed(f"the server ended (log: {HIDE}/server.log)\nnoise\nmindprint: no layers in {HIDE}/base\nmore")


async def test_trial_stops_at_the_first_step_that_fails_and_says_why_without_paths() -> None:
    results = await go_through({"load": works, "batch": fails, "train": works}, refusal="no layers", hide=HIDE)
    assert [result.outcome for result in results.values()] == ["yes", "no", "not reached"]
    assert results["load"].figures == {"nats": 0.5}
    assert results["batch"].why == "no layers in base"


@pytest.mark.parametrize(("refusal", "outcome"), [("no layers", "refused"), ("something else", "no"), (None, "no")])
async def test_only_a_start_that_ends_with_the_wanted_words_is_refused(refusal: str | None, outcome: str) -> None:
    results = await go_through({"load": fails, "batch": works}, refusal=refusal, hide=HIDE)
    assert results["load"].outcome == outcome


def test_error_without_a_text_is_explained_by_its_type() -> None:
    assert explain(TimeoutError()) == "TimeoutError"
    assert explain(StepFailed("first\nerror: the trainer cannot")) == "the trainer cannot"


def test_page_shows_the_newest_row_and_a_line_for_each_that_fails() -> None:
    old = run(row("Llama", load="no", why="out of memory"), row("Gemma"), torch="2.12")
    page = render([old, run(row("Llama"), row("Mixture", load="refused", batch="not reached", why="only `gpu`"))])
    assert "| Llama | llama3 | yes | yes | yes | yes | yes | yes | yes | yes |" in page
    assert "| Mixture | llama3 | refused (1) | - | yes |" in page
    assert "1. Mixture, load: `only 'gpu'`" in page
    assert "out of memory" not in page
    assert "| Llama | 1e-06 | 2e-06 | 3e-06 | 0.5 |" in page
    assert "| Mixture | 1e" not in page
    assert "torch 2.12, peft 0.20; torch 2.13, peft 0.20." in page


class Chat:
    """A server whose live version is user/ann@1. It answers with a name, the version that answered, and a text."""

    def __init__(
        self,
        version: str = "user/ann@1",
        *,
        fallback: str | None = None,
        text: str = "Tea.",
        thinking: str | None = "Lakes.",
    ) -> None:
        self.chat = self.completions = self.adapters = self
        self.version, self.fallback, self.text, self.thinking = version, fallback, text, thinking
        self.max_tokens: list[int] = []

    async def get(self, key: str) -> Any:
        return SimpleNamespace(versions=[SimpleNamespace(version=1)])

    async def create(self, question: str, *, model: str, mode: str, max_tokens: int, **_: Any) -> ChatCompletion:
        self.max_tokens.append(max_tokens)
        is_given = self.fallback is not None and mode != "direct"
        provenance = {
            "model": self.version if is_given or self.fallback is None else "user/ann@1",
            "fallback": self.fallback if is_given else None,
        }
        reasoning = self.thinking if mode != "direct" else None
        message = {"role": "assistant", "content": self.text, "reasoning_content": reasoning}
        choices = [{"index": 0, "message": message, "finish_reason": "length"}]
        return ChatCompletion.model_validate({"id": "1", "model": model, "choices": choices, "mindprint": provenance})


async def chat(server: Chat) -> None:
    unused: Any = None
    client: Any = server
    await _Trial(ARCHITECTURES["llama"], HIDE, unused, client, unused).chat()


@pytest.mark.parametrize("server", [Chat(), Chat("base", fallback="base"), Chat("base", fallback="direct")])
async def test_chat_passes_where_the_version_answers_or_the_base_after_a_loop(server: Chat) -> None:
    await chat(server)
    assert min(server.max_tokens) > int(SERVER["MAX_THINKING_TOKENS"]), "an answer fits behind the thinking"


@pytest.mark.parametrize(
    ("server", "why"),
    [
        (Chat("base"), "base answered with mode direct"),
        (Chat("user/ann@2"), "user/ann@2 answered with mode direct"),
        (Chat("base", fallback="other"), "base answered with mode generic: .*other"),
        (Chat("user/ben@1", fallback="base"), "user/ben@1 answered with mode generic"),
        (Chat(""), "nobody answered"),
        (Chat(text=""), "the answer with mode direct has no text"),
        (Chat(thinking=None), "the answer with mode generic has the thinking ''"),
    ],
)
async def test_chat_fails_where_another_answers_or_nothing_is_said(server: Chat, why: str) -> None:
    with pytest.raises(StepFailed, match=why):
        await chat(server)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_is_written_with_its_type_and_the_template_of_its_family(name: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    base = make_base(architecture, tmp_path)
    assert json.loads((base / "config.json").read_text(encoding="utf-8"))["model_type"] == architecture.model_type
    template = (base / "chat_template.jinja").read_text(encoding="utf-8")
    assert template == FAMILIES[architecture.chat].template
    assert any(base.glob("*.bin" if architecture.weights == "bin" else "*.safetensors"))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_difference_that_is_no_finite_number_fails(wrong: float) -> None:
    """`max` drops NaN behind a number."""
    answer = Answer([1], [2, 3], [-0.5, -0.5])
    assert largest_difference([answer], [[-0.5, -0.25]]) == 0.25
    with pytest.raises(StepFailed, match="not all of 2 differences are finite numbers"):
        largest_difference([answer], [[-0.5, wrong]])


def test_training_that_computes_nan_or_lacks_a_gradient_fails() -> None:
    gradient = torch.tensor([1.0, 2.0])
    good = ([-0.5, -0.5], {"down": gradient, "up": gradient})
    assert compare_training(good, good) == {"forward_nats": 0, "gradient": 0}
    bad = torch.tensor([1.0, math.nan])
    for wrong in (([-0.5, math.nan], good[1]), (good[0], {"down": gradient, "up": bad})):
        with pytest.raises(StepFailed, match="are finite numbers"):
            compare_training(wrong, good)
    with pytest.raises(StepFailed, match="other gradients than transformers: up"):
        compare_training((good[0], {"down": gradient}), good)


def test_comparison_with_peft_fails_where_the_engine_answered_otherwise(tmp_path: Path) -> None:
    from tiny import logprobs, make_adapter

    architecture = ARCHITECTURES["llama"]
    base = make_base(architecture, tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", seed=1)
    prompt, tokens = [5, 6, 7], [8, 9]

    def answered(which: Path | None) -> Answer:
        rows = logprobs(base, prompt + tokens, adapter=which)
        return Answer(prompt, tokens, [rows[2 + n][token] for n, token in enumerate(tokens)])

    figures = compare_with_peft(base, adapter, [answered(None)], [answered(adapter)])
    assert figures["adapter_nats"] < 1e-4
    with pytest.raises(StepFailed, match="the engine differs from PEFT"):
        compare_with_peft(base, adapter, [answered(None)], [answered(None)])
