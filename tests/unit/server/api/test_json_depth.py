"""How deep a JSON text nests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.api.json_depth import json_depth


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        (b"", 0),
        (b"3", 0),
        (b"[]", 1),
        (b'{"a": [[1]], "b": {}}', 3),
        (b'"[[["', 0),
        (b'["\\"[[", []]', 2),
        (b'["\\\\", [[]]]', 3),
        (b'["', 1),
        (b'["\\', 1),
        (b"[" * 30_000, 30_000),
    ],
)
def test_depth(text: bytes, depth: int) -> None:
    assert json_depth(text) == depth


def _levels(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    inside = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_levels, inside), default=0)


LEAF = st.none() | st.integers() | st.text()


@given(st.recursive(LEAF, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_depth_of_any_json(value: Any) -> None:
    assert json_depth(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")) == _levels(value)
    assert json_depth(json.dumps(value).encode()) == _levels(value)
