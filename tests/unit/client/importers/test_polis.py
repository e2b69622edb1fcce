"""`mindprint.importers.polis`"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mindprint.importers import BadImport, Skips, read
from mindprint.types import Engagement

COMMENTS = (
    'timestamp,datetime,comment-id,author-id,agrees,moderated,comment-body\n1,x,0,5,1,1,"Tea, ""hot""\nor cold"\n'
)
VOTES = "timestamp,datetime,comment-id,voter-id,vote\n"
WHEN = datetime(2017, 7, 14, 2, 40, tzinfo=UTC)


def load(folder: Path, comments: str | bytes, votes: str | bytes) -> tuple[list[tuple[str, Engagement]], Skips]:
    place, skips = folder / "my talk", Skips()
    place.mkdir()
    for name, content in (("comments.csv", comments), ("votes.csv", votes)):
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read(place, "polis", skips)), skips


def test_every_vote_is_an_engagement(tmp_path: Path) -> None:
    rows, skips = load(tmp_path, COMMENTS, VOTES + "1500000000,x,0,7,1\n1500000000000,x,0,8,-1.0\n1500000001,x,0,7,0\n")
    assert not skips
    assert [row.response for _, row in rows] == ["agree", "disagree", "pass"]
    assert [row.occurred_at for _, row in rows] == [WHEN, WHEN, WHEN + timedelta(seconds=1)]
    (user, row), (other, _), (again, later) = rows
    assert user == again != other
    assert user.startswith("my-talk-7-")
    assert row.prompt == 'Do you agree with this statement?\nTea, "hot"\nor cold'
    assert row.choices == ["agree", "disagree", "pass"]
    assert (row.id, later.id) == ("0/1500000000", "0/1500000001")


def test_votes_of_one_second_keep_their_order(tmp_path: Path) -> None:
    comments = "comment-id,comment-body\n0,a\n1,b\n"
    rows, _ = load(tmp_path, comments, VOTES + "1500000000,x,1,7,1\n1500000000,x,0,7,1\n")
    assert [row.id for _, row in rows] == ["1/1500000000", "0/1500000000"]
    assert rows[0][1].occurred_at < rows[1][1].occurred_at


def test_a_byte_order_mark_crlf_and_no_times(tmp_path: Path) -> None:
    comments = "\ufeffComment-Id , comment-body\r\n0,süß\r\n".encode()
    rows, skips = load(tmp_path, comments, "\ufeffvoter-id,comment-id,vote\r\n7,0,1\r\n\r\n8,0,0\r\n".encode())
    assert not skips
    assert rows[0][1].prompt.endswith("\nsüß")
    assert rows[0][1].occurred_at < rows[1][1].occurred_at


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    votes = "1500000000,x,0,7,1\n" * 2 + "1,x,0,7,2\n1,x,0,7,NaN\n1,x,9,7,1\n1,x,1,7,1\n1,x,0,,1\nsoon,x,0,7,1\n1,x\n"
    rows, skips = load(tmp_path, COMMENTS + "1,x,1,5,1,1,\n", VOTES + votes)
    assert len(rows) == 1
    assert skips == {
        "id is repeated": 1,
        "vote is not 1, 0 or -1": 2,
        "comment is not in comments.csv": 1,
        "comment is empty": 1,
        "vote without a voter": 2,
        "time cannot be read": 1,
    }


@pytest.mark.parametrize(
    ("comments", "votes", "complaint"),
    [
        (COMMENTS, "comment-id,vote\n", r"votes\.csv:1: lacks the column voter-id; found comment-id, vote"),
        ("", VOTES, r"comments\.csv:1: lacks the column comment-id; found nothing"),
        (COMMENTS, VOTES.encode() + b"1,x,0,7,1\n1,\xff,0,7,1\n", r"votes\.csv:3: is no UTF-8 text"),
        ('comment-id,comment-body\n0,"never closed\n', VOTES, r"comments\.csv:2: is no CSV \(unexpected end of data\)"),
    ],
)
def test_malformed_files_are_refused_with_their_line(
    tmp_path: Path, comments: str, votes: str | bytes, complaint: str
) -> None:
    with pytest.raises(BadImport, match=complaint):
        load(tmp_path, comments, votes)


def test_a_folder_that_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(BadImport, match=r"has no comments\.csv"):
        list(read(tmp_path, "polis", Skips()))
