"""`mindprint.importers.parquet`"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mindprint.importers import BadImport, Skips, detect, read
from mindprint.types import Engagement

UUIDS = [uuid.UUID(int=7), uuid.UUID(int=8)]
WHEN = datetime(2017, 7, 14, 2, 40, tzinfo=UTC)


def load(folder: Path, **columns: Any) -> tuple[list[tuple[str, Engagement]], Skips]:
    file, skips = folder / "t.parquet", Skips()
    made = {"question": ["Tea?", "Milk?"], "answer": ["yes", "no"], "user": ["ann", "bob"], **columns}
    pq.write_table(pa.table(made), file)
    return list(read(file, detect(file), skips)), skips


@pytest.mark.parametrize(
    ("users", "names"),
    [
        (pa.array([Decimal(7), Decimal(8)], pa.decimal128(38, 0)), ["7", "8"]),
        (pa.array([b"ann", b"bob"]), ["ann", "bob"]),
        (pa.array(["ann", "bob"]).dictionary_encode(), ["ann", "bob"]),
        (pa.array(["ann", "bob"], pa.large_string()), ["ann", "bob"]),
        (
            pa.array([uuid.UUID(int=7).bytes, uuid.UUID(int=8).bytes], pa.uuid()),
            [str(uuid.UUID(int=n)) for n in (7, 8)],
        ),
    ],
    ids=["decimal", "binary", "dictionary", "large", "uuid"],
)
def test_users_of_each_type_are_people(tmp_path: Path, users: pa.Array, names: list[str]) -> None:
    rows, skips = load(tmp_path, user=users)
    assert [user for user, _ in rows] == names
    assert not skips


def test_answers_and_choices_may_be_decimals(tmp_path: Path) -> None:
    choices = pa.array([[Decimal("1.5"), Decimal(2)]] * 2, pa.list_(pa.decimal128(5, 1)))
    rows, _ = load(tmp_path, answer=pa.array([Decimal("1.5"), Decimal(2)], pa.decimal128(5, 1)), choices=choices)
    assert [(row.response, row.choices) for _, row in rows] == [("1.5", ["1.5", "2"]), ("2", ["1.5", "2"])]


def test_nanoseconds_are_cut(tmp_path: Path) -> None:
    rows, _ = load(tmp_path, time=pa.array([1_500_000_000_000_000_999, 1_500_000_001_000_000_000], pa.timestamp("ns")))
    assert [row.occurred_at for _, row in rows] == [WHEN, WHEN.replace(second=1)]
    assert [type(row.occurred_at) for _, row in rows] == [datetime, datetime]


def test_a_time_that_no_calendar_has_costs_its_row(tmp_path: Path) -> None:
    rows, skips = load(tmp_path, time=pa.array([2**60, 1_500_000_000_000], pa.timestamp("ms")))
    assert [(user, row.occurred_at) for user, row in rows] == [("bob", WHEN)]
    assert [(row.where.rpartition(": ")[2], row.bad) for row in skips.places] == [("row 1", True)]


def test_values_that_are_no_texts_are_faults(tmp_path: Path) -> None:
    rows, skips = load(tmp_path, user=pa.array([{"id": 1}, {"id": 2}]))
    assert not rows
    assert skips == {"user is of type dict, no text": 2}
    assert skips.bad == 2
    rows, skips = load(tmp_path, question=pa.array([b"Tea?", b"\xff"]))
    assert [user for user, _ in rows] == ["ann"]
    assert skips == {"question is of type bytes, no text": 1}


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["answer", "answer"]), file)
    with pytest.raises(BadImport, match="has two columns 'answer': rename one"):
        detect(file)


def test_lists_of_messages_are_a_chat(tmp_path: Path) -> None:
    said = [
        {"role": role, "content": content}
        for role, content in (("user", "Where?"), ("assistant", "Sea?"), ("user", "hills"))
    ]
    for column in ("messages", "conversation"):
        file, skips = tmp_path / f"{column}.parquet", Skips()
        pq.write_table(pa.table({"user": ["ann"], column: [said]}), file)
        assert detect(file) == "chat"
        rows = list(read(file, "chat", skips))
        assert [(user, row.response) for user, row in rows] == [("ann", "hills")]
        assert not skips
