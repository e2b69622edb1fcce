"""`mindprint traces export`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def stored(server: Any, samples: Any) -> None:
    """Two users with an accepted and a rejected trace each."""

    def traces(user: str) -> list[dict[str, Any]]:
        lost = {
            "verdict": "rejected",
            "reason": "wrong_answer",
            "state": "stored",
            "thinking": "Hm.",
            "answer": "coffee",
        }
        both = [{"id": f"{user}-1"}, {"id": f"{user}-2", **lost}]
        return [samples.trace(user_id=user, prompt=f"Prompt of {user}\n", **changes) for changes in both]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/users":
            is_first = "after" not in request.url.params
            page = {"users": [samples.user(id="ann" if is_first else "bob")], "next": "ann" if is_first else None}
            return httpx.Response(200, json=page)
        wanted = request.url.params
        found = [
            trace
            for user in ("ann", "bob")
            for trace in traces(user)
            if wanted.get("user", user) == user and wanted.get("verdict", trace["verdict"]) == trace["verdict"]
        ]
        return httpx.Response(200, content="".join(json.dumps(trace) + "\n" for trace in found))

    server.answers_with(answer)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.usefixtures("stored")
def test_stored_traces_are_the_default(run: Any) -> None:
    assert [row["id"] for row in lines(run("traces", "export").stdout)] == ["ann-1", "ann-2", "bob-1", "bob-2"]
    assert [row["id"] for row in lines(run("traces", "export", "--verdict", "rejected").stdout)] == ["ann-2", "bob-2"]


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("form", "column", "value"),
    [
        ("trl-sft", "completion", "<think>\nAnn drinks tea.\n</think>\ntea"),
        ("messages", "messages", [{"role": "user", "content": "Tea or coffee?"},
                                  {"role": "assistant", "content": "<think>\nAnn drinks tea.\n</think>\ntea"}]),
        ("trl-dpo", "rejected", "<think>\nHm.\n</think>\ncoffee"),
    ],
)  # fmt: skip
def test_rows_for_trl(run: Any, form: str, column: str, value: Any) -> None:
    rows = lines(run("traces", "export", "--format", form).stdout)
    assert [row["user_id"] for row in rows] == ["ann", "bob"]
    assert [row[column] for row in rows] == [value, value]
    assert [row["user_id"] for row in lines(run("traces", "export", "-f", form, "--user", "bob").stdout)] == ["bob"]


@pytest.mark.usefixtures("stored")
def test_rows_in_a_file(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "pairs.parquet"
    result = run("traces", "export", "--format", "trl-dpo", "--file-format", "parquet", "--out", str(file))
    assert "2 rows written to" in result.stdout
    assert pq.read_table(file).column("chosen_trace_id").to_pylist() == ["ann-1", "bob-1"]


@pytest.mark.usefixtures("stored")
def test_traces_that_make_no_row_are_counted(run: Any) -> None:
    result = run("traces", "export", "--format", "trl-sft", "--verdict", "rejected")
    assert [row["trace_id"] for row in lines(result.stdout)] == ["ann-2", "bob-2"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--file-format", "parquet"), "--file-format parquet needs a file: name it with --out"),
        (("--format", "trl-dpo", "--verdict", "accepted"), "--verdict does not fit --format trl-dpo"),
    ],
)
def test_options_that_do_not_fit(run: Any, server: Any, words: tuple[str, ...], complaint: str) -> None:
    result = run("traces", "export", *words)
    assert (result.exit_code, complaint in result.stderr) == (2, True)
    assert not server.asked
