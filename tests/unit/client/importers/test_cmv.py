"""`mindprint.importers.cmv`"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mindprint.importers import BadImport, Skips, read
from mindprint.types import Engagement

PAIR = {"title": "CMV: tea", "body": "I like it.", "chosen": "Coffee wakes.", "rejected": "No."}
NESTED = {
    "post": {"title": "CMV: tea", "selftext": "I like it."},
    "positive": {"body": "Coffee wakes."},
    "negative": [{"text": "No."}, "Coffee wakes."],
}


def load(path: Path) -> tuple[list[tuple[str, Engagement]], Skips]:
    skips = Skips()
    return list(read(path, "cmv", skips)), skips


def write(folder: Path, data: object, name: str = "history_data.json") -> Path:
    (folder / name).write_text(json.dumps(data), encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    "data",
    [
        {"ann": [PAIR]},
        {"ann": {"posts": [PAIR]}},
        [{"author": "ann", "history": [PAIR]}],
        [{"user_id": "ann", "items": [NESTED]}],
    ],
)
def test_shapes(tmp_path: Path, data: object) -> None:
    ((user, row),), skips = load(write(tmp_path, data))
    assert not skips
    assert (user, row.id, row.choices) == ("ann", "history/row-1", ["A", "B"])
    assert row.prompt.startswith("CMV: tea\n\nI like it.\n\nWhich reply changed your view?\n[A] ")
    assert f"[{row.response}] Coffee wakes." in row.prompt
    assert "[" + {"A": "B", "B": "A"}[row.response] + "] No." in row.prompt


def test_position_of_the_answer_reveals_nothing(tmp_path: Path) -> None:
    posts = [{"post": f"post {n}", "reply": f"good {n}", "rejected": f"bad {n}"} for n in range(60)]
    rows, _ = load(write(tmp_path, {"ann": posts}))
    assert 15 < sum(row.response == "A" for _, row in rows) < 45


def test_replies_alone_are_free_answers_with_reason_id_and_time(tmp_path: Path) -> None:
    post = {"id": "x y", "post": "p", "reply": ["one", "two"], "reason": "clear", "created_utc": 1_500_000_000}
    rows, _ = load(write(tmp_path, {"u/Ann": [post]}))
    assert [(row.response, row.reason, row.choices) for _, row in rows] == [
        ("one", "clear", None),
        ("two", "clear", None),
    ]
    assert rows[0][0].startswith("u-Ann-")
    assert len({row.id for _, row in rows}) == 2
    assert rows[0][1].occurred_at == datetime(2017, 7, 14, 2, 40, tzinfo=UTC) < rows[1][1].occurred_at


@pytest.mark.parametrize("dated", [True, False])
def test_a_folder_holds_the_past_and_what_came_later(tmp_path: Path, dated: bool) -> None:
    times = {"timestamp": "2016-01-01"} if dated else {}
    write(tmp_path, [{"author": "ann", "posts": [{**PAIR, **times}, {**PAIR, **times}]}])
    evaluation = write(tmp_path, {"ann": [PAIR], "bob": [PAIR]}, "evaluation_data.json")
    rows, skips = load(tmp_path)
    assert not skips
    mine = [row for user, row in rows if user == "ann"]
    assert [row.id for row in mine] == ["history/row-1", "history/row-2", "evaluation/row-1"]
    assert mine == sorted(mine, key=lambda row: row.occurred_at)
    assert len({row.occurred_at for row in mine}) == 3
    (alone, *_), _ = load(evaluation)
    assert alone[1].occurred_at.year == 2001


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    posts: list[Any] = [
        {"id": 1, **PAIR},
        {"id": 1, **PAIR},
        {**PAIR, "chosen": None},
        {"reply": "r"},
        "post",
        {**PAIR, "date": "soon"},
        {**PAIR, "rejected": [str(n) for n in range(40)]},
    ]
    rows, skips = load(write(tmp_path, {"ann": posts}))
    assert [row.id for _, row in rows] == ["history/1"]
    assert skips == {
        "id is repeated": 1,
        "post without a reply": 1,
        "post without a question": 2,
        "time cannot be read": 1,
        "more than 26 candidates": 1,
    }


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (
            {"ann": [{"speech": 1, "answer": 2}]},
            "post 1 of entry 'ann' lacks a question and has the keys speech, answer",
        ),
        (
            {"ann": [{"post": "p", "answer": 2}]},
            "lacks a reply and has the keys post, answer; read are title, .*chosen",
        ),
        ({"ann": 7}, "entry 'ann': needs a list of posts under history, .*; here are a int"),
        ([[PAIR]], "entry 1: an author needs a name under author, .*; here are a list"),
        ([{"author": "ann", "talk": []}], "needs a list of posts under .*; here are the keys author, talk"),
        (7, "a JSON array or object is needed"),
    ],
)
def test_files_of_another_shape_are_refused_with_what_they_hold(tmp_path: Path, data: object, complaint: str) -> None:
    with pytest.raises(BadImport, match=complaint):
        load(write(tmp_path, data))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(BadImport, match=r"has neither history_data\.json nor evaluation_data\.json"):
        load(tmp_path)


def test_deleted_authors_are_nobody_and_removed_texts_no_answers(tmp_path: Path) -> None:
    gone = {**PAIR, "chosen": "[removed]"}
    data = {"[deleted]": [PAIR, PAIR], "": [PAIR], "ann": [gone, {**PAIR, "rejected": "[deleted]"}], "None": [PAIR]}
    rows, skips = load(write(tmp_path, data))
    assert [(user, row.response, row.choices) for user, row in rows] == [("ann", "Coffee wakes.", None)]
    assert skips == {"author is deleted, anonymous or a bot": 4, "post without a reply": 1}
    assert skips.bad == 0
    _, skips = load(write(tmp_path, [{"author": None, "posts": [PAIR]}, {"author": "ann", "posts": [PAIR]}]))
    assert skips == {"author is deleted, anonymous or a bot": 1}


def test_entities_are_decoded_and_a_removed_body_leaves_the_title(tmp_path: Path) -> None:
    post = {"title": "CMV: tea &amp;amp; milk", "selftext": "[removed]", "reply": "&gt; tea\n\nNo."}
    rows, _ = load(write(tmp_path, {"ann": [post]}))
    assert [(row.prompt, row.response) for _, row in rows] == [("CMV: tea & milk", "> tea\n\nNo.")]


@pytest.mark.parametrize("key", ["author", "user_id"])
def test_posts_of_several_authors_under_one_name_are_refused(tmp_path: Path, key: str) -> None:
    """`{"rows": [...]}` would make one person of all."""
    posts = [{"title": "T", "positive": "p", key: name} for name in ("ann", "bob")]
    (tmp_path / "p.json").write_text(json.dumps({"ann": posts}))
    with pytest.raises(BadImport, match="entry 'ann', post 2: is of 'bob', not of 'ann'"):
        list(read(tmp_path / "p.json", "cmv", Skips()))
    (tmp_path / "p.json").write_text(json.dumps({"ann": [posts[0], {**posts[1], key: "[deleted]"}]}))
    assert [user for user, _ in read(tmp_path / "p.json", "cmv", Skips())] == ["ann", "ann"]
