"""Reads JSON from outside the server: bounded depth and keys, each key once, only values that can be stored and sent.

Python's own reader takes NaN, repeated keys and lone surrogates, and ends in a RecursionError on deep nesting. Such
values would fail later, in the database or in a reply, where the caller can no longer be told what is wrong.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

MAX_INTEGER = 2**63 - 1
"""Largest integer that is taken, in absolute value: what a signed integer of 64 bits holds."""
_MAX_INTEGER_CHARS = len(str(-MAX_INTEGER))
# Possessive, so that a string with many escapes costs linear time. A string without an end reaches to the end.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


class JsonRefused(ValueError):
    """The text is no JSON, or JSON that is not taken.

    Args:
        problem: What is wrong, such as `is not a finite number`.
        path: Where, such as `losses.slow` or `items[0].logprobs[2]`; empty for the whole document.
        is_syntax: Whether the text is no JSON at all.
    """

    def __init__(self, problem: str, *, path: str = "", is_syntax: bool = False) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.problem = problem
        self.path = path
        self.is_syntax = is_syntax


def parse_json(data: bytes, *, max_depth: int, max_keys: int | None = None) -> Any:
    """Parse a JSON document in UTF-8.

    Args:
        data: The document.
        max_depth: Deepest nesting of objects and lists.
        max_keys: Most keys of all objects together. None: no bound but the length of `data`.

    Raises:
        JsonRefused: It is no JSON, passes a bound, repeats a key, or holds a number that is not finite, an integer of
            more than 64 bits, a NUL character or a lone surrogate.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise JsonRefused("is not UTF-8", is_syntax=True) from None
    _check_depth(text, max_depth)
    count = 0

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal count
        count += len(pairs)
        if max_keys is not None and count > max_keys:
            raise JsonRefused(f"holds more than {max_keys} keys")
        return _build_object(pairs)

    try:
        document = json.loads(text, object_pairs_hook=build, parse_int=_parse_integer)
    except JsonRefused:
        raise
    except ValueError as error:
        raise JsonRefused(f"is not JSON ({error})", is_syntax=True) from None
    _check_values(document)
    return document


def _check_depth(text: str, max_depth: int) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        first = match[0][0]
        depth += (first in "[{") - (first in "]}")
        if depth > max_depth:
            raise JsonRefused(f"is nested more than {max_depth} deep")


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built: dict[str, Any] = {}
    for key, value in pairs:
        if key in built:
            raise JsonRefused(f"holds the key {key[:60]!r} twice")
        built[key] = value
    return built


def _parse_integer(digits: str) -> int:
    # Python converts at most 4,300 digits, and says so with a ValueError that looks like a syntax error.
    if len(digits) > _MAX_INTEGER_CHARS:
        raise JsonRefused(f"holds an integer of {len(digits)} characters, more than 64 bits")
    return int(digits)


def _check_values(document: Any) -> None:
    """Check every value and key, with a list of its own instead of recursion."""
    pending: list[tuple[str, Any]] = [("", document)]
    while pending:
        path, value = pending.pop()
        if problem := _problem_of(value):
            raise JsonRefused(problem, path=path)
        pending += _children(path, value)


def _children(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        for index, child in enumerate(value):
            yield f"{path}[{index}]", child
    elif isinstance(value, dict):
        for key, child in value.items():
            if problem := _problem_of(key):
                raise JsonRefused(f"a key {problem}", path=path)
            yield f"{path}.{key[:60]}" if path else key[:60], child


def _problem_of(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a finite number"
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return "is an integer of more than 64 bits"
    if isinstance(value, str) and "\0" in value:
        return "holds a NUL character"
    if isinstance(value, str) and not _is_encodable(value):
        return "holds half a character (a lone surrogate)"
    return None


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
