"""`mindprint.importers`: large JSON files entry by entry, ids and times made to fit, formats told apart."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mindprint.importers import BadImport, Skips, detect, read
from mindprint.importers.ids import engagement_id, user_name
from mindprint.importers.json_stream import entries
from mindprint.importers.timestamps import START, TICK, in_order, moment
from mindprint.types import EngagementId, Name

VALUES: list[Any] = [{"a": 'é"\\\n', "b": [1, -2.5e3, None]}, "🙂" * 40, 12345678901, {}, [], True, -1.5]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("ascii", [True, False])
def test_entries_wherever_the_pieces_end(tmp_path: Path, chunk: int, start: str, ascii: bool) -> None:
    file = tmp_path / "data.json"
    keyed = {f"k{n}": value for n, value in enumerate(VALUES)}
    for data, found in ((VALUES, list(enumerate(VALUES, 1))), (keyed, list(keyed.items())), ([], []), ({}, [])):
        written = start + json.dumps(data, indent=1, ensure_ascii=ascii).replace("\n", "\r\n") + "\r\n"
        file.write_bytes(written.encode())
        assert list(entries(file, chunk=chunk)) == found


def test_nan_is_taken_for_json(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text("[NaN, 1]")
    (_, value), _ = entries(tmp_path / "n.json", chunk=2)
    assert math.isnan(value)


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize(
    ("content", "line", "complaint"),
    [
        (b"", 1, "the file is empty"),
        (b"\n7", 2, "a JSON array or object is needed"),
        (b'[{"a": 1},\n{"b": }]', 2, "is no JSON (Expecting value)"),
        (b'[{"a": 1},\n{"b": "c', 2, "is no JSON (Unterminated string"),
        (b"[1,\n2", 2, "is no JSON (, or ] is needed)"),
        (b"{\n7: 1}", 2, "a key in double quotes is needed"),
        (b'[1]\n\n["more"]', 3, "there is more behind the end"),
        (b'["a",\n\n"\xff"]', 3, "is no UTF-8 text"),
        (b"[" * 100_000, 1, "is no JSON"),
    ],
)
def test_malformed_files_are_refused_with_their_line(
    tmp_path: Path, content: bytes, line: int, complaint: str, chunk: int
) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    with pytest.raises(BadImport) as told:
        list(entries(file, chunk=chunk))
    assert str(told.value).startswith(f"{file}:{line}: ")
    assert complaint in str(told.value)
    assert "\n" not in str(told.value)


@given(st.text(min_size=1, max_size=200))
def test_every_id_can_be_made_to_fit(raw: str) -> None:
    TypeAdapter(Name).validate_python(user_name(raw))
    TypeAdapter(EngagementId).validate_python(engagement_id(raw))


def test_names() -> None:
    assert user_name("ann-1.b") == "ann-1.b"
    assert user_name("ann b") == f"ann-b-{user_name('ann b')[-8:]}"
    assert len({user_name(raw) for raw in ("ann b", "ann/b", "ann-b", "ann..b", "ann b ", "x" * 64, "x" * 65)}) == 7
    assert user_name("日本").startswith("user-")
    assert user_name("\ud800").startswith("user-")
    assert engagement_id("q/1:a") == "q/1:a"


@pytest.mark.parametrize(
    ("value", "when"),
    [
        (1_500_000_000, datetime(2017, 7, 14, 2, 40, tzinfo=UTC)),
        ("1500000000", datetime(2017, 7, 14, 2, 40, tzinfo=UTC)),
        (1_500_000_000_000, datetime(2017, 7, 14, 2, 40, tzinfo=UTC)),
        (1_500_000_000.5, datetime(2017, 7, 14, 2, 40, 0, 500_000, tzinfo=UTC)),
        (2017, datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017-07-14", datetime(2017, 7, 14, tzinfo=UTC)),
        ("20170714", datetime(2017, 7, 14, tzinfo=UTC)),
        (" 2017-07-14T04:40:00+02:00 ", datetime(2017, 7, 14, 2, 40, tzinfo=UTC)),
        (None, None),
        (math.nan, None),
        ("", None),
    ],
)
def test_moments(value: object, when: datetime | None) -> None:
    assert moment(value) == when


@pytest.mark.parametrize("value", ["soon", True, [], math.inf, 1e300, "9" * 40])
def test_no_moments(value: object) -> None:
    with pytest.raises(ValueError, match=r"no time|Invalid isoformat"):
        moment(value)


def test_times_that_are_missing_follow_the_file() -> None:
    day = datetime(2020, 5, 1, tzinfo=UTC)
    assert in_order([None, None]) == [START, START + TICK]
    assert in_order([None, day, None, day]) == [day + n * TICK for n in range(4)]
    assert in_order([day, None, day - timedelta(days=1)]) == [day, day + TICK, day - timedelta(days=1)]
    assert in_order([]) == []


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("rows.jsonl", "[", "ndjson"),
        ("rows.txt", '{"choices": ["a", "b"], "id": "e"}', "ndjson"),
        ("rows.txt", "{", "ndjson"),
        ("q.json", '\ufeff [{"id": 1, "input": "?", "profile": []}]', "lamp"),
        ("q.json", '[{"author": "ann", "posts": []}]', "cmv"),
        ("q.json", '{"ann": []}', "cmv"),
        ("history_data.json", "", "cmv"),
    ],
)
def test_format_is_detected_by_its_file(tmp_path: Path, name: str, content: str, kind: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert detect(tmp_path / name) == kind


def test_format_is_detected_by_its_folder(tmp_path: Path) -> None:
    with pytest.raises(BadImport, match=r"is a folder without votes\.csv"):
        detect(tmp_path)
    (tmp_path / "evaluation_data.json").write_text("{}")
    assert detect(tmp_path) == "cmv"
    (tmp_path / "votes.csv").write_text("")
    assert detect(tmp_path) == "polis"


@pytest.mark.parametrize(
    ("content", "complaint"), [('{"task": "LaMP_1", "golds": []}', "with --outputs"), ("[{]", ":1: is no JSON")]
)
def test_files_that_are_no_format(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(BadImport, match=complaint):
        detect(tmp_path / "x.json")


def test_own_rows_from_windows(tmp_path: Path, samples: Any) -> None:
    """With a byte order mark, CRLF, and NaN where a table had nothing."""
    rows = [samples.engagement(n, user_id="ann", reason=math.nan, prompt="Tee?\u2028süß") for n in (1, 2)]
    written = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    (tmp_path / "r.jsonl").write_bytes(b"\xef\xbb\xbf" + written.encode())
    found = list(read(tmp_path / "r.jsonl", "ndjson", Skips()))
    assert [(user, row.id, row.reason) for user, row in found] == [("ann", "e1", None), ("ann", "e2", None)]
    assert found[0][1].prompt == "Tee?\u2028süß"
