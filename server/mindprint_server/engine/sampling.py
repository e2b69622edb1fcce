"""Builds sampling parameters from the settings."""

from __future__ import annotations

from mindprint_server.engine.types import Sampling
from mindprint_server.settings import GenerationSettings


def create_sampling(
    settings: GenerationSettings,
    *,
    max_tokens: int,
    temperature: float,
    seed: int | None = None,
    stop: tuple[str, ...] = (),
    logprobs: bool = False,
) -> Sampling:
    """Build sampling parameters with the settings' `top_p` and `min_p`; at temperature 0 decoding is greedy.

    Greedy decoding has no seed, and neither `top_p` nor `min_p` applies. Loops always end a generation.

    Args:
        settings: The server's settings.
        max_tokens: Tokens after which the generation is cut.
        temperature: 0 is greedy.
        seed: Seed of the random choice of tokens; None lets the engine choose one.
        stop: Strings that end the generation. They are not part of its text.
        logprobs: Whether to return the log-probability of each generated token.
    """
    greedy = temperature == 0
    return Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=1.0 if greedy else settings.top_p,
        min_p=0.0 if greedy else settings.min_p,
        seed=None if greedy else seed,
        stop=stop,
        detect_loops=True,
        logprobs=logprobs,
    )
