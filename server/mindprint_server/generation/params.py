"""How a candidate is written, and what its provenance says of that. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mindprint.types import Mode
from mindprint_server.engine import Priority, Sampling
from mindprint_server.prompts import thinking
from mindprint_server.prompts.types import Question
from mindprint_server.settings import Settings


@dataclass(frozen=True)
class GenerationParams:
    """How a candidate is written."""

    mode: Mode
    opening: str
    max_thinking_tokens: int
    temperature: float
    seed: int | None
    judge: bool
    """Whether the candidate is for the queue: then it is judged, and a hopeless one ends at once."""
    hinted: bool = False
    """Whether the writer is shown the answer."""
    given: str | None = None
    """Thinking that stands in the place of what would be written."""
    route: str | None = None
    """Why this mode, where `auto` chose it."""
    batch_id: str | None = None
    priority: Priority = Priority.INTERACTIVE


def sampling(style: GenerationParams, settings: Settings) -> Sampling:
    """How its thinking is sampled."""
    greedy = style.temperature == 0
    return Sampling(
        max_tokens=style.max_thinking_tokens,
        temperature=style.temperature,
        top_p=1.0 if greedy else settings.top_p,
        min_p=0.0 if greedy else settings.min_p,
        seed=None if greedy else style.seed,
        stop=(thinking.STOP,),
        detect_loops=True,
        logprobs=style.hinted,
    )


def made_with(style: GenerationParams, question: Question, settings: Settings) -> dict[str, Any]:
    """The `sampling` of a provenance: all that decided the text beside the model, the mode and the seed."""
    if style.given is not None:
        return given_with(question, settings)
    return {**sampling(style, settings).provenance(), "opening": style.opening, **_asked_with(question, settings)}


def given_with(question: Question, settings: Settings) -> dict[str, Any]:
    """The same where the thinking was not written here."""
    return {"thinking": "given", **_asked_with(question, settings)}


def _asked_with(question: Question, settings: Settings) -> dict[str, Any]:
    return {
        "answer_lead": settings.answer_lead,
        "memory": question.memory_of,
        **({} if question.show_choices else {"show_choices": False}),
    }
