"""The parameters of generating one candidate."""

from __future__ import annotations

from dataclasses import dataclass

from mindprint.types import Mode
from mindprint_server.engine import Priority, Sampling
from mindprint_server.engine.sampling import create_sampling
from mindprint_server.settings import GenerationSettings


@dataclass(frozen=True)
class GenerationParams:
    """How one candidate is generated, and whether it is verified for training."""

    mode: Mode
    thinking_prefix: str
    """The text with which the thinking is made to begin."""
    max_thinking_tokens: int
    temperature: float
    seed: int | None
    is_for_training: bool
    """Whether the candidate is verified and, if accepted, waits for a trainer."""
    hinted: bool = False
    """Whether the prompt shows the real answer."""
    given_thinking: str | None = None
    """Thinking that the caller sent; none is generated then."""
    mode_reason: str | None = None
    """Why this mode was chosen, where `auto` chose it."""
    batch_id: str | None = None
    priority: Priority = Priority.INTERACTIVE


def thinking_sampling(params: GenerationParams, settings: GenerationSettings, stop: tuple[str, ...] = ()) -> Sampling:
    """Return the sampling parameters of a candidate's thinking.

    Args:
        params: How the candidate is generated.
        settings: The server's settings.
        stop: Texts before which the thinking ends.
    """
    return create_sampling(
        settings,
        max_tokens=params.max_thinking_tokens,
        temperature=params.temperature,
        seed=params.seed,
        stop=stop,
        logprobs=params.hinted,
    )
