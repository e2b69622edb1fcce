"""`mindprint traces show`: generic and personal thinking next to each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

ANN = ("traces", "show", "--user", "ann", "--engagement", "e1")


@pytest.fixture
def generic(samples: Any) -> dict[str, Any]:
    made = {**samples.trace()["provenance"], "mode": "generic", "seed": 11}
    return {
        **samples.trace(id="g1", mode="generic", thinking="Let me think.\n\nCoffee wakes.", answer="coffee"),
        **{"verdict": "rejected", "reason": "wrong_answer", "state": "stored", "provenance": made},
        **{"choice_logprobs": {"coffee": -0.2, "tea": -1.7}, "scores": {"target_logprob": -1.7}},
    }


@pytest.fixture
def personal(samples: Any) -> dict[str, Any]:
    made = {**samples.trace()["provenance"], "sampling": {"temperature": 0.5, "max_tokens": 99}, "saw_answer": True}
    return {
        **samples.trace(id="p1", choice_logprobs={"coffee": -2.3, "tea": -0.1}, provenance=made),
        **{"prompt_tokens": 300, "cached_tokens": 256, "thinking_tokens": 40},
        **{"scores": {"novelty": 2.0, "gain": 0.5, "target_logprob": -0.1}},
    }


@pytest.fixture
def stored(server: Any) -> Callable[..., None]:
    """Makes the server hold these traces, and write `next_one`; lists come one trace a page."""

    def store(*traces: dict[str, Any], next_one: dict[str, Any] | None = None) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            if request.method == "POST":
                return httpx.Response(200, json={**(next_one or {}), "mode": json.loads(request.content)["mode"]})
            if request.url.path != "/v1/traces":
                return httpx.Response(200, json=next(t for t in traces if request.url.path == f"/v1/traces/{t['id']}"))
            asked = request.url.params
            assert (asked["user"], asked["engagement"]) == ("ann", "e1")
            found = [
                t for t in traces if t["mode"] == asked["mode"] and t["verdict"] == asked.get("verdict", t["verdict"])
            ]
            start = 1 + next((i for i, t in enumerate(found) if t["id"] == asked.get("after")), -1)
            more = found[start]["id"] if start + 1 < len(found) else None
            return httpx.Response(200, json={"traces": found[start : start + 1], "next": more})

        server.answers_with(answer)

    return store


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_side_by_side(run: Any, stored: Any, generic: Any, personal: Any) -> None:
    stored(generic, personal)
    result = run(*ANN)
    assert (result.exit_code, result.stderr) == (0, "")
    told = rows(result.stdout)
    assert ["generic", "personal"] in told
    assert ["thinking", "Let", "me", "think.", "Ann", "drinks", "tea."] in told
    assert ["answer", "coffee", "tea"] in told
    assert ["verdict", "rejected:", "wrong_answer", "accepted"] in told
    assert ["saw", "the", "answer", "no", "yes"] in told
    assert ["seed", "11", "1"] in told
    assert ["trace", "g1", "p1"] in told
    assert "300 prompt (256 cached), 40 thinking" in result.stdout
    scores = told.index(["score", "generic", "personal"])
    assert told[scores + 2 : scores + 5] == [
        ["target_logprob", "-1.700", "-0.100"],
        ["gain", "-", "0.500"],
        ["novelty", "-", "2.000"],
    ], "those that are known come first, others follow"
    choices = told.index(["choice", "(log-probability)", "generic", "personal"])
    assert told[choices + 2 :] == [["tea", "-1.700", "-0.100"], ["coffee", "-0.200", "-2.300"]]


def test_one_below_the_other_on_a_narrow_terminal(
    run: Any, stored: Any, generic: Any, personal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stored(generic, personal)
    result = run(*ANN)
    told = rows(result.stdout)
    assert told.index(["answer", "coffee"]) < told.index(["personal"]) < told.index(["answer", "tea"])
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_an_accepted_personal_trace_comes_first_else_the_newest(
    run: Any, stored: Any, generic: Any, personal: Any
) -> None:
    rejected = {**personal, "verdict": "rejected", "state": "stored"}
    newer = [{**generic, "id": "g2"}, {**rejected, "id": "p2"}]
    stored(generic, rejected, *newer)
    assert ["trace", "g2", "p2"] in rows(run(*ANN).stdout)
    stored(generic, personal, {**personal, "id": "p3"}, *newer)
    assert ["trace", "g2", "p3"] in rows(run(*ANN).stdout)


def test_shown_trace_takes_its_own_side(run: Any, stored: Any, generic: Any, personal: Any) -> None:
    stored(generic, {**generic, "id": "g2"}, personal)
    assert ["trace", "g1", "p1"] in rows(run("traces", "show", "g1", "--side-by-side").stdout)
    assert "personal" not in run("traces", "show", "g1").stdout, "without the option it is shown alone"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"mode": "direct"}, "`mindprint traces show --user ann --engagement e1` shows generic and personal thinking"),
        ({"engagement_id": None}, "trace p1 is about no stored engagement"),
    ],
)
def test_a_trace_without_another_side(run: Any, stored: Any, personal: Any, changes: dict[str, Any], line: str) -> None:
    stored({**personal, **changes})
    result = run("traces", "show", "p1", "--side-by-side")
    assert result.exit_code == 1
    assert line in result.stderr


@pytest.mark.parametrize("columns", ["80", "120"])
def test_what_is_missing_is_said_with_its_command(
    run: Any, stored: Any, personal: Any, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    stored(personal)
    result = run(*ANN)
    assert result.exit_code == 0
    assert "Ann drinks tea." in result.stdout
    assert result.stdout.endswith(
        "\nno generic thinking is stored: "
        "`mindprint traces write --user ann --engagement e1 --mode generic` writes some\n"
    )


def test_nothing_at_all_is_a_failure_that_says_what_to_do(run: Any, stored: Any) -> None:
    stored()
    result = run(*ANN)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "`mindprint traces show --user ann --engagement e1 --write` writes both sides" in result.stderr


def test_the_missing_side_is_written_as_the_other_was(
    run: Any, server: Any, stored: Any, generic: Any, personal: Any
) -> None:
    stored(personal, next_one=generic)
    result = run(*ANN, "--write")
    assert ["trace", "g1", "p1"] in rows(result.stdout)
    assert result.stderr == "writing generic thinking\n"
    assert "is stored" not in result.stdout
    written = [json.loads(request.content) for request in server.asked if request.method == "POST"]
    assert written == [
        {
            **{"user_id": "ann", "engagement_id": "e1", "mode": "generic", "model": "base"},
            **{"temperature": 0.5, "max_thinking_tokens": 99, "seed": 1, "memory": "own", "show_choices": True},
        }
    ]


def test_both_sides_are_written_where_there_is_none(run: Any, server: Any, stored: Any, personal: Any) -> None:
    stored(next_one=personal)
    assert run(*ANN, "--write").exit_code == 0
    written = [json.loads(request.content)["mode"] for request in server.asked if request.method == "POST"]
    assert written == ["generic", "personal"]


def test_nothing_is_written_unasked_or_unneeded(
    run: Any, server: Any, stored: Any, generic: Any, personal: Any
) -> None:
    stored(generic, personal)
    run(*ANN, "--write")
    stored(personal)
    run(*ANN)
    assert {request.method for request in server.asked} == {"GET"}


def test_json(run: Any, stored: Any, personal: Any) -> None:
    stored(personal)
    told = json.loads(run(*ANN, "--json").stdout)
    assert (told["user_id"], told["engagement_id"], told["generic"]) == ("ann", "e1", None)
    assert told["personal"]["id"] == "p1"


def test_no_text_steers_the_terminal(run: Any, stored: Any, generic: Any, personal: Any) -> None:
    evil = "\x1b]0;title\x07[red]x[/red] \u202e"
    told = {"query": evil, "thinking": evil, "answer": evil, "reason": evil, "choice_logprobs": {evil: -1.0}}
    stored({**generic, **told, "scores": {evil: 1.0}}, {**personal, **told})
    shown = run(*ANN).stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert shown.count("[red]x[/red]") == 9, "markup is text"
