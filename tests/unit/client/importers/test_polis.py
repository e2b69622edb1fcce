"""`mindprint.importers.polis`"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint.importers import BadImport, ReadOptions, Skips, read
from mindprint.importers.polis import CommentCounts, vote_of_agree
from mindprint.types import Engagement
from mindprint.valid_ids import user_name

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
    comments = COMMENTS + "1,x,1,5,0,1,Milk\n"
    rows, skips = load(tmp_path, comments, VOTES + "1500000000,x,0,7,1\n1500000000000,x,0,8,-1.0\n1500000001,x,1,7,0\n")
    assert not skips
    assert [row.response for _, row in rows] == ["agree", "disagree", "pass"]
    assert [row.occurred_at for _, row in rows] == [WHEN, WHEN, WHEN + timedelta(seconds=1)]
    (user, row), (other, _), (again, later) = rows
    assert user == again != other
    assert user.startswith("my-talk-7-")
    assert row.prompt == 'Do you agree with this statement?\nTea, "hot"\nor cold'
    assert row.choices == ["agree", "disagree", "pass"]
    assert (row.id, later.id) == ("0/1500000000", "1/1500000001")


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
    votes = "1500000000,x,0,7,1\n" * 2 + "1,x,0,7,2\n1,x,0,7,NaN\n,x,9,7,1\n,x,1,7,1\n1,x,0,,1\nsoon,x,0,8,1\n1,x\n"
    rows, skips = load(tmp_path, "comment-id,comment-body\n0,Tea\n1,\n", VOTES + votes)
    assert len(rows) == 1
    assert skips == {
        "id is repeated": 1,
        "vote is not 1, 0 or -1": 2,
        "comment is not in comments.csv": 1,
        "comment is empty": 1,
        "vote without a voter": 1,
        "time cannot be read": 1,
        "row has another number of fields": 1,
    }
    assert skips.bad == 5
    last = next(row for row in skips.places if row.where.endswith("votes.csv:10"))
    assert last.reason == "has 2 fields instead of 5"


def test_a_later_vote_wins(tmp_path: Path) -> None:
    votes = "1500000009,x,0,7,-1\n1500000000,x,0,7,1\n1500000000,x,0,8,0\n1500000000,x,0,8,1\n"
    rows, skips = load(tmp_path, "comment-id,comment-body\n0,Tea\n", VOTES + votes)
    assert [(user[:9], row.response) for user, row in rows] == [("my-talk-7", "disagree"), ("my-talk-8", "agree")]
    assert skips == {"a later one of the same user replaces it": 2}


def export(
    agree: int,
    *,
    counts: tuple[tuple[int, int], ...] = ((3, 1), (0, 2)),
    votes: tuple[tuple[int, int], ...] = ((3, 1), (0, 2)),
) -> tuple[str, str]:
    """Comments with these agrees and disagrees, and votes that are so many, where `agree` is the vote for agree."""
    comments = "comment-id,comment-body,agrees,disagrees\n"
    comments += "".join(f"{id},Tea {id},{agrees},{disagrees}\n" for id, (agrees, disagrees) in enumerate(counts))
    cast = VOTES
    for id, (agrees, disagrees) in enumerate(votes):
        signs = [agree] * agrees + [-agree] * disagrees
        cast += "".join(f"1500000000,x,{id},{voter},{sign}\n" for voter, sign in enumerate(signs))
    return comments, cast


@pytest.mark.parametrize("agree", [1, -1])
def test_sign_of_a_vote_is_that_of_the_counts(tmp_path: Path, agree: int) -> None:
    rows, skips = load(tmp_path, *export(agree))
    assert [row.response for _, row in rows] == ["agree"] * 3 + ["disagree"] * 3
    assert skips.notes == [f"vote {agree} is agree, by the counts of comments.csv"]


@pytest.mark.parametrize("agree", [1, -1])
def test_sign_is_that_of_the_counts_although_votes_were_changed_or_cannot_be_read(tmp_path: Path, agree: int) -> None:
    comments, votes = export(agree)
    changed = f"1500000005,x,0,3,{agree}\n1500000006,x,0,3,{-agree}\n1500000007,x,1,1\n"
    rows, _ = load(tmp_path, comments, votes + changed)
    assert [row.response for _, row in rows] == ["agree"] * 3 + ["disagree"] * 3


@pytest.mark.parametrize("votes", [((1, 3), (0, 2)), ((2, 2), (1, 1)), ((3, 1), (2, 0)), ((0, 0), (0, 0))])
@pytest.mark.parametrize("agree", [1, -1])
def test_counts_that_fit_neither_sign_are_refused(tmp_path: Path, votes: Any, agree: int) -> None:
    with pytest.raises(
        BadImport, match=r"votes\.csv: its votes fit the agrees and disagrees of comments\.csv with neither"
    ):
        load(tmp_path, *export(agree, votes=votes))


def test_sign_is_as_documented_without_counts_or_as_the_caller_says(tmp_path: Path) -> None:
    _, votes = export(1)
    rows, skips = load(tmp_path, "comment-id,comment-body\n0,Tea\n1,Milk\n", votes)
    assert [row.response for _, row in rows] == ["agree"] * 3 + ["disagree"] * 3
    assert skips.notes == ["vote 1 is agree, as documented, since comments.csv has no counts"]
    said = read(tmp_path / "my talk", "polis", Skips(), options=ReadOptions(agree_vote=-1))
    assert [row.response for _, row in said] == ["disagree"] * 3 + ["agree"] * 3


@given(
    counts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6),
    agree=st.sampled_from([1, -1]),
)
def test_no_vote_is_inverted(counts: list[tuple[int, int]], agree: int) -> None:
    said = {str(id): CommentCounts(*pair) for id, pair in enumerate(counts)}
    cast = {(str(id), agree): pair[0] for id, pair in enumerate(counts)}
    cast |= {(str(id), -agree): pair[1] for id, pair in enumerate(counts)}
    assert vote_of_agree(said, cast) == (None if all(a == b for a, b in counts) else agree)


def test_a_row_that_is_no_csv_costs_one_row(tmp_path: Path) -> None:
    comments = (
        'comment-id,comment-body\n0,"He said ""no"", loudly"\n1,"He said \\"no\\", loudly"\n2,"He said "no" to me"\n'
        '3,"never closed\n4,Tea, hot\n5,"two\nlines"\n6,Milk\n'
    )
    votes = VOTES + "".join(f"1500000000,x,{id},7,1\n" for id in range(7))
    rows, skips = load(tmp_path, comments, votes)
    assert [row.prompt.partition("\n")[2] for _, row in rows] == ['He said "no", loudly', "two\nlines", "Milk"]
    assert skips == {"row is no CSV": 3, "row has another number of fields": 1, "comment is not in comments.csv": 4}
    bad = [row for row in skips.places if row.bad]
    assert [row.where.rpartition("/")[2] for row in bad] == [f"comments.csv:{line}" for line in (3, 4, 5, 6)]
    assert bad[3].reason == "has 3 fields instead of 2"


def test_a_quote_at_the_end_of_a_large_file_costs_one_row(tmp_path: Path) -> None:
    lines = "".join(f"{id},Tea {id}\n" for id in range(2, 20_000))
    comments = f'comment-id,comment-body\n0,"never closed\n{lines}'
    rows, skips = load(tmp_path, comments, "voter-id,comment-id,vote\n7,0,1\n7,19999,1\n")
    assert [row.prompt.rpartition("\n")[2] for _, row in rows] == ["Tea 19999"]
    assert skips["row is no CSV"] == 1


@pytest.mark.parametrize(("encoding", "delimiter"), [("utf-16", "\t"), ("utf-8", ";"), ("utf-8-sig", ",")])
def test_tables_as_spreadsheets_write_them(tmp_path: Path, encoding: str, delimiter: str) -> None:
    comments, votes = (
        text.replace(",", delimiter).encode(encoding)
        for text in ("comment-id,comment-body\r\n0,süß\r\n", "voter-id,comment-id,vote,\r\n7,0,1,\r\n")
    )
    rows, skips = load(tmp_path, comments, votes)
    assert not skips
    assert rows[0][1].prompt.endswith("\nsüß")


def test_a_removed_comment_is_no_question(tmp_path: Path) -> None:
    rows, skips = load(
        tmp_path,
        "comment-id,comment-body\n0,[removed]\n1,x &amp;amp; y\n",
        "voter-id,comment-id,vote\n7,0,1\n7,1,1\nanonymous,1,1\n",
    )
    assert [row.prompt.rpartition("\n")[2] for _, row in rows] == ["x & y"]
    assert skips == {"comment is empty": 1, "author is deleted, anonymous or a bot": 1}


@pytest.mark.parametrize(
    ("comments", "votes", "complaint"),
    [
        (COMMENTS, "comment-id,vote\n", r"votes\.csv:1: lacks the column voter-id; found comment-id, vote"),
        ("", VOTES, r"comments\.csv:1: lacks the column comment-id; found nothing"),
        (COMMENTS, b"voter-id,comment-id,vote,\xff\n", r"votes\.csv:1: is no UTF-8 text"),
        ('comment-id,"comment-body\n0,never closed\n', VOTES, r"comments\.csv:1: is no CSV \(unexpected end of data\)"),
    ],
)
def test_malformed_files_are_refused_with_their_line(
    tmp_path: Path, comments: str, votes: str | bytes, complaint: str
) -> None:
    with pytest.raises(BadImport, match=complaint):
        load(tmp_path, comments, votes)


def test_a_row_that_is_no_utf_8_is_counted(tmp_path: Path) -> None:
    rows, skips = load(tmp_path, COMMENTS, VOTES.encode() + b"1500000000,x,0,7,1\n1,\xff,0,8,1\n")
    assert len(rows) == 1
    assert [(row.where.rpartition(":")[2], row.reason) for row in skips.places] == [("3", "is no UTF-8 text")]


def test_a_folder_that_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(BadImport, match=r"has no comments\.csv"):
        list(read(tmp_path, "polis", Skips()))


@pytest.mark.parametrize("counts", ["2.0,0.0", '"2",0.00', "2.0,"])
def test_counts_as_other_programs_write_them(tmp_path: Path, counts: str) -> None:
    comments = f"comment-id,comment-body,agrees,disagrees\n0.0,Tea,{counts}\n"
    rows, skips = load(tmp_path, comments, VOTES + "1500000000,x,0,7.0,-1\n1500000000,x,0.0,8.0,-1\n")
    assert [(user, row.response) for user, row in rows] == [
        (user_name("my talk-7"), "agree"),
        (user_name("my talk-8"), "agree"),
    ]
    assert skips.notes == ["vote -1 is agree, by the counts of comments.csv"]


def test_counts_of_thousands(tmp_path: Path) -> None:
    comments = 'comment-id,comment-body,agrees,disagrees\n0,Tea,"1,200",\n'
    votes = "".join(f"1500000000,x,0,{voter},-1\n" for voter in range(1200))
    rows, _ = load(tmp_path, comments, VOTES + votes)
    assert {row.response for _, row in rows} == {"agree"}


def test_counts_that_cannot_be_read_are_not_taken_for_none(tmp_path: Path) -> None:
    comments, votes = "comment-id,comment-body,agrees,disagrees\n0,Tea,two,none\n", VOTES + "1500000000,x,0,7,-1\n"
    with pytest.raises(BadImport, match=r"comments\.csv:2: agrees and disagrees cannot be read \('two', 'none'\)"):
        load(tmp_path, comments, votes)
    rows = list(read(tmp_path / "my talk", "polis", Skips(), options=ReadOptions(agree_vote=-1)))
    assert [row.response for _, row in rows] == ["agree"]


def test_two_conversations_in_one_folder_are_refused(tmp_path: Path) -> None:
    comments = "comment-id,comment-body\n0,Tea\n1,Milk\n0,Roads\n"
    with pytest.raises(BadImport, match=r"comments\.csv:4: comment '0' stands twice with different texts"):
        load(tmp_path, comments, VOTES + "1500000000,x,0,7,1\n")


def test_names_of_columns_with_underscores(tmp_path: Path) -> None:
    rows, _ = load(tmp_path, "comment_id,Comment Body\n0,Tea\n", "voter_id,comment_id,vote\n7,0,1\n")
    assert [row.response for _, row in rows] == ["agree"]
