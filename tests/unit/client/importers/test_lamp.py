"""`mindprint.importers.lamp`"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mindprint.importers import BadImport, Skips, read
from mindprint.types import Engagement

Rows = list[tuple[str, Engagement]]
ASKED = {
    1: 'For an author who has written the paper with the title "X", which reference is related? Answer [1] or [2].',
    2: "Which tag does this movie relate to among the following tags? tags: [comedy, twist ending] description: Y",
    3: "What is the score of the following review on a scale of 1 to 5? review: fine",
    4: "Generate a headline for the following article: A",
    5: "Generate a title for the following abstract of a paper: B",
    6: "Generate a subject for the following email: C",
    7: "Paraphrase the following tweet without any explanation before or after it: D",
}
ENTRY: dict[int, dict[str, Any]] = {
    1: {"title": "T", "abstract": "A"},
    2: {"tag": "comedy", "description": "A"},
    3: {"text": "A", "score": 4.0},
    4: {"text": "A", "title": "T"},
    5: {"title": "T", "abstract": "A"},
    6: {"text": "A", "title": "T"},
    7: {"text": "T"},
}
ANSWER = {1: "[2]", 2: "twist ending", 3: "5"}
LABELS = {2: ["comedy", "twist ending"], 3: ["1", "2", "3", "4", "5"]}


def question(task: int, *profile: dict[str, Any], id: str = "10", **changes: Any) -> dict[str, Any]:
    return {"id": id, "input": ASKED[task], "profile": list(profile), **changes}


def load(folder: Path, questions: object, golds: object = None, user: str | None = None) -> tuple[Rows, Skips]:
    file, outputs, skips = folder / "q.json", folder / "o.json", Skips()
    file.write_text(json.dumps(questions), encoding="utf-8")
    outputs.write_text(json.dumps(golds), encoding="utf-8")
    return list(read(file, "lamp", skips, outputs=outputs if golds is not None else None, user=user)), skips


@pytest.mark.parametrize("task", range(1, 8))
@pytest.mark.parametrize("named", [True, False])
def test_the_past_and_then_the_question(tmp_path: Path, task: int, named: bool) -> None:
    answer = ANSWER.get(task, "An answer")
    golds: Any = [{"id": "10", "output": answer}]
    rows, skips = load(
        tmp_path,
        [question(task, {"id": "a b", **ENTRY[task]}, {"id": 2, **ENTRY[task]})],
        {"task": f"LaMP_{task}", "golds": golds} if named else golds,
    )
    assert not skips
    assert [user for user, _ in rows] == [f"lamp-{task}-10"] * 3
    first, second, last = (row for _, row in rows)
    assert first.id.startswith("profile/a-b-")
    assert (second.id, last.id) == ("profile/2", "question/10")
    assert first.response == {2: "comedy", 3: "4"}.get(task, "T")
    assert task == 7 or first.prompt.endswith(": A")
    assert first.choices == LABELS.get(task)
    assert (last.prompt, last.response) == (ASKED[task], answer)
    assert last.choices == (["[1]", "[2]"] if task == 1 else LABELS.get(task))
    assert first.occurred_at < second.occurred_at < last.occurred_at


def test_news_have_categories_and_labels_come_from_the_whole_file(tmp_path: Path) -> None:
    asked = {"input": "Which category does this article relate to? article: Z"}
    rows, skips = load(
        tmp_path,
        [
            question(2, {"id": "1", "text": "A", "title": "t", "category": "sports"}, **asked),
            question(2, {"id": "1", "text": "B", "category": "arts"}, id="11", **asked),
        ],
        {"task": "LaMP_2N", "golds": [{"id": "10", "output": "law"}, {"id": "11", "output": "arts"}]},
    )
    assert not skips
    assert len(rows) == 4
    assert {tuple(row.choices or ()) for _, row in rows} == {("arts", "law", "sports")}
    assert rows[0][1].prompt == "Which category does this article relate to? article: A"


def test_dates_count_and_the_question_is_last_all_the_same(tmp_path: Path) -> None:
    profile = [{"id": str(n), "date": date, **ENTRY[7]} for n, date in enumerate(["2014-05-09", "2012", None])]
    rows, _ = load(tmp_path, [question(7, *profile, date="2013-01-01")], [{"id": "10", "output": "x"}])
    at = {row.id: row.occurred_at for _, row in rows}
    assert at["profile/0"] == datetime(2014, 5, 9, tzinfo=UTC)
    assert at["profile/1"] == datetime(2012, 1, 1, tzinfo=UTC)
    assert at["profile/1"] < at["profile/2"] < at["profile/0"] < at["question/10"]


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    profile: list[Any] = [
        {"id": "1", "text": "A", "score": 3},
        {"id": "1", "text": "A", "score": 3},
        {"id": "2", "text": "", "score": 3},
        {"id": "3", "text": "A", "score": math.nan},
        {"id": "4", "text": "A", "score": 6},
        {"id": "5", "text": "A\x00", "score": 3},
        {"id": "6", "text": "A" * 70_000, "score": 3},
        {"id": "7", "text": "\ud800", "score": 3},
        {"id": "8", "text": "A", "score": 3, "date": "soon"},
        {"text": "without an id", "score": 1},
        "text",
    ]
    questions = [question(3, *profile), question(3, id="11"), question(3, id="11")]
    rows, skips = load(tmp_path, questions, [{"id": "10", "output": "2"}, {"id": "12", "output": "2"}])
    assert [row.id for _, row in rows] == ["profile/1", "profile/row-10", "question/10"]
    assert skips == {
        "id is repeated": 1,
        "entry of a profile without text": 1,
        "entry of a profile without score": 1,
        "answer is not among the choices": 1,
        "prompt holds a NUL character": 1,
        "prompt is too long": 1,
        "prompt is no valid Unicode": 1,
        "time cannot be read": 1,
        "entry of a profile is no object": 1,
        "question without an answer": 1,
        "question is repeated": 1,
        "answer without a question": 1,
    }


def test_without_outputs_only_the_past_is_known(tmp_path: Path) -> None:
    rows, skips = load(tmp_path, [question(4, {"id": "1", **ENTRY[4]})])
    assert [row.id for _, row in rows] == ["profile/1"]
    assert skips == {"question without an answer": 1}


def test_only_one_user(tmp_path: Path) -> None:
    questions = [question(4, {"id": "1", **ENTRY[4]}, id=id) for id in ("10", "11")]
    golds = [{"id": id, "output": "x"} for id in ("10", "11")]
    rows, skips = load(tmp_path, questions, golds, user="lamp-4-11")
    assert [user for user, _ in rows] == ["lamp-4-11"] * 2
    assert skips == {"of another user than the one asked for": 2}


@pytest.mark.parametrize(
    ("questions", "golds", "complaint"),
    [
        ([{"id": "1", "input": "x"}], None, "entry 1: a LaMP question has id, input and a list profile; here are the"),
        ({"a": 1}, None, "entry a: .* here are a int"),
        ([question(4, input="Hm")], None, "entry 1: cannot tell which LaMP task this is"),
        ([question(4)], {"golds": 1}, "o.json: needs .* and has the keys golds"),
        ([question(4)], [{"id": "1"}], "o.json: gold 1 needs id and output and has the keys id"),
        ([question(4)], {"task": "LaMP_9", "golds": []}, "task 'LaMP_9' is not one of"),
    ],
)
def test_files_of_another_shape(tmp_path: Path, questions: object, golds: object, complaint: str) -> None:
    with pytest.raises(BadImport, match=complaint):
        load(tmp_path, questions, golds)


@pytest.mark.parametrize(("content", "told"), [(b"{\n\n", ":3: is no JSON"), (b"[\n\xff]", ":2: is no UTF-8 text")])
def test_a_broken_file_of_answers(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "o.json").write_bytes(content)
    (tmp_path / "q.json").write_text("[]")
    with pytest.raises(BadImport, match=told):
        list(read(tmp_path / "q.json", "lamp", Skips(), outputs=tmp_path / "o.json"))


def test_a_question_of_another_shape_is_counted(tmp_path: Path) -> None:
    rows, skips = load(tmp_path, [question(4, {"id": 1, "text": "a &#34;b&#34;", "title": "c &amp; d"}), 7])
    assert [(row.prompt.rpartition(": ")[2], row.response) for _, row in rows] == [('a "b"', "c & d")]
    assert skips == {"question lacks id, input or profile": 1, "question without an answer": 1}
    assert [row.reason for row in skips.places if row.bad] == ["has a int"]
