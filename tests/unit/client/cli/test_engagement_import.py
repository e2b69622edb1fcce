"""`mindprint users import`"""

from __future__ import annotations

import json
import os
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
        ('{"user_id": "ann", "id": ["e"]}', "id: Input should be a valid string"),
        ('{"id": "e"}', "has no user_id: add it, or name the user with --one-user"),
        (
            '{"user_id":"a","id":"e","prompt":"p","response":"x","choices":["y","z"],"occurred_at":"2026-01-01T00:00:00"}',
            "response is not among the choices",
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


def votes(tmp_path: Path) -> str:
    """An export with one bad row, one vote of nobody, and ids that change."""
    folder = tmp_path / "my talk"
    folder.mkdir()
    write(folder / "comments.csv", "comment-id,comment-body,agrees,disagrees", "0,Tea is good,12,1")
    rows = [f"{voter},0,-1,1500000000" for voter in range(12)]
    write(
        folder / "votes.csv", "voter-id,comment-id,vote,timestamp", *rows, "12,0,1,1500000060", '13,0,"1"x,1', "12,9,1,"
    )
    return str(folder)


@pytest.mark.usefixtures("stores")
def test_changed_ids_of_rows_are_written_and_shown(run: Any, server: Any, tmp_path: Path) -> None:
    rows = [f"ann,post #{number},Tea?,Yes" for number in range(7)]
    file, ids = write(tmp_path / "rows.csv", "user,id,prompt,response", *rows, "ann,plain,Tea?,Yes"), tmp_path / "ids"
    result = run("users", "import", file, "--id-map", str(ids))
    assert result.exit_code == 0, result.stderr
    changed = [json.loads(line) for line in ids.read_text().splitlines()]
    originals = {each["engagement_id"]: each["original"] for each in changed}
    assert list(originals.values()) == [f"post #{number}" for number in range(7)]
    sent = [row["id"] for request in server.asked for row in json.loads(request.content)["engagements"]]
    assert [originals.get(id, id) for id in sent] == [*originals.values(), "plain"]
    shown = " ".join(result.stderr.split())
    assert f"id 'post #4' is {sent[4]}" in shown
    assert "post #5" not in shown
    assert "and 2 more: --id-map FILE writes all" in shown


@pytest.mark.usefixtures("stores")
def test_a_bad_row_is_left_out_and_named_up_to_the_share(run: Any, server: Any, tmp_path: Path) -> None:
    folder, skipped, ids = votes(tmp_path), tmp_path / "skipped.jsonl", tmp_path / "ids.jsonl"
    result = run("users", "import", folder, "--skipped", str(skipped), "--id-map", str(ids))
    assert told(result)["left out: row is no CSV"] == 1
    assert "bad row: " + str(Path(folder) / "votes.csv") + ":15: is no CSV" in " ".join(result.stderr.split())
    reasons = [json.loads(line)["reason"] for line in skipped.read_text().splitlines()]
    assert len(reasons) == 2
    assert reasons[0].startswith("is no CSV")
    changed = [json.loads(line) for line in ids.read_text().splitlines()]
    originals = {each["original"]: each["user_id"] for each in changed}
    assert set(originals) == {f"my talk-{voter}" for voter in range(13)}
    assert {request.url.path.split("/")[3] for request in server.asked} == set(originals.values())
    assert ids.stat().st_mode & 0o077 == 0
    server.asked.clear()
    result = run("users", "import", folder, "--max-bad-share", "0.05")
    assert result.exit_code == 1
    assert "votes.csv:15: is no CSV" in result.stderr
    assert "1 of 15 rows (6.7%) cannot be used, and --max-bad-share allows 5.0%" in result.stderr
    assert not server.asked


def test_a_dry_run_shows_what_would_come_in_and_sends_nothing(run: Any, server: Any, tmp_path: Path) -> None:
    result = run("users", "import", votes(tmp_path), "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert (shown["format"], shown["people"], shown["rows"]) == ("polis", 13, 13)
    assert (shown["first"], shown["last"]) == ("2017-07-14T02:40:00Z", "2017-07-14T02:41:00Z")
    assert shown["choice_sets"] == [{"choices": ["agree", "disagree", "pass"], "rows": 13}]
    assert [each["engagement"]["response"] for each in shown["examples"]] == ["agree"] * 5
    assert len({each["user_id"] for each in shown["examples"]}) == 5
    assert shown["skipped"]["left_out"] == [
        {"reason": "row is no CSV", "rows": 1},
        {"reason": "comment is not in comments.csv", "rows": 1},
    ]
    assert shown["skipped"]["notes"] == ["vote -1 is agree, by the counts of comments.csv"]
    assert shown["skipped"]["changed_ids"][0]["original"] == "my talk-0"
    assert not server.asked


def test_a_dry_run_is_a_table_and_fails_as_the_import_would(run: Any, server: Any, tmp_path: Path) -> None:
    folder = votes(tmp_path)
    words = " ".join(run("users", "import", folder, "--dry-run").stdout.split())
    assert "people 13 rows 13 time 2017-07-14 02:40 to 2017-07-14 02:41 UTC" in words
    assert "closed 13 rows with choices, 0 open choices agree / disagree / pass (13)" in words
    assert "Do you agree with this statement? Tea is good agree" in words
    result = run("users", "import", folder, "--dry-run", "--max-bad-share", "0")
    assert (result.exit_code, "people" in result.stdout) == (1, True)
    assert not server.asked


@pytest.mark.usefixtures("stores")
def test_the_vote_that_means_agree_may_be_said(run: Any, server: Any, tmp_path: Path) -> None:
    assert told(run("users", "import", votes(tmp_path), "--agree-vote", "1"))["users"] == 13
    first = json.loads(server.asked[0].content)["engagements"][0]
    assert first["response"] == "disagree"
    assert run("users", "import", str(tmp_path / "my talk"), "--agree-vote", "0").exit_code == 2


def test_an_import_as_json(run: Any, server: Any, samples: Any, tmp_path: Path) -> None:
    server.answers_with(httpx.Response(200, json={"created": 1, "unchanged": 0}))
    file = write(
        tmp_path / "rows.ndjson", samples.engagement(1, user_id="ann"), samples.engagement(2, user_id="[deleted]")
    )
    shown = json.loads(run("users", "import", file, "--json").stdout)
    assert (shown["users"], shown["created"], shown["skipped"]["bad_rows"]) == (1, 1, 0)
    assert shown["skipped"]["places"] == [
        {"where": f"{file}:2", "reason": "author is deleted, anonymous or a bot", "bad": False}
    ]


@pytest.mark.usefixtures("stores")
def test_columns_are_named_with_options(run: Any, server: Any, tmp_path: Path) -> None:
    file = write(
        tmp_path / "t.csv", "wer,was,wie,wann,wahl", "ann,Tea?,yes,3/4/2017,yes|no", "bob,Tea?,no,4/4/2017,yes|no"
    )
    words = ("users", "import", file, "--user", "wer", "--prompt", "was", "--response", "wie", "--choices", "wahl")
    assert "day and month cannot be told apart" in " ".join(run(*words, "--time", "wann").stderr.split())
    result = run(*words, "--time", "wann", "--time-format", "%d/%m/%Y")
    assert told(result) == {"users": 2, "engagements created": 2, "engagements unchanged": 0}
    sent = [json.loads(request.content)["engagements"][0] for request in server.asked]
    assert [(row["response"], row["choices"], row["occurred_at"]) for row in sent] == [
        ("yes", ["yes", "no"], "2017-04-03T00:00:00Z"),
        ("no", ["yes", "no"], "2017-04-04T00:00:00Z"),
    ]


def test_a_missing_column_is_named(run: Any, server: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "wer,was", "ann,Tea?")
    told = run("users", "import", file, "--user", "wer", "--prompt", "was").stderr
    assert "name the column of the response with --response; found wer, was (nothing was sent)" in " ".join(
        told.split()
    )
    assert not server.asked


@pytest.mark.usefixtures("stores")
def test_a_mistyped_column_of_users_does_not_make_one_person_of_all(run: Any, server: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "member,asked,said", "ann,Tea?,yes", "bob,Tea?,no")
    words = ("users", "import", file, "--prompt", "asked", "--response", "said")
    result = run(*words, "--user", "membr")
    assert result.exit_code == 1
    assert "lacks the column 'membr'; found member, asked, said (one user for all rows: --one-user membr)" in " ".join(
        result.stderr.split()
    )
    assert not server.asked
    assert told(run(*words, "--user", "member"))["users"] == 2
    assert told(run(*words, "--one-user", "ann"))["users"] == 1
    result = run(*words, "--user", "member", "--one-user", "ann")
    assert told(result)["engagements created"] == 1
    assert "of another user than the one asked for" in result.stderr


def test_a_column_of_users_in_a_file_without_columns_is_refused(run: Any, server: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "own.ndjson", '{"id": "e"}')
    assert "the format ndjson has none" in run("users", "import", file, "--user", "x", "--one-user", "ann").stderr
    assert not server.asked


@pytest.mark.usefixtures("stores")
def test_pipe_is_refused_because_its_rows_come_only_once(run: Any, server: Any, samples: Any) -> None:
    """The check read the rows, and the import that followed found none of them."""
    reading, writing = os.pipe()
    try:
        os.write(writing, "".join(json.dumps(samples.engagement(n)) + "\n" for n in range(1, 4)).encode())
        os.close(writing)
        file = f"/dev/fd/{reading}"
        result = run("users", "import", file, "--user", "ann")
    finally:
        os.close(reading)
    assert result.exit_code == 1
    assert f"{file} is no regular file" in result.stderr
    assert "save the rows to a file" in " ".join(result.stderr.split())
    assert not server.asked


@pytest.mark.parametrize(
    ("name", "kind", "line"),
    [
        (
            "t.csv",
            "chat",
            "is a table without a column 'messages', so no chat log; found author, question, answer: leave",
        ),
        ("t.csv", "ndjson", "does not look like JSON Lines, none of its first lines begins with {: write one JSON"),
        ("LICENSE", "auto", "does not look like JSON Lines"),
        ("notes.txt", "chat", "does not look like JSON Lines"),
    ],
)
def test_another_kind_of_file_is_told_once(
    run: Any, server: Any, tmp_path: Path, name: str, kind: str, line: str
) -> None:
    file = write(tmp_path / name, "author,question,answer", *["ann,Tea?,yes"] * 30)
    result = run("users", "import", file, "--format", kind, "--dry-run")
    assert result.exit_code == 1
    assert line in " ".join(result.stderr.split())
    assert len(result.stderr.splitlines()) == 1
    assert not server.asked
