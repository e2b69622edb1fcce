"""`mindprint.importers.convokit`"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mindprint.importers import BadImport, Skips, detect, read
from mindprint.types import Engagement


def utterance(id: str, speaker: str | None, said: str | None, reply_to: str | None, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": id,
        "conversation_id": "u1",
        "text": said,
        "speaker": speaker,
        "meta": {},
        "reply-to": reply_to,
    }
    return {**row, "timestamp": 1_500_000_000, **changes}


def load(
    folder: Path, *rows: Any, name: str = "utterances.jsonl", **files: Any
) -> tuple[list[tuple[str, Engagement]], Skips]:
    for file, content in files.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    if name.endswith(".jsonl"):
        (folder / name).write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    else:
        (folder / name).write_text(json.dumps(rows))
    skips = Skips()
    assert detect(folder) == "convokit"
    return list(read(folder, "convokit", skips)), skips


@pytest.mark.parametrize("name", ["utterances.jsonl", "utterances.json"])
def test_a_reply_is_an_engagement(tmp_path: Path, name: str) -> None:
    rows, skips = load(
        tmp_path,
        utterance("u3", "ann", "Cold &amp;amp; sweet.", "u2"),
        utterance("u1", "ann", "Tea?", None),
        utterance("u2", "Bob B.", "Hot?", "u1"),
        name=name,
        conversations={"u1": {"vectors": [], "meta": {"title": "About tea"}}},
        speakers={"ann": {"vectors": [], "meta": {}}},
    )
    assert [(row.prompt, row.response) for _, row in rows] == [("Hot?", "Cold & sweet."), ("About tea\n\nTea?", "Hot?")]
    assert rows[0][0] == "ann"
    assert rows[1][0].startswith("Bob-B-")
    assert rows[0][1].occurred_at == datetime(2017, 7, 14, 2, 40, tzinfo=UTC)
    assert skips == {"utterance replies to nothing": 1}


def test_keys_of_older_corpora(tmp_path: Path) -> None:
    old = [
        {"id": "1", "user": "ann", "root": "1", "reply_to": None, "text": "Tea?", "timestamp": "0"},
        {"id": "2", "user": "bob", "root": "1", "reply_to": "1", "text": "Yes", "timestamp": "61"},
    ]
    rows, _ = load(tmp_path, *old, name="utterances.json")
    assert [(user, row.response, row.occurred_at.second) for user, row in rows] == [("bob", "Yes", 1)]


def test_nobody_and_what_is_gone_is_left_out(tmp_path: Path) -> None:
    rows, skips = load(
        tmp_path,
        utterance("u1", "ann", "Tea?", None),
        utterance("u2", "[deleted]", "Yes", "u1"),
        utterance("u3", "bob", "[removed]", "u1"),
        utterance("u4", "cat", "Why?", "u3"),
        utterance("u5", "ann", "I mean green.", "u1"),
        utterance("u6", "AutoModerator", "Read the rules", "u1"),
        utterance("u7", "helper", "I am a bot", "u1"),
        utterance("u8", "dan", "Who?", "u99"),
        utterance("u9", None, "Who?", "u1"),
        utterance("u10", "eve", "Then", "u1", timestamp="soon"),
        {"id": "u11", "speaker": "eve"},
        "{",
        utterance("u12", "fay", "Fine", "u2"),
        utterance("u12", "fay", "Fine", "u2"),
        speakers={"helper": {"meta": {"is_bot": True}}},
    )
    assert [(user, row.prompt, row.response) for user, row in rows] == [("fay", "Yes", "Fine")]
    assert skips == {
        "utterance replies to nothing": 1,
        "author is deleted, anonymous or a bot": 4,
        "answer is empty, deleted or removed": 1,
        "utterance replies to one that is missing, deleted or removed": 2,
        "utterance replies to the same speaker": 1,
        "time cannot be read": 1,
        "utterance lacks id, speaker or text": 1,
        "line is no JSON object": 1,
        "id is repeated": 1,
    }
    assert skips.bad == 3


def test_replies_of_one_time_get_different_ones(tmp_path: Path) -> None:
    replies = [utterance(f"r{n}", "bob", f"no {n}", "u1", timestamp=None) for n in range(3)]
    rows, _ = load(tmp_path, utterance("u1", "ann", "Tea?", None), *replies)
    times = [row.occurred_at for _, row in rows]
    assert times == sorted(set(times))


def test_a_folder_without_utterances(tmp_path: Path) -> None:
    with pytest.raises(BadImport, match=r"has no utterances\.jsonl"):
        list(read(tmp_path, "convokit", Skips()))


def test_speakers_may_be_objects(tmp_path: Path) -> None:
    rows, skips = load(
        tmp_path,
        utterance("u1", {"id": "ann"}, "Sea or hills?", None),  # type: ignore[arg-type]
        utterance("u2", {"id": "bob"}, "Hills.", "u1"),  # type: ignore[arg-type]
        utterance("u3", ["cyd"], "Sea.", "u1"),  # type: ignore[arg-type]
    )
    assert [(user, row.response) for user, row in rows] == [("bob", "Hills.")]
    assert skips == {"utterance replies to nothing": 1, "user is of type list, no text": 1}
