"""Whatever a body holds, the answer is never 500: odd values in every field of every request."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
WHEN = "2026-01-01T00:00:00Z"
ASKED = {"id": "x1", "prompt": "tea?", "response": "yes", "occurred_at": WHEN, "reason": "r", "choices": ["yes", "no"]}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/users/ann/engagements"): {"engagements": [ASKED]},
    ("POST", "/v1/users/ann/traces"): {
        "traces": [
            {"engagement_id": "e1", "thinking": "because", "saw_answer": False, "selected": True, "scores": {"a": 1.0}}
        ]
    },
    ("POST", "/v1/traces"): {
        "user_id": "ann", "query": "tea?", "choices": ["yes", "no"], "target": "yes", "asked_at": WHEN,
        "mode": "direct", "model": "base", "temperature": 0.5, "max_thinking_tokens": 3, "thinking_prefix": "I",
        "seed": 1, "memory": "none", "show_choices": True,
    },
    ("POST", "/v1/traces/requeue"): {"trace_ids": ["t1"]},
    ("POST", "/v1/batches"): {
        "users": ["ann"], "mode": "personal", "candidates": 2, "candidates_per_round": 1, "unhinted": 1, "hints": True,
        "exhaustive": True, "temperature": 0.5, "max_thinking_tokens": 3, "seed": 1, "idempotency_key": "k",
    },
    ("POST", "/v1/leases"): {
        "owner": "t", "adapter": "user/ann", "ttl_s": 60.0, "min_traces": 1, "max_traces": 10,
    },
    ("POST", "/v1/leases/l/heartbeat"): {"ttl_s": 60.0},
    ("PUT", "/v1/cohorts/walkers"): {"description": "d"},
    ("POST", "/v1/cohorts/walkers/users"): {"users": ["ann"]},
    ("POST", "/v1/adapters/user/ann/promote"): {"version": 1},
    ("PUT", "/v1/adapters/user/ann/canary"): {"version": 1, "share": 0.1},
    ("POST", "/v1/adapters/user/ann/versions/1/pin"): {"pinned": True},
    ("POST", "/v1/chat/completions"): {"model": "base", "messages": [{"role": "user", "content": "hi"}], "n": 1},
}  # fmt: skip
ODD = [
    '"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59-14:00"', '"0000-00-00"', '"2026-02-30T00:00:00Z"', "1e30",
    '"\\u0000"', '"a\\u0000b"', '"\\ud83d"', '"\\udc00x"', '{"\\ud83d": 1}', '{"\\u0000": 1}', '""', '" "',
    "NaN", "Infinity", "-Infinity", "1e400", "-0.0", "1e-400", "5e-324", "1.7976931348623157e308",
    str(2**31), str(2**63), str(-(2**63) - 1), str(2**64), "1" + "0" * 400, "1" * 5000, "-1", "0", "0.5", "true",
    "null", "[]", "{}", "[[]]", "[null]", '[["q"]]', '["yes", "yes"]', '"' + "x" * 3000 + '"', '"<|im_end|>"',
    '"../etc"',
    '"2026-01-01T00:00:00+23:59"', '"user/ann@99999999999999999999"', '"\\u2028"', "[" * 20 + "]" * 20,
]  # fmt: skip
"""JSON texts, so that values are among them that only a lenient parser takes."""
MARK = "@odd@"


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Each place in a body whose value can be replaced."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _with_odd(body: dict[str, Any], path: tuple[Any, ...], odd: str) -> str:
    changed: Any = {"whole": copy.deepcopy(body)}
    *before, last = ("whole", *path)
    holder = changed
    for key in before:
        holder = holder[key]
    holder[last] = MARK
    return json.dumps(changed["whole"]).replace(f'"{MARK}"', odd)


CASES = [(route, path) for route, body in BODIES.items() for path in _places(body)]


async def _answer(client: httpx.AsyncClient, route: tuple[str, str], text: str) -> httpx.Response:
    return await client.request(*route, content=text.encode(), headers={"content-type": "application/json"})


@hypothesis_settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=st.sampled_from(CASES), odd=st.sampled_from(ODD))
async def test_odd_value_is_never_an_internal_error(
    ann: str, client: httpx.AsyncClient, case: tuple[tuple[str, str], tuple[Any, ...]], odd: str
) -> None:
    route, path = case
    response = await _answer(client, route, _with_odd(BODIES[route], path, odd))
    assert response.status_code != 500, (route, path, odd)


@hypothesis_settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(route=st.sampled_from(list(BODIES)), field=st.text(max_size=5), odd=st.sampled_from(ODD))
async def test_unknown_field_is_never_an_internal_error(
    ann: str, client: httpx.AsyncClient, route: tuple[str, str], field: str, odd: str
) -> None:
    text = json.dumps({**BODIES[route], f"{field}_": MARK}).replace(f'"{MARK}"', odd)
    response = await _answer(client, route, text)
    assert response.status_code != 500, (route, field, odd)


@pytest.mark.parametrize("when", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_time_outside_of_all_years_is_refused(
    ann: str, client: httpx.AsyncClient, error_of: ErrorOf, when: str
) -> None:
    for route, field in (
        (("POST", "/v1/users/ann/engagements"), ("engagements", 0, "occurred_at")),
        (("POST", "/v1/traces"), ("asked_at",)),
    ):
        response = await _answer(client, route, _with_odd(BODIES[route], field, f'"{when}"'))
        assert (response.status_code, error_of(response)["code"]) == (422, "validation_error")


async def test_first_and_last_time_are_stored(ann: str, client: httpx.AsyncClient, services: Services) -> None:
    for number, when in enumerate(("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z")):
        body = {"engagements": [{**ASKED, "id": f"edge{number}", "occurred_at": when}]}
        assert (await client.post("/v1/users/ann/engagements", json=body)).status_code == 200
    page = (await client.get("/v1/users/ann/engagements")).json()["engagements"]
    assert {item["occurred_at"] for item in page} >= {"0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"}


@pytest.mark.parametrize(
    ("route", "field"),
    [
        (("POST", "/v1/batches"), "idempotency_key"),
        (("POST", "/v1/leases"), "owner"),
        (("PUT", "/v1/cohorts/walkers"), "description"),
    ],
)
@pytest.mark.parametrize("text", ['"a\\u0000b"', '"a\\ud83d"'])
async def test_text_that_no_database_takes_is_refused(
    ann: str, client: httpx.AsyncClient, error_of: ErrorOf, route: tuple[str, str], field: str, text: str
) -> None:
    response = await _answer(client, route, _with_odd(BODIES[route], (field,), text))
    assert (response.status_code, error_of(response)["code"]) == (422, "validation_error")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
async def test_number_that_json_does_not_have_is_refused_in_a_chat(
    client: httpx.AsyncClient, error_of: ErrorOf, number: str
) -> None:
    text = f'{{"model": "base", "messages": [{{"role": "user", "content": "hi"}}], "temperature": {number}}}'
    response = await _answer(client, ("POST", "/v1/chat/completions"), text)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_json")


# --- numbers, booleans and times of another type -----------------------------------


@pytest.mark.parametrize(
    ("route", "field", "value"),
    [
        (("POST", "/v1/batches"), "candidates", "true"),
        (("POST", "/v1/batches"), "seed", '"1"'),
        (("POST", "/v1/batches"), "temperature", '"0.5"'),
        (("POST", "/v1/batches"), "hints", "1"),
        (("POST", "/v1/batches"), "exhaustive", '"yes"'),
        (("POST", "/v1/leases"), "ttl_s", "true"),
        (("POST", "/v1/leases"), "max_traces", '"5"'),
        (("POST", "/v1/adapters/user/ann/promote"), "version", "true"),
        (("PUT", "/v1/adapters/user/ann/canary"), "share", '"0.1"'),
        (("POST", "/v1/adapters/user/ann/versions/1/pin"), "pinned", "1"),
        (("POST", "/v1/traces"), "asked_at", "1767225600"),
        (("POST", "/v1/traces"), "asked_at", '"1767225600.5"'),
        (("POST", "/v1/traces"), "seed", "true"),
    ],
)
async def test_value_of_another_type_is_refused(
    ann: str, client: httpx.AsyncClient, error_of: ErrorOf, route: tuple[str, str], field: str, value: str
) -> None:
    response = await _answer(client, route, _with_odd(BODIES[route], (field,), value))
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (422, "validation_error", field)


async def test_whole_number_with_a_point_is_one(ann: str, client: httpx.AsyncClient) -> None:
    """JSON has one type of numbers: a sender may write 2 as 2.0."""
    body = BODIES["POST", "/v1/batches"]
    response = await _answer(client, ("POST", "/v1/batches"), _with_odd(body, ("candidates",), "2.0"))
    assert (response.status_code, response.json()["request"]["candidates"]) == (201, 2)


def _minutes(minutes: int) -> timezone:
    return timezone(timedelta(minutes=minutes))


TIMES = (
    st.datetimes(timezones=st.none() | st.integers(-1439, 1439).map(_minutes)).map(lambda when: when.isoformat())
    | st.text("0123456789-+:.TZ ", max_size=32)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)
"""Times of any year with any offset, texts that look like one, and numbers."""
written = itertools.count()


@hypothesis_settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(when=TIMES)
async def test_time_is_stored_as_it_was_sent_or_refused(ann: str, client: httpx.AsyncClient, when: Any) -> None:
    id = f"time{next(written):06d}"
    body = {"engagements": [{**ASKED, "id": id, "occurred_at": when}]}
    response = await client.post("/v1/users/ann/engagements", json=body)
    assert response.status_code in (200, 422), response.text
    if response.status_code == 422:
        assert response.json()["error"]["param"] == "engagements[0].occurred_at"
        return
    assert isinstance(when, str), "a number is no time"
    page = (await client.get("/v1/users/ann/engagements", params={"limit": 1000})).json()["engagements"]
    [stored] = [one["occurred_at"] for one in page if one["id"] == id]
    sent = TypeAdapter(datetime).validate_python(when)
    assert TypeAdapter(datetime).validate_python(stored) == (sent if sent.tzinfo else sent.replace(tzinfo=UTC))
