"""`mindprint.importers.chat` and `messages`"""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mindprint.importers import ReadOptions, Skips, detect, read
from mindprint.importers.chat import ONLY_ANSWERS
from mindprint.importers.messages import MAX_TRANSCRIPT, Message, transcript
from mindprint.types import Engagement

Found = list[tuple[str, Engagement]]


def turns(*texts: str | dict[str, Any]) -> list[dict[str, Any]]:
    """Messages of user and assistant in turn, beginning with the user."""
    return [
        {"role": ("user", "assistant")[n % 2], **(said if isinstance(said, dict) else {"content": said})}
        for n, said in enumerate(texts)
    ]


def load(tmp_path: Path, *rows: dict[str, Any] | str, user: str | None = None, **options: Any) -> tuple[Found, Skips]:
    file = tmp_path / "log.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    skips = Skips()
    kind = "chat" if isinstance(rows[0], str) else detect(file)
    assert kind == "chat"
    return list(read(file, kind, skips, user=user, options=ReadOptions(**options))), skips


def told(rows: Found) -> list[tuple[str, str, str]]:
    return [(user, row.prompt, row.response) for user, row in rows]


def test_a_later_message_is_the_response_to_what_stands_before(tmp_path: Path) -> None:
    row = {
        "user": "ann",
        "id": "c1",
        "created": 1_500_000_000,
        "messages": turns("Where?", "Sea or hills?", "sea", "Ok.", "Thanks"),
    }
    rows, skips = load(tmp_path, row)
    assert not skips
    assert told(rows) == [
        ("ann", "User: Where?\n\nAssistant: Sea or hills?", "sea"),
        ("ann", "User: Where?\n\nAssistant: Sea or hills?\n\nUser: sea\n\nAssistant: Ok.", "Thanks"),
    ]
    assert [found.id for _, found in rows] == ["c1/2", "c1/4"]
    assert rows[0][1].occurred_at == datetime(2017, 7, 14, 2, 40, tzinfo=UTC) < rows[1][1].occurred_at


def test_a_single_question_is_the_prompt_as_it_is(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": [{"type": "text", "text": "Sea or hills?"}, {"type": "image_url"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "42"},
        {"role": "user", "content": "sea"},
        {"role": "user", "content": "no, hills"},
    ]
    rows, _ = load(tmp_path, {"metadata": {"user_id": "ann@example.com"}, "messages": messages})
    assert [(row.prompt, row.response) for _, row in rows] == [("Sea or hills?", "sea\n\nno, hills")]
    assert rows[0][0].startswith("ann-example-com-")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": turns("Write", {"content": "draft", "edited": "mine"})},
        {"messages": turns("Write", "draft"), "edit": "mine"},
        {"messages": turns("Write", "draft"), "edit": {"role": "assistant", "content": "mine"}},
        {"messages": turns("Write", {"content": "draft", "choices": ["a", "mine"], "chosen": 1})},
        {
            "messages": turns("Write", "draft"),
            "choices": [{"message": {"content": "mine"}}, {"message": {}}],
            "choice": 0,
        },
        {"messages": turns("Write"), "choices": ["a", "mine"], "chosen": "mine"},
    ],
)
def test_an_edit_or_choice_is_the_response(tmp_path: Path, row: dict[str, Any]) -> None:
    rows, skips = load(tmp_path, {"user_id": "ann", **row})
    assert not skips
    assert told(rows) == [("ann", "Write", "mine")]


def test_what_comes_later_shows_the_edit(tmp_path: Path) -> None:
    row = {"user": "ann", "messages": turns("Write", {"content": "draft", "edited": "mine"}, "Shorter")}
    assert told(load(tmp_path, row)[0])[1] == ("ann", "User: Write\n\nAssistant: mine", "Shorter")


def test_answers_of_the_assistant_are_not_the_users(tmp_path: Path) -> None:
    row = {"user": "ann", "messages": turns("Tea?", "Yes.")}
    rows, skips = load(tmp_path, row)
    assert not rows
    assert skips == {ONLY_ANSWERS: 1}
    assert told(load(tmp_path, row, assistant_answers=True)[0]) == [("ann", "Tea?", "Yes.")]


