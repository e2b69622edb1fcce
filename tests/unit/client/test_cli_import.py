"""`mindprint users import`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from mindprint.cli.imports import Bounds, batched
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
    assert result.stdout == "3 engagements of 2 users stored, 1 were there already\n"
    sent = {r.url.path: [row["id"] for row in json.loads(r.content)["engagements"]] for r in server.asked}
    assert sent == {"/v1/users/ann/engagements": ["e1", "e2", "known"], "/v1/users/bob/engagements": ["e1"]}


@pytest.mark.usefixtures("stores")
def test_the_rows_of_one_user_in_requests_of_bounded_size(run: Any, server: Any, samples: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.ndjson", *(samples.engagement(n) for n in range(5)))
    assert run("users", "import", file, "--user", "ann", "--rows", "2").stdout == "5 engagements of 1 user stored\n"
    assert [len(json.loads(r.content)["engagements"]) for r in server.asked] == [2, 2, 1]


def test_requests_are_bounded_in_bytes_as_well(samples: Any) -> None:
    rows = [Engagement.model_validate(samples.engagement(n, response="é" * 400)) for n in range(10)]
    parts = [part for _, part in batched((("ann", row) for row in rows), Bounds(rows=100, size=2048))]
    assert [row for part in parts for row in part] == rows
    assert all(sum(len(row.model_dump_json().encode()) for row in part) <= 2048 for part in parts)
    assert all(len(part) == 2 for part in parts)


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
