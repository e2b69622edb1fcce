"""Every refusal: its status, its code, and a message that says what to do."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from mindprint.types import ErrorReply
from mindprint_server import exceptions
from mindprint_server.api import errors
from mindprint_server.api.errors import ApiError
from mindprint_server.engine import EngineDied, PromptTooLong
from mindprint_server.exceptions import Invalid, LimitExceeded, ServerError
from mindprint_server.store import exceptions as store_errors
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
TEA = {"id": "e1", "prompt": "tea or coffee?", "response": "tea", "occurred_at": "2026-01-01T00:00:00Z"}
POST = "/v1/users/ann/engagements"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (store_errors.RecordNotFound("user", "ann"), 404, "user_not_found"),
        (store_errors.RecordNotFound("adapter", "user/ann"), 404, "adapter_not_found"),
        (store_errors.EngagementConflict("e1"), 409, "engagement_conflict"),
        (store_errors.IdempotencyConflict("k"), 409, "idempotency_conflict"),
        (store_errors.QueueFull(2), 429, "batch_queue_full"),
        (store_errors.BacklogFull("user/ann", 9, 10), 429, "backlog_full"),
        (store_errors.LeaseLost("l1", "it ran out"), 409, "lease_lost"),
        (store_errors.NothingToRollBack("user/ann"), 409, "nothing_to_roll_back"),
        (store_errors.StoreBusy("locked"), 503, "store_busy"),
        (store_errors.StoreFull(), 507, "storage_full"),
        (store_errors.FilesGone("user/ann", 1), 409, "version_files_gone"),
        (store_errors.VersionRefused("user/ann", 1), 409, "version_refused"),
        (store_errors.AlreadyLive("user/ann", 1), 409, "version_live"),
        (store_errors.EveryoneStays(), 409, "everyone_stays"),
        (exceptions.Unsupported("no_chat", "no"), 501, "no_chat"),
        (exceptions.ClientGone("client_closed_request", "no"), 499, "client_closed_request"),
        (exceptions.BackendRefused(400, "no"), 400, "bad_request"),
    ],
)
def test_each_kind_of_error_has_a_status(error: ServerError, status: int, code: str) -> None:
    said = errors.from_server(error, retry_after=7)
    assert (said.status, said.code) == (status, code)
    assert said.retry_after == (7 if status in (429, 503, 507) else None)
    ErrorReply.model_validate(errors.envelope(said))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (store_errors.StoreBusy("locked"), "true"),
        (store_errors.QueueFull(2), "true"),
        (store_errors.StoreFull(), "true"),
        (store_errors.RecordNotFound("user", "ann"), "false"),
        (store_errors.EngagementConflict("e1"), "false"),
        (exceptions.Unsupported("no_chat", "no"), "false"),
        (exceptions.BackendRefused(400, "no"), "false"),
        (exceptions.BackendRefused(500, "no"), None),
        (RuntimeError("broken"), None),
        (TimeoutError(), None),
    ],
)
async def test_errors_say_whether_the_request_may_be_repeated(
    client: httpx.AsyncClient, services: Services, error: Exception, said: str | None
) -> None:
    """OpenAI's clients repeat each 409 unless they are told not to."""
    services.traces.next = error  # type: ignore[attr-defined]
    response = await client.post("/v1/traces", json={"user_id": "ann", "query": "tea?"})
    assert response.is_error
    assert response.headers.get("x-should-retry") == said
    assert ("Retry-After" in response.headers) == (said == "true")