@pytest.mark.parametrize("id", [{"conversation_id": "c"}, {}])
def test_a_conversation_that_is_logged_with_each_request_comes_in_once(tmp_path: Path, id: dict[str, str]) -> None:
    said = ("Where?", "Sea or hills?", "sea", "Ok.", "Thanks")
    rows, skips = load(tmp_path, *({"user": "ann", **id, "messages": turns(*said[:n])} for n in (1, 3, 5)))
    assert [row.response for _, row in rows] == ["sea", "Thanks"]
    assert skips == {"chat without a later message, choice or edit of the user": 1, "id is repeated": 1}


def test_what_names_the_option_for_the_assistants_answers(tmp_path: Path) -> None:
    """The option is named where it helps: the chat has an answer, and the option is not given."""
    _, skips = load(tmp_path, {"user": "ann", "messages": turns("Tea?", "Yes.")}, {"messages": turns("Tea?")})
    nothing = "chat without a later message, choice or edit of the user"
    assert skips == {f"{nothing}: --assistant-answers takes the assistant's answers as the user's": 1, nothing: 1}
    assert load(tmp_path, {"user": "ann", "messages": turns("Tea?")}, assistant_answers=True)[1] == {nothing: 1}


def test_a_later_choice_wins(tmp_path: Path) -> None:
    first, second = (
        {"user": "ann", "id": "c", "messages": turns("Where?", "Sea or hills?", answer)} for answer in ("sea", "hills")
    )
    rows, skips = load(tmp_path, first, second)
    assert [row.response for _, row in rows] == ["hills"]
    assert skips == {"a later one of the same user replaces it": 1}


def test_two_users_with_the_same_conversation_stay_two(tmp_path: Path) -> None:
    rows, _ = load(tmp_path, *({"user": user, "id": "c", "messages": turns("a", "b", user)} for user in ("ann", "bob")))
    assert [(user, row.response) for user, row in rows] == [("ann", "ann"), ("bob", "bob")]


def test_names_tell_the_users_of_one_conversation_apart(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "name": "ann", "content": "Tea?"},
        {"role": "assistant", "content": "Hot?"},
        {"role": "user", "name": "bob", "content": "cold"},
        {"role": "user", "name": "ann", "content": "hot"},
    ]
    rows, _ = load(tmp_path, {"user": "team", "messages": messages})
    assert [(user, row.response) for user, row in rows] == [("bob", "cold"), ("ann", "hot")]
    rows, _ = load(tmp_path, {"user": "ann-1", "messages": messages[:1] + messages[1:2] + messages[3:]})
    assert [user for user, _ in rows] == ["ann-1"]


@pytest.mark.parametrize("asked", [[{"type": "image_url"}], "Tea?"])
def test_a_message_after_another_users_question_is_its_authors(tmp_path: Path, asked: Any) -> None:
    messages = [
        {"role": "user", "name": "Alice", "content": asked},
        {"role": "assistant", "content": "Hot?"},
        {"role": "user", "name": "Bob", "content": "cold"},
    ]
    rows, _ = load(tmp_path, {"user_id": "alice", "messages": messages})
    assert [(user, row.response) for user, row in rows] == [("Bob", "cold")]


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    messages = turns("a", "b", "c")
    rows, skips = load(
        tmp_path,
        "{",
        {"user": "ann", "messages": []},
        {"messages": messages},
        {"user": None, "messages": messages},
        {"user": "ann", "messages": turns("a", "b", "[removed]")},
        {"user": "ann", "messages": messages, "created": "soon"},
    )
    assert not rows
    assert skips == {
        "line is no JSON object": 1,
        "row has no messages": 1,
        "has no user": 1,
        "author is deleted, anonymous or a bot": 1,
        "answer is empty, deleted or removed": 1,
        "time cannot be read": 1,
    }
    assert [row.where.rpartition(":")[2] for row in skips.places if row.bad] == ["1", "2", "3", "6"]
    assert [user for user, _ in load(tmp_path, {"messages": messages}, user="ann")[0]] == ["ann"]


