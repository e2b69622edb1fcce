"""Bounds on the fields of a chat request that multiply its work in the engine, and on its thinking. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mindprint_server.exceptions import Invalid

ANSWER_FIELDS = ("n", "best_of")
"""Fields that ask for several sequences. vLLM's chat route has `n`; some releases take `best_of` too."""

MAX_ITEMS: Mapping[str, int] = {
    "messages": 2048,
    "stop": 64,
    "stop_token_ids": 256,
    "bad_words": 256,
    "logprob_token_ids": 128,
    "logit_bias": 1024,
    "tools": 128,
    "documents": 128,
}
"""Most items of the lists and objects that the engine goes through for each token or for each request."""


MAX_TOP_K = 2**31 - 1
"""Largest `top_k`: the engine keeps it in 32 bits."""


@dataclass(frozen=True)
class ThinkingRoom:
    """The room that a chat has for its thinking and its answer, in tokens.

    Attributes:
        prompt: Tokens before the thinking.
        closing: Tokens between the thinking and the answer.
        model: Longest sequence of the model.
        max_tokens: What the caller allows for thinking and answer together, as far as it is left; None: all that fits.
        field: The field of the request that says so.
    """

    prompt: int
    closing: int
    model: int
    max_tokens: int | None
    field: str = "max_tokens"

    def bound_thinking(self, max_thinking: int, min_answer: int) -> int:
        """Return how many tokens a thinking may have, so that its answer fits the model behind it.

        Args:
            max_thinking: Most tokens of any thinking.
            min_answer: Tokens that it leaves for the answer. A smaller `max_tokens` of the caller's may take all.

        Raises:
            Invalid: They do not fit.
        """
        left = self.model - self.prompt - self.closing
        needed = 1 + min_answer if self.max_tokens is None else self.max_tokens
        if needed <= left:
            return min(max_thinking, left - min_answer if self.max_tokens is None else self.max_tokens)
        if self.max_tokens is not None and left > 0:
            message = (
                f"messages and memory have {self.prompt} tokens of the model's {self.model}, so that {needed} for "
                f"thinking and answer do not fit: ask for at most {left}"
            )
            raise Invalid("prompt_too_long", message, param=self.field)
        message = (
            f"messages and memory have {self.prompt} tokens of the model's {self.model}, so that {needed} for thinking "
            "and answer do not fit: shorten the messages, or ask with mode direct"
        )
        raise Invalid("prompt_too_long", message, param="messages")


def read_max_tokens(body: Mapping[str, Any]) -> int | None:
    """Return how many tokens a chat request allows. None: it says nothing, or something that vLLM refuses."""
    limit = body.get("max_completion_tokens")
    limit = body.get("max_tokens") if limit is None else limit
    return limit if isinstance(limit, int) else None


def read_answer_count(body: Mapping[str, Any], max_answers: int) -> int:
    """Return how many sequences a chat request generates at once.

    Args:
        body: The request.
        max_answers: Most sequences that one request may ask for.

    Raises:
        Invalid: A field is no whole number from 1 to `max_answers`.
    """
    count = 1
    for field in ANSWER_FIELDS:
        value = body.get(field)
        if value is None:
            continue
        # vLLM also takes "8" and 8.0 for a whole number, so the type is checked here.
        if type(value) is not int or not 1 <= value <= max_answers:
            message = f"{field} must be a whole number from 1 to {max_answers}: send more requests for more answers"
            raise Invalid("validation_error", message, param=field)
        count = max(count, value)
    return count


def check_lengths(body: Mapping[str, Any]) -> None:
    """Check the lengths of the lists in a chat request.

    Raises:
        Invalid: A list has more than `MAX_ITEMS` items.
    """
    for field, most in MAX_ITEMS.items():
        value = body.get(field)
        if isinstance(value, list | dict) and len(value) > most:
            message = f"{field} has {len(value)} items, of at most {most}: send fewer"
            raise Invalid("validation_error", message, param=field)


def check_numbers(body: Mapping[str, Any]) -> None:
    """Check that the engine's process can take every number of a chat request.

    Raises:
        Invalid: An integer does not fit 64 bits, or `top_k` is above `MAX_TOP_K`.
    """
    for field, value in body.items():
        if any(not -(2**63) <= number < 2**63 for number in _integers(value)):
            raise Invalid(
                "validation_error", f"{field} holds an integer beyond 64 bits: send a smaller one", param=field
            )
    top_k = body.get("top_k")
    try:
        is_too_large = top_k is not None and float(top_k) > MAX_TOP_K
    except (TypeError, ValueError):
        return  # vLLM says what is wrong with it
    if is_too_large:
        raise Invalid("validation_error", f"top_k is above {MAX_TOP_K}: send a smaller one", param="top_k")


def _integers(value: Any) -> Iterator[int]:
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, int):
            yield value
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
