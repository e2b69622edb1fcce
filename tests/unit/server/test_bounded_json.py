from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mindprint_server.bounded_json import MAX_INTEGER, JsonRefused, parse_json


def parse(data: bytes, max_depth: int = 8, max_keys: int | None = None) -> Any:
    return parse_json(data, max_depth=max_depth, max_keys=max_keys)


def refused(data: bytes, **bounds: Any) -> JsonRefused:
    with pytest.raises(JsonRefused) as error:
        parse(data, **bounds)
    return error.value


def test_parse_document_within_bounds_returns_it() -> None:
    document = {"a": [1, -2.5, None, True, 'ä\n"[{'], "b": {"c": MAX_INTEGER}}
    assert parse(json.dumps(document).encode(), max_keys=3) == document


@pytest.mark.parametrize("data", [b"", b"{", b"[1,]", b"nul", b"\xff", b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16")])
def test_parse_no_json_is_refused_as_syntax(data: bytes) -> None:
    assert refused(data).is_syntax


@pytest.mark.parametrize(
    ("data", "path", "problem"),
    [
        (b'{"losses":{"slow":NaN}}', "losses.slow", "finite"),
        (b'{"items":[{"logprobs":[0,-Infinity]}]}', "items[0].logprobs[1]", "finite"),
        (b"[1e999]", "[0]", "finite"),
        (b'{"a":9223372036854775808}', "a", "64 bits"),
        (b'{"a":"\\u0000"}', "a", "NUL"),
        (b'{"a":"\\ud800"}', "a", "surrogate"),
        (b'{"a":{"\\udfff":1}}', "a", "surrogate"),
    ],
)
def test_parse_value_that_cannot_be_stored_names_its_path(data: bytes, path: str, problem: str) -> None:
    error = refused(data)
    assert (error.path, error.is_syntax) == (path, False)
    assert problem in error.problem


@pytest.mark.parametrize("digits", [21, 5000])
def test_parse_long_integer_is_refused(digits: int) -> None:
    assert "64 bits" in str(refused(b"[" + b"9" * digits + b"]"))


def test_parse_repeated_key_is_refused() -> None:
    assert "'a' twice" in str(refused(b'{"a":1,"b":{"a":2},"a":3}'))


@pytest.mark.parametrize("depth", [9, 1000, 30_000, 300_000])
@pytest.mark.parametrize(("begin", "end"), [(b"[", b"]"), (b'{"a":', b"}"), (b"[", b""), (b'{"a":[', b"")])
def test_parse_deep_nesting_is_refused(depth: int, begin: bytes, end: bytes) -> None:
    assert "deep" in str(refused(begin * depth + b"1" + end * depth))


def test_parse_brackets_in_texts_are_no_nesting() -> None:
    assert parse(b'["[[[[[[[[[[", "\\"[[[[[[[[[["]') == ["[" * 10, '"' + "[" * 10]


def test_parse_too_many_keys_is_refused() -> None:
    data = json.dumps({"settings": {f"k{n}": n for n in range(10)}}).encode()
    assert "more than 10 keys" in str(refused(data, max_keys=10))
    assert parse(data, max_keys=11)


@pytest.mark.parametrize("text", [b'"' + b'\\"' * 400_000, b'"' * 400_001, b'{"' * 9 + b"\\" * 400_001])
def test_parse_unclosed_text_costs_linear_time(text: bytes) -> None:
    refused(text)  # With a quadratic scan this takes minutes.


@given(st.binary(max_size=60) | st.text('[]{}",:\\0e-N aInfity', max_size=60).map(str.encode))
@hypothesis_settings(max_examples=300)
def test_parse_any_bytes_returns_or_refuses(data: bytes) -> None:
    try:
        document = parse(data)
    except JsonRefused:
        return
    json.dumps(document, allow_nan=False).encode()
