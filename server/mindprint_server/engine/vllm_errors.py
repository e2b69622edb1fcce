"""Turns what vLLM says about a wrong request into errors that name the caller's field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from mindprint_server.engine.vllm_options import explain_flags
from mindprint_server.exceptions import BackendRefused, Invalid

CALLERS_ERRORS = frozenset({"VLLMClientError", "VLLMValidationError"})
"""Names of vLLM's errors, and of their base classes, that a request causes."""
_PARAMETER = re.compile(r"\s*\(parameter=(?P<name>[\w.]+)(?:, value=.*)?\)\s*$", re.DOTALL)
"""How vLLM's errors name a field, behind their message."""


def is_callers_fault(error: Exception) -> bool:
    """Return whether vLLM raised an error because of a value in the request."""
    # vLLM's own errors are a ValueError in some releases and none in others. An ArithmeticError comes of a huge number.
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, ValueError | ArithmeticError) or not names.isdisjoint(CALLERS_ERRORS)


def refusal_of(error: Exception, body: Mapping[str, Any]) -> BackendRefused:
    """Return the refusal for an error that a request causes.

    Args:
        error: What vLLM raised.
        body: The request.
    """
    if isinstance(error, ValidationError):
        # vLLM reads lists of parts and calls late, and apart from the request.
        complaint = _telling(error)
        part = next((f"{part}: " for part in reversed(complaint["loc"]) if isinstance(part, str)), "")
        message = f"a part of messages has a wrong form ({part}{_lower(complaint['msg'])})"
        return BackendRefused(400, message, param="messages")
    message, param = read_message(str(error), body)
    return BackendRefused(400, explain_flags(message), param=getattr(error, "parameter", None) or param)


def unreadable(error: Exception, body: Mapping[str, Any]) -> Invalid:
    """Return the refusal for an error of vLLM's types of requests.

    Args:
        error: What pydantic or a validator of vLLM raised.
        body: The request.
    """
    if isinstance(error, ValidationError):
        message, param = describe(error, body)
    else:
        message, param = read_message(f"the request cannot be read: {error}", body)
        param = getattr(error, "parameter", None) or param
    return Invalid("validation_error", message, param=param)


def raise_error(reply: Any, body: Mapping[str, Any]) -> None:
    """Raise BackendRefused if vLLM answered with an error.

    Args:
        reply: What vLLM returned.
        body: The request.
    """
    if hasattr(reply, "error"):
        message, param = read_message(reply.error.message, body)
        raise BackendRefused(reply.error.code, explain_flags(message), param=reply.error.param or param)


def read_message(text: str, body: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return a message of vLLM and the field that it is about: it names it at the end, or begins with it.

    Args:
        text: The message.
        body: The request.
    """
    if found := _PARAMETER.search(text):
        return text[: found.start()], found["name"]
    word = text.partition(" ")[0]
    return text, word if word in body else None


def describe(error: ValidationError, body: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return one complaint of pydantic without the input, and the field.

    Where a value may have several types, pydantic complains for each of them. That another role would be right says
    nothing about a message.

    Args:
        error: The complaints.
        body: The request.
    """
    first = _telling(error)
    field = field_of(first["loc"], body, is_missing=first["type"] == "missing")
    return f"{field or 'a part of the request'}: {_lower(first['msg'])}", field or None


def _telling(error: ValidationError) -> Mapping[str, Any]:
    complaints = error.errors(include_url=False, include_context=False, include_input=False)
    telling = [one for one in complaints if not (one["type"] == "literal_error" and one["loc"][-1:] == ("role",))]
    return (telling or complaints)[0]


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


def field_of(where: Sequence[str | int], body: Any, *, is_missing: bool = False) -> str:
    """Return a field as callers write it, such as `messages[0].content`, from a location of pydantic.

    Args:
        where: The location. Names of types stand in it, too, which the request does not have.
        body: The request.
        is_missing: Whether the request lacks the last part.
    """
    name = ""
    for place, part in enumerate(where, 1):
        if isinstance(part, int) and isinstance(body, list) and part < len(body):
            name += f"[{part}]"
            body = body[part]
        elif isinstance(body, Mapping) and part in body:
            name += f".{part}"
            body = body[part]
        elif is_missing and place == len(where):
            name += f".{part}"
    return name.lstrip(".")