async def test_a_commit_whose_outcome_is_unknown_does_not_ask_for_a_repetition(
    client: httpx.AsyncClient, services: Services
) -> None:
    """Such a repetition of a rollback went back two versions."""
    lost = store_errors.StoreBusy("the connection was lost", is_outcome_unknown=True)
    services.traces.next = lost  # type: ignore[attr-defined]
    response = await client.post("/v1/traces", json={"user_id": "ann", "query": "tea?"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "store_busy")
    assert "read what is stored now before you send it again" in response.json()["error"]["message"]
    assert not {"x-should-retry", "retry-after"} & response.headers.keys()


async def test_a_request_that_is_refused_unread_says_that_it_will_be_refused_again(client: httpx.AsyncClient) -> None:
    for response in (await client.get("/v1/nothing"), await client.post(POST, content=b"{")):
        assert response.headers["x-should-retry"] == "false"
    assert "x-should-retry" not in (await client.get("/livez")).headers


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"engagements": []}, "engagements: list should have at least 1 item"),
        ({}, "engagements: is missing: add it"),
        ({"engagements": [TEA], "extra": 1}, "extra: is not known here"),
        ({"engagements": [{**TEA, "respnse": "tea"}]}, "engagements[0].respnse: is not known here"),
        ({"engagements": [TEA, {**TEA, "choices": ["milk", "water"]}]}, "engagements[1]: response is not among"),
        (
            {"engagements": [{**TEA, "choices": ["tea", "tea"]}]},
            "engagements[0]: choices repeat: send each choice once",
        ),
        ({"engagements": [{**TEA, "id": "../../etc"}]}, "engagements[0].id: string should match pattern"),
        ({"engagements": [{**TEA, "occurred_at": "tomorrow"}]}, "engagements[0].occurred_at: input should be a valid"),
        ([TEA], "body: input should be a valid dictionary"),
    ],
)
async def test_a_bad_field_is_named(body: Any, part: str, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.post(POST, json=body)
    assert response.status_code == 422
    error = error_of(response)
    assert error["code"] == "validation_error"
    assert error["message"].startswith(part)
    assert error["param"] == part.split(":")[0]
    assert (await client.get("/v1/users/ann")).status_code == 404, "nothing is stored of a refused request"


async def test_more_than_one_complaint_is_counted(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    error = error_of(await client.post(POST, json={"engagements": [{"id": "e1"}]}))
    assert error["message"] == "engagements[0].prompt: is missing: add it (and 2 more)"


async def test_large_input_is_not_echoed(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    huge = "x" * 9000
    body = {"engagements": [{**TEA, "response": huge, "choices": ["tea", "milk"], huge: 1}]}
    response = await client.post(POST, json=body)
    assert response.status_code == 422
    assert len(response.content) < 1500
    body = {"engagements": [{**TEA, "response": huge, "choices": ["tea", "milk"]}]}
    assert "xxx" not in error_of(await client.post(POST, json=body))["message"]


@pytest.mark.parametrize("text", ['{"\\ud800": 1}', '{"engagements": [{"id": "\\ud800"}]}', '{"engagements": NaN}'])
async def test_odd_json_is_refused_cleanly(text: str, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.post(POST, content=text, headers={"content-type": "application/json"})
    assert response.status_code == 422
    error_of(response)


@pytest.mark.parametrize(
    "content", [b"{", b"", b"\xff\xfe", b"{'a': 1}", b"[" * 9000, b'{"a": ' + b"9" * 5000 + b"}", b"{} {}"]
)
@pytest.mark.parametrize("path", [POST, "/v1/chat/completions"])
async def test_malformed_json(path: str, content: bytes, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.post(path, content=content, headers={"content-type": "application/json"})
    if not content:
        status = 400 if "chat" in path else 422
        assert (response.status_code, error_of(response)["message"]) == (status, "body: is missing: add it")
        return
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_json")


async def test_a_body_that_is_not_declared_as_json(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.post(POST, content=b'{"engagements": []}', headers={"content-type": "text/plain"})
    assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_media_type")
    assert "Content-Type: application/json" in response.text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/users/a..b", "/v1/users/.hidden", "/v1/users/..%2F..%2Fetc", "/v1/users/a%2Fb/engagements",
        "/v1/users/a%00b", "/v1/users/..%2F", "/v1/users/%20", "/v1/users/" + "a" * 65, "/v1/users/%C3%A4",
        "/v1/adapters/user/a..b", "/v1/adapters/user/..%2Fx", "/v1/adapters/other/ann", "/v1/leases/a.b",
        "/v1/users/a%0A", "/v1/traces/..%5Cx", "/v1/batches/~root",
    ],
)  # fmt: skip
async def test_a_path_in_a_name(path: str, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.get(path)
    assert (response.status_code, error_of(response)["code"]) == (422, "invalid_name")


async def test_a_path_in_a_name_in_a_body(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    error = error_of(await client.post("/v1/batches", json={"users": ["ann", "../ben"]}))
    assert (error["code"], error["param"]) == ("invalid_name", "users[1]")
    assert "no slash" in error["message"]


@pytest.mark.parametrize(
    "path", ["embeddings", "files", "files/f1", "fine_tuning/jobs", "moderations", "audio/speech", "images/generations"]
)
async def test_a_part_of_openai_s_api_that_is_not_served(
    path: str, client: httpx.AsyncClient, error_of: ErrorOf
) -> None:
    for response in (await client.post(f"/v1/{path}", json={}), await client.get(f"/v1/{path}")):
        error = error_of(response)
        assert (response.status_code, error["code"], error["type"]) == (404, "not_served", "invalid_request_error")
        assert f"does not serve /v1/{path.split('/')[0]}:" in error["message"]


async def test_unknown_paths_and_methods(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.get("/v2/users")
    assert (response.status_code, error_of(response)["code"]) == (404, "not_found")
    response = await client.delete("/v1/users")
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/batches", "GET, POST"),
        ("/v1/cohorts/walkers", "DELETE, GET, PUT"),
        ("/v1/users/ann/profile", "GET, POST"),
        ("/v1/traces/requeue", "POST"),
    ],
)
async def test_method_not_allowed_names_all_methods_of_the_path(
    client: httpx.AsyncClient, error_of: ErrorOf, path: str, methods: str
) -> None:
    response = await client.options(path)
    assert (response.status_code, response.headers["allow"]) == (405, methods)
    assert error_of(response)["message"].endswith(f": use {methods}")


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (Invalid("choices_alike", "send other choices"), 422, "choices_alike"),
        (LimitExceeded("busy", "wait", retry_after=3), 429, "busy"),
        (EngineDied("gone"), 503, "engine_dead"),
        (PromptTooLong("4096 tokens and 2048 fit"), 422, "prompt_too_long"),
        (TimeoutError(), 504, "timeout"),
        (RuntimeError("secret detail"), 500, "internal_error"),
    ],
)
async def test_what_a_service_raises(
    raised: Exception, status: int, code: str, client: httpx.AsyncClient, services: Services, error_of: ErrorOf
) -> None:
    services.traces.next = raised  # type: ignore[attr-defined]
    response = await client.post("/v1/traces", json={"user_id": "ann", "query": "tea?"})
    error = error_of(response)
    assert (response.status_code, error["code"]) == (status, code)
    assert "secret" not in response.text
    if status == 500:
        assert response.headers["x-request-id"] in error["message"]
    labels = {"tenant": "default", "code": code}
    refused = services.metrics.registry.get_sample_value("mindprint_refusals_total", labels)
    assert refused == 1


def test_errors_speak_openais_types() -> None:
    types = [ApiError(status, "c", "m").type for status in (400, 429, 503)]
    assert types == ["invalid_request_error", "rate_limit_error", "server_error"]


def test_a_message_is_short_and_encodes() -> None:
    said = errors.envelope(ApiError(400, "c", "\ud800" + "y" * 5000, param="\ud800"))
    assert len(said["error"]["message"]) == exceptions.MESSAGE_LIMIT
    json.dumps(said, ensure_ascii=False).encode()


def test_a_cause_that_is_no_json_stays_out() -> None:
    odd = {"error": ValueError()}
    said = errors.from_validation([{"type": "value_error", "loc": ("body",), "msg": "Value error, no", "ctx": odd}])
    assert said.message == "body: no"


# --- bodies that are too large or too slow ----------------------------------------


async def test_a_body_over_the_limit_by_its_header(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.post(POST, content=b"x" * 20_001, headers={"content-type": "application/json"})
    assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")
    assert "20000 bytes" in response.text


@pytest.mark.parametrize("path", [POST, "/v1/chat/completions"])
async def test_a_body_over_the_limit_in_chunks(path: str, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield b" " * 1000

    response = await client.post(path, content=endless(), headers={"content-type": "application/json"})
    assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")
    assert sent <= 22_000, "reading stops at the limit"


async def test_a_body_that_stops_arriving(app: FastAPI, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    app.state.settings.request_timeout_s = 0.05

    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    response = await client.post(POST, content=stalled(), headers={"content-type": "application/json"})
    assert (response.status_code, error_of(response)["code"]) == (408, "body_timeout")
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/v1/responses/", "/v1/responses"),
        ("/completions", "/v1/completions"),
    ],
)
async def test_a_path_with_a_wrong_base_url_names_the_right_one(
    client: httpx.AsyncClient, error_of: ErrorOf, path: str, meant: str
) -> None:
    response = await client.post(path, json={})
    assert response.status_code == 404
    assert error_of(response)["message"] == f"there is no '{path}' here: use {meant}"
    for other in ("/v2/chat/completions", "/v1", "/"):
        response = await client.post(other, json={})
        assert "use /v1" not in error_of(response)["message"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "deflate, gzip"])
async def test_a_compressed_body_is_named(client: httpx.AsyncClient, error_of: ErrorOf, encoding: str) -> None:
    body = gzip.compress(json.dumps({"model": "base", "messages": []}).encode())
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    response = await client.post("/v1/chat/completions", content=body, headers=headers)
    assert (response.status_code, response.headers["accept-encoding"]) == (415, "identity")
    assert "without Content-Encoding" in error_of(response)["message"]
    response = await client.post(
        "/v1/chat/completions", json={"model": "base"}, headers={"Content-Encoding": "identity"}
    )
    assert response.status_code == 200
