"""`mindprint traces import`, and what `traces write` asks in a controlled question"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from mindprint.valid_ids import engagement_id


@pytest.fixture
def stores(server: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        rows = json.loads(request.content)["traces"]
        known = sum(row["thinking"] == "known" for row in rows)
        return httpx.Response(200, json={"created": len(rows) - known, "unchanged": known})

    server.answers_with(answer)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "traces.ndjson"


def write(file: Path, *rows: dict[str, Any] | str) -> str:
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(file)


def told(result: Any) -> dict[str, int]:
    """The table at the end."""
    assert result.exit_code == 0, result.stderr
    lines = [line.rsplit(maxsplit=1) for line in result.stdout.splitlines()[2:]]
    return {what.strip(): int(count) for what, count in lines}


@pytest.mark.usefixtures("stores")
def test_exported_traces_are_imported(run: Any, server: Any, samples: Any, file: Path) -> None:
    made = {**samples.trace()["provenance"], "saw_answer": True}
    write(
        file,
        samples.trace(scores={"gain": 0.5}, provenance=made),
        samples.trace(engagement_id="e2", thinking="known", state="trained"),
        samples.trace(engagement_id="e3", verdict="rejected", reason="loop", state="stored"),
        samples.trace(engagement_id="e4", verdict="unjudged", state="stored", mode="generic"),
        samples.trace(engagement_id="e5", state="stored", mode="generic"),
        "",
    )
    result = run("traces", "import", "bob", str(file), "--from", "ann")
    assert told(result) == {
        "traces created": 1,
        "traces unchanged": 1,
        "left out: rejected": 1,
        "left out: unjudged": 1,
        "left out: not for training": 1,
    }
    [request] = server.asked
    assert request.url.path == "/v1/users/bob/traces"
    assert json.loads(request.content)["traces"] == [
        {
            "engagement_id": "e1",
            "thinking": "Ann drinks tea.",
            "saw_answer": True,
            "scores": {"gain": 0.5},
            "selected": True,
        },
        {"engagement_id": "e2", "thinking": "known", "saw_answer": False, "scores": {}, "selected": True},
    ]


def test_traces_of_another_person_are_not_taken(run: Any, server: Any, samples: Any, file: Path) -> None:
    """Ids of engagements are often the same for all users: 1, 2, 3."""
    write(file, samples.trace())
    result = run("traces", "import", "bob", str(file))
    assert (result.exit_code, server.asked) == (1, [])
    assert "is of user 'ann', not 'bob': if both are one person, add --from" in result.stderr


@pytest.mark.usefixtures("stores")
def test_lines_by_hand_in_requests_of_bounded_size(run: Any, server: Any, file: Path) -> None:
    write(file, *({"engagement_id": f"e{n}", "thinking": "Ann drinks tea."} for n in range(5)))
    assert told(run("traces", "import", "ann", str(file), "--rows", "2")) == {
        "traces created": 5,
        "traces unchanged": 0,
    }
    assert [len(json.loads(request.content)["traces"]) for request in server.asked] == [2, 2, 1]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "is no JSON ("),
        ({"engagement_id": "e1"}, "thinking: String should have at least 1 character"),
        ({"thinking": "Ann drinks tea."}, "engagement_id: Input should be a valid string"),
        ({"engagement_id": ["e"], "thinking": "x"}, "engagement_id: Input should be a valid string"),
        ({"engagement_id": "e1", "thinking": "x", "scores": {"Gain!": 1}}, "scores.Gain!.[key]: String should match"),
        ({"user_id": "bob", "engagement_id": "e1", "thinking": "x"}, "is of user 'bob', not 'ann': if both are"),
    ],
)
def test_nothing_is_sent_of_a_file_with_a_wrong_line(
    run: Any, server: Any, samples: Any, file: Path, row: Any, complaint: str
) -> None:
    result = run("traces", "import", "ann", write(file, samples.trace(), row))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {file}:2: {complaint}")
    assert result.stderr.endswith("(nothing was sent)\n")
    assert not server.asked


@pytest.mark.usefixtures("stores")
def test_ids_of_rows_change_as_they_did_when_the_rows_were_imported(run: Any, server: Any, file: Path) -> None:
    rows = [{"engagement_id": id, "thinking": f"Ann drinks tea {id}."} for id in ("../e", "post #4", "e1")]
    result = run("traces", "import", "ann", write(file, *rows))
    assert result.exit_code == 0, result.stderr
    sent = [trace["engagement_id"] for request in server.asked for trace in json.loads(request.content)["traces"]]
    assert sent == [engagement_id("../e"), engagement_id("post #4"), "e1"]
    assert f"id 'post #4' is {sent[1]}" in " ".join(result.stderr.split())


@pytest.mark.usefixtures("stores")
def test_bad_lines_are_counted_and_the_others_come_in(
    run: Any, server: Any, samples: Any, file: Path, tmp_path: Path
) -> None:
    """The first bad line of a file ended the whole import."""
    good = [{"engagement_id": f"e{n}", "thinking": "Ann drinks tea."} for n in range(18)]
    write(file, *good[:9], "{", *good[9:], {"engagement_id": "e99"}, samples.trace(verdict="rejected", state="stored"))
    listed = tmp_path / "skipped.jsonl"
    result = run("traces", "import", "ann", str(file), "--skipped", str(listed))
    assert told(result) == {
        "traces created": 18,
        "traces unchanged": 0,
        "left out: line is no JSON object": 1,
        "left out: thinking is empty": 1,
        "left out: rejected": 1,
    }
    assert f"bad row: {file}:10: is no JSON" in result.stderr
    assert f"bad row: {file}:20: thinking: String should have at least 1 character" in result.stderr
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [(row["where"], row["bad"]) for row in rows] == [
        (f"{file}:10", True),
        (f"{file}:20", True),
        (f"{file}:21", False),
    ]
    assert len(json.loads(server.asked[0].content)["traces"]) == 18


def test_a_share_of_bad_lines_above_the_bound_sends_nothing(run: Any, server: Any, file: Path) -> None:
    rows = [{"engagement_id": f"e{n}", "thinking": "Ann drinks tea."} for n in range(8)]
    write(file, *rows, "{", "}")
    result = run("traces", "import", "ann", str(file))
    assert result.exit_code == 1
    assert "2 of 10 rows (20.0%) cannot be used, and --max-bad-share allows 10.0%" in result.stderr
    assert not server.asked


@pytest.mark.usefixtures("stores")
def test_the_share_is_an_option_and_json_has_the_same_facts(run: Any, file: Path) -> None:
    write(file, {"engagement_id": "e1", "thinking": "Ann drinks tea."}, "{")
    result = run("traces", "import", "ann", str(file), "--max-bad-share", "0.5", "--json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert (printed["created"], printed["unchanged"], printed["skipped"]["bad_rows"]) == (1, 0, 1)


def test_nothing_to_import(run: Any, server: Any, samples: Any, file: Path) -> None:
    result = run("traces", "import", "ann", write(file, samples.trace(verdict="rejected", state="stored")))
    assert result.stderr == f"error: {file} holds no accepted traces that can be used (1 left out: rejected)\n"
    assert not server.asked


def test_a_refusal_says_which(run: Any, server: Any, samples: Any, file: Path) -> None:
    refusal = samples.refusal("engagement_not_found", "there is no engagement 'e1'", "traces[0].engagement_id")
    server.answers_with(httpx.Response(404, json=refusal))
    result = run("traces", "import", "ann", write(file, samples.trace()))
    assert "there is no engagement 'e1'" in result.stderr


def test_a_controlled_question(run: Any, server: Any, samples: Any) -> None:
    server.answers_with(httpx.Response(200, json=samples.trace()))
    words = ("traces", "write", "-u", "ann", "-q", "Tea?", "--memory", "user/bob", "--thinking", "", "--hide-choices")
    assert run(*words).exit_code == 0
    sent = json.loads(server.asked[0].content)
    assert (sent["memory"], sent["thinking"], sent["show_choices"]) == ("user/bob", "", False)


@pytest.mark.usefixtures("stores")
def test_pipe_is_refused_because_its_rows_come_only_once(run: Any, server: Any, samples: Any) -> None:
    """The check read the rows, and the import that followed found none of them."""
    reading, writing = os.pipe()
    try:
        os.write(
            writing, "".join(json.dumps(samples.trace(engagement_id=f"e{n}")) + "\n" for n in range(1, 4)).encode()
        )
        os.close(writing)
        file = f"/dev/fd/{reading}"
        result = run("traces", "import", "bob", file)
    finally:
        os.close(reading)
    assert result.exit_code == 1
    assert f"{file} is no regular file" in result.stderr
    assert "save the rows to a file" in " ".join(result.stderr.split())
    assert not server.asked