def test_code_stays_as_it_was_written(tmp_path: Path) -> None:
    rows, _ = load(tmp_path, {"user": "ann", "messages": turns("How?", "Write &lt;b&gt;", "&amp; why?")})
    assert told(rows) == [("ann", "User: How?\n\nAssistant: Write &lt;b&gt;", "&amp; why?")]


def test_a_long_transcript_keeps_its_end() -> None:
    messages = [Message("user", f"{n} " + "x" * 20_000) for n in range(5)]
    shown = transcript(messages)
    assert len(shown) <= MAX_TRANSCRIPT
    assert shown.startswith("User: 3 ")
    assert shown.endswith("x")


@pytest.mark.parametrize("key", ["conversations", "conversation"])
def test_other_names_of_messages(tmp_path: Path, key: str) -> None:
    said = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Sea?"}, {"from": "human", "value": "hills"}]
    rows, _ = load(tmp_path, {"user": "ann", key: said})
    assert told(rows) == [("ann", "User: Where?\n\nAssistant: Sea?", "hills")]


def test_messages_as_a_text_in_a_table(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("w", newline="") as out:
        table = csv.writer(out)
        table.writerows([("user", "messages"), ("ann", json.dumps(turns("Where?", "Sea?", "hills")))])
    assert detect(tmp_path / "t.csv") == "chat"
    assert told(list(read(tmp_path / "t.csv", "chat", Skips()))) == [
        ("ann", "User: Where?\n\nAssistant: Sea?", "hills")
    ]


def node(parent: str | None, role: str, *parts: Any, at: float | None = None) -> dict[str, Any]:
    return {"parent": parent, "message": {"author": {"role": role}, "content": {"parts": parts}, "create_time": at}}


TREE: dict[str, Any] = {
    "conversation_id": "c1",
    "current_node": "e",
    "mapping": {
        "root": {"parent": None, "message": None},
        "a": node("root", "user", "Where?"),
        "old": node("a", "assistant", "Nowhere."),
        "older": node("old", "user", "why"),
        "b": node("a", "assistant", "Sea?"),
        "c": node("b", "user", {"asset_pointer": "x"}, "hills", at=1_500_000_000),
        "d": node("c", "tool", "42"),
        "e": node("d", "assistant", "Good."),
    },
}


def test_of_a_tree_the_last_branch_counts(tmp_path: Path) -> None:
    (tmp_path / "conversations.json").write_text(json.dumps([TREE]))
    assert detect(tmp_path / "conversations.json") == "chat"
    rows = list(read(tmp_path / "conversations.json", "chat", Skips(), user="me"))
    assert told(rows) == [("me", "User: Where?\n\nAssistant: Sea?", "hills")]
    assert rows[0][1].occurred_at == datetime(2017, 7, 14, 2, 40, tzinfo=UTC)


@pytest.mark.parametrize("current", ["loop", "gone", None, 7])
def test_a_tree_without_a_whole_branch(tmp_path: Path, current: Any) -> None:
    mapping = {**TREE["mapping"], "loop": node("loop", "user", "again")}
    rows, skips = load(tmp_path, {**TREE, "user": "ann", "mapping": mapping, "current_node": current})
    assert not rows
    assert skips.total() == 1


def test_a_user_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    rows, skips = load(tmp_path, {"user": {"name": "ann"}, "messages": turns("Where?", "Sea?", "hills")})
    assert not rows
    assert skips == {"user is of type dict, no text": 1}
    assert skips.bad == 1


@pytest.mark.parametrize("newest_first", [True, False])
def test_of_a_turn_that_comes_again_the_latest_counts(tmp_path: Path, newest_first: bool) -> None:
    rows = [
        {
            "user": "ann",
            "id": "c1",
            "created_at": f"2026-01-0{day}",
            "messages": turns("Where?", "Sea?"),
            "edited": said,
        }
        for day, said in ((1, "Lake."), (2, "Hills."))
    ]
    found, skips = load(tmp_path, *(rows[::-1] if newest_first else rows))
    assert told(found) == [("ann", "Where?", "Hills.")]
    assert skips == {"a later one of the same user replaces it": 1}
