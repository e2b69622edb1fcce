"""Whatever the rows of a file hold, a reader yields valid rows, counts the others, or says that the file is bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindprint.importers import BadImport, Known, ReadOptions, SameId, Skips, check_bad_share, read
from mindprint.importers.summary import summarize

KEYS = [
    *(
        "id",
        "user_id",
        "user",
        "speaker",
        "prompt",
        "response",
        "query",
        "target",
        "occurred_at",
        "timestamp",
        "choices",
    ),
    *("reason", "messages", "edit", "choice", "chosen", "rejected", "conversation_history", "turn", "role", "content"),
    *(
        "if_chosen",
        "model_response",
        "interaction_id",
        "text",
        "reply-to",
        "metadata",
        "input",
        "name",
        "author",
        "posts",
    ),
]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from(
        ["ann", "user", "assistant", "[deleted]", "&amp;amp;", "2020-01-01", "\ud800", "\x00", "a|b", "[1]"]
    ),
    st.text(max_size=4),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=10) | VALUES, max_size=5)


def as_lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_map(rows: list[Any]) -> str:
    return json.dumps({f"author {n}": row for n, row in enumerate(rows)})


@pytest.mark.parametrize(
    ("kind", "name", "written"),
    [
        ("ndjson", "rows.jsonl", as_lines),
        ("table", "rows.jsonl", as_lines),
        ("pairs", "rows.jsonl", as_lines),
        ("chat", "rows.jsonl", as_lines),
        ("convokit", "utterances.jsonl", as_lines),
        ("dataset", "train.jsonl", as_lines),
        ("cmv", "rows.json", as_map),
        ("cmv", "rows.json", json.dumps),
        ("lamp", "rows.json", json.dumps),
    ],
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=ROWS, user=st.none() | st.just("ann"))
def test_odd_rows(
    tmp_path: Path, kind: Known, name: str, written: Callable[[Any], str], rows: list[Any], user: Any
) -> None:
    (tmp_path / name).write_text(written(rows))
    path = tmp_path if kind in ("convokit", "dataset") else tmp_path / name
    skips = Skips(max_places=None)
    try:
        summary = summarize(
            read(path, kind, skips, user=user, options=ReadOptions(assistant_answers=True)), kind, skips
        )
        check_bad_share(skips, summary.rows, 1.0)
    except (BadImport, SameId):
        return
    summary.model_dump_json()
    assert len(skips.places) == skips.total()
    assert sum(row.bad for row in skips.places) == skips.bad


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    comments=st.text(st.sampled_from('01,"\n\\; a'), max_size=60),
    votes=st.text(st.sampled_from('01-,"\n\t'), max_size=60),
)
def test_odd_tables(tmp_path: Path, comments: str, votes: str) -> None:
    (tmp_path / "comments.csv").write_text(f"comment-id,comment-body\n{comments}")
    (tmp_path / "votes.csv").write_text(f"voter-id,comment-id,vote\n{votes}")
    skips = Skips(max_places=None)
    try:
        rows = list(read(tmp_path, "polis", skips))
    except BadImport as error:
        assert "stands twice with different texts" in str(error)  # noqa: PT017
        return
    assert all(row.response in ("agree", "disagree", "pass") for _, row in rows)
    assert len(skips.places) == skips.total()
