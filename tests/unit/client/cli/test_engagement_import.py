"""`mindprint users import`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from mindprint.cli.engagement_import import Bounds, batched
from mindprint.types import Engagement


@pytest.fixture
def stores(server: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        rows = json.loads(request.content)["engagements"]
        known = sum(row["id"] == "known" for row in rows)
        return httpx.Response(200, json={"created": len(rows) - known, "unchanged": known})

    server.answers_with(answer)


def write(file: Path, *rows: dict[str, Any] | str) -> str:
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(file)


def told(result: Any) -> dict[str, int]:
    """The table at the end."""
    assert result.exit_code == 0, result.stderr
    lines = [line.rsplit(maxsplit=1) for line in result.stdout.splitlines()[2:]]
    return {what.strip(): int(count) for what, count in lines}


@pytest.mark.usefixtures("stores")
def test_the_rows_of_many_users(run: Any, server: Any, samples: Any, tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.ndjson",
        samples.engagement(1, user_id="ann"),
        samples.engagement(1, user_id="bob"),
        "",
        samples.engagement(2, user_id="ann"),
        {**samples.engagement(), "id": "known", "user_id": "ann"},
    )
    result = run("users", "import", file)
    assert told(result) == {"users": 2, "engagements created": 3, "engagements unchanged": 1}
    sent = {r.url.path: [row["id"] for row in json.loads(r.content)["engagements"]] for r in server.asked}
    assert sent == {"/v1/users/ann/engagements": ["e1", "e2", "known"], "/v1/users/bob/engagements": ["e1"]}


@pytest.mark.usefixtures("stores")
def test_the_rows_of_one_user_in_requests_of_bounded_size(run: Any, server: Any, samples: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.ndjson", *(samples.engagement(n) for n in range(5)))
    result = run("users", "import", file, "--user", "ann", "--rows", "2")
    assert told(result) == {"users": 1, "engagements created": 5, "engagements unchanged": 0}
    assert [len(json.loads(r.content)["engagements"]) for r in server.asked] == [2, 2, 1]


def test_requests_are_bounded_in_bytes_as_well(samples: Any) -> None:
    rows = [Engagement.model_validate(samples.engagement(n, response="é" * 400)) for n in range(10)]
    parts = [part for _, part in batched((("ann", row) for row in rows), Bounds(rows=100, size=2048))]
    assert [row for part in parts for row in part] == rows
    assert all(sum(len(row.model_dump_json().encode()) for row in part) <= 2048 for part in parts)
    assert all(len(part) == 2 for part in parts)


def test_rows_do_not_wait_without_bound(samples: Any) -> None:
    rows = [(user, Engagement.model_validate(samples.engagement(n))) for n in range(6) for user in ("ann", "bob")]
    size = len(rows[0][1].model_dump_json()) + 1
    parts = list(batched(iter(rows), Bounds(held=4 * size)))
    assert [(user, [row.id for row in part]) for user, part in parts] == [
        (user, [f"e{n}", f"e{n + 1}"]) for n in (0, 2, 4) for user in ("ann", "bob")
    ]


@pytest.mark.usefixtures("stores")
def test_a_pol_is_export(run: Any, server: Any, tmp_path: Path) -> None:
    write(tmp_path / "comments.csv", "comment-id,comment-body", "0,Tea is good")
    write(
        tmp_path / "votes.csv", "voter-id,comment-id,vote,timestamp", "7,0,1,1500000000", "8,0,-1,1500000000", "8,1,0,"
    )
    result = run("users", "import", str(tmp_path))
    assert told(result) == {
        "users": 2,
        "engagements created": 2,
        "engagements unchanged": 0,
        "left out: comment is not in comments.csv": 1,
    }
    assert [json.loads(r.content)["engagements"][0]["response"] for r in server.asked] == ["agree", "disagree"]


@pytest.mark.usefixtures("stores")
def test_questions_and_answers_of_lamp(run: Any, tmp_path: Path) -> None:
    asked = {"id": "1", "input": "Paraphrase the following tweet: x", "profile": [{"id": "2", "text": "hi"}]}
    questions = write(tmp_path / "questions.json", json.dumps([asked]))
    answers = write(tmp_path / "outputs.json", json.dumps({"task": "LaMP_7", "golds": [{"id": "1", "output": "y"}]}))
    result = run("users", "import", questions, "--outputs", answers)
    assert told(result) == {"users": 1, "engagements created": 2, "engagements unchanged": 0}
    result = run("users", "import", questions, "--format", "cmv", "--outputs", answers)
    assert result.exit_code == 2
    assert "--outputs holds LaMP's answers" in result.stderr


def test_nothing_to_use(run: Any, server: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "q.json", json.dumps([{"id": "1", "input": "Generate a headline: x", "profile": []}]))
    told = run("users", "import", file).stderr
    assert told.endswith("q.json holds no engagements that can be used (1 left out: question without an answer)\n")
    assert not server.asked


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"user_id": "ann", "id": "e"}', "prompt: Field required"),
        ('{"user_id": "../x", "id": "e"}', "String should match pattern"),
        ('{"id": "e"}', "has no user_id: add it, or name the user with --user"),
        (
            '{"user_id":"a","id":"e","prompt":"p","response":"x","choices":["y","z"],"occurred_at":"2026-01-01T00:00:00"}',
            "response 'x' is not among the choices",
        ),
    ],
)
def test_nothing_is_sent_of_a_file_with_a_wrong_line(
    run: Any, server: Any, samples: Any, tmp_path: Path, row: str, complaint: str
) -> None:
    file = write(tmp_path / "rows.ndjson", samples.engagement(1, user_id="ann"), row)
    result = run("users", "import", file)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {file}:2: ")
    assert complaint in result.stderr
    assert result.stderr.endswith("(nothing was sent)\n")
    assert not server.asked


def test_rows_of_somebody_else(run: Any, samples: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.ndjson", samples.engagement(1, user_id="bob"))
    assert "is of user 'bob', not 'ann'" in run("users", "import", file, "--user", "ann").stderr


def test_an_empty_file(run: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.ndjson", "")
    assert "holds no engagements" in run("users", "import", file).stderr
