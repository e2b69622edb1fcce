"""Bounds on the fields of a chat request that multiply its work in the engine. Pure."""

from __future__ import annotations

from collections.abc import Mapping
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
