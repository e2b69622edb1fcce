"""Every route of the server, described once; both clients are made from these descriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

import httpx

from mindprint.errors import InvalidRequest
from mindprint.replies import ChatDelta, ChatReply, EngagementPage, ModelList, UserPage
from mindprint.streams import AnswerText, ChatPieces, Decoder, Ndjson, Progress
from mindprint.types import (
    Adapter,
    AdapterPage,
    Batch,
    BatchPage,
    BatchRequest,
    Engagement,
    EngagementBatch,
    Funnel,
    Heartbeat,
    Ingested,
    Lease,
    LeaseRequest,
    Manifest,
    Mode,
    Profile,
    Promote,
    ServerInfo,
    Trace,
    TracePage,
    TraceRequest,
    TraceState,
    User,
    Verdict,
    Version,
)
from mindprint.wire import Call, Stream, reply_of, segment

T = TypeVar("T")
Messages = str | Sequence[Mapping[str, Any]]
"""One question, or OpenAI's list of messages."""


class ChatOptions(TypedDict, total=False):
    """What a chat may name; None and what is left out are the server's choice."""

    model: str
    """`base` (default), `user/<id>` or `cohort/<name>`, optionally `@<version>`."""
    mode: Mode
    max_tokens: int | None
    temperature: float | None
    seed: int | None


FINAL = ("done", "failed", "cancelled")
"""The batch states after which nothing changes any more."""

_adapter = reply_of(Adapter)
_adapters = reply_of(AdapterPage)
_batch = reply_of(Batch)
_batches = reply_of(BatchPage)
_chat = reply_of(ChatReply)
_engagements = reply_of(EngagementPage)
_funnel = reply_of(Funnel)
_info = reply_of(ServerInfo)
_ingested = reply_of(Ingested)
_lease = reply_of(Lease)
_maybe_lease = reply_of(Lease | None)
_models = reply_of(ModelList)
_profile = reply_of(Profile)
_trace = reply_of(Trace)
_traces = reply_of(TracePage)
_user = reply_of(User)
_users = reply_of(UserPage)
_version = reply_of(Version)


def _get(path: str, read: Callable[[httpx.Response], T], **params: str | int | None) -> Call[T]:
    return Call(method="GET", path=path, read=read, params=params, repeatable=True)


def _post(
    path: str, read: Callable[[httpx.Response], T], body: Any = None, *, repeatable: bool = False, slow: bool = False
) -> Call[T]:
    return Call(method="POST", path=path, read=read, body=body, repeatable=repeatable, slow=slow)


def _nothing(_: httpx.Response) -> None:
    return None


# --- the server ------------------------------------------------------------------


def info() -> Call[ServerInfo]:
    """What the server runs: engine, device, model, limits."""
    return _get("/v1/info", _info)


def metrics() -> Call[str]:
    """The Prometheus text of `/metrics`."""
    return _get("/metrics", lambda response: response.text)


def funnel(user: str | None = None) -> Call[Funnel]:
    """From engagements attempted to traces in a live version, for the whole server or one user."""
    return _get("/v1/funnel", _funnel, user=user)


# --- users -------------------------------------------------------------------------


def users(*, limit: int = 100, after: str | None = None) -> Call[UserPage]:
    """A page of users by id; `next` of the reply is the `after` of the following page."""
    return _get("/v1/users", _users, limit=limit, after=after)


def user(user_id: str) -> Call[User]:
    """One user. ApiError `user_not_found`."""
    return _get(f"/v1/users/{segment(user_id)}", _user)


def add_engagements(user_id: str, engagements: Sequence[Engagement]) -> Call[Ingested]:
    """Store up to 1000 engagements, all or none; sending them again changes nothing.

    ApiError `engagement_conflict` (409) if an id is there with other content.
    """
    body = EngagementBatch(engagements=list(engagements))
    return _post(f"/v1/users/{segment(user_id)}/engagements", _ingested, body, repeatable=True)


def engagements(user_id: str, *, limit: int = 100, after: str | None = None) -> Call[EngagementPage]:
    """A page of a user's history, oldest first; `after` is an engagement's id."""
    return _get(f"/v1/users/{segment(user_id)}/engagements", _engagements, limit=limit, after=after)


def profile(user_id: str) -> Call[Profile]:
    """The newest written profile. ApiError `profile_not_found`."""
    return _get(f"/v1/users/{segment(user_id)}/profile", _profile)


def write_profile(user_id: str) -> Call[Profile]:
    """Write a new profile now, from all engagements."""
    return _post(f"/v1/users/{segment(user_id)}/profile", _profile, slow=True)


# --- traces ------------------------------------------------------------------------


def write_trace(request: TraceRequest) -> Call[Trace]:
    """Write one trace now."""
    return _post("/v1/traces", _trace, request, slow=True)


def trace(trace_id: str) -> Call[Trace]:
    """One trace by its id."""
    return _get(f"/v1/traces/{segment(trace_id)}", _trace)


def traces(
    *,
    user: str | None = None,
    batch: str | None = None,
    verdict: Verdict | None = None,
    state: TraceState | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Call[TracePage]:
    """A page of traces in the order of writing; `next` of the reply is the `after` of the following page."""
    return _get("/v1/traces", _traces, user=user, batch=batch, verdict=verdict, state=state, limit=limit, after=after)


def export_traces(*, user: str | None = None, verdict: Verdict | None = None) -> Stream[Trace]:
    """All traces, one after the other, however many."""
    return _ndjson(_get("/v1/traces/export", _nothing, user=user, verdict=verdict))


# --- batches -----------------------------------------------------------------------


def start_batch(request: BatchRequest) -> Call[Batch]:
    """Start a durable job. With an `idempotency_key`, starting it again gives the same batch.

    ApiError `batch_queue_full` (429) if too many are open.
    """
    return _post("/v1/batches", _batch, request, repeatable=request.idempotency_key is not None)


def batches(*, limit: int = 100) -> Call[BatchPage]:
    """The batches, newest first."""
    return _get("/v1/batches", _batches, limit=limit)


def batch(batch_id: str) -> Call[Batch]:
    """One batch as it stands."""
    return _get(f"/v1/batches/{segment(batch_id)}", _batch)


def cancel_batch(batch_id: str) -> Call[Batch]:
    """Stop a batch; what it has written stays."""
    return _post(f"/v1/batches/{segment(batch_id)}/cancel", _batch)


def watch_batch(batch_id: str) -> Stream[Batch]:
    """The batch now and after each change, until it is done, failed or cancelled. Survives dropped connections."""
    call = _get(f"/v1/batches/{segment(batch_id)}/events", _nothing)
    return Stream(call, lambda: Progress(Batch), lambda item: item.state in FINAL)


def batch_results(batch_id: str) -> Stream[Trace]:
    """The traces that a batch has written so far."""
    return _ndjson(_get(f"/v1/batches/{segment(batch_id)}/results", _nothing))


def _ndjson(call: Call[None]) -> Stream[Trace]:
    return Stream(call, lambda: Ndjson(Trace))


# --- leases ------------------------------------------------------------------------


def claim(request: LeaseRequest) -> Call[Lease | None]:
    """Claim the waiting traces of one adapter; None when nothing is waiting."""
    return _post("/v1/leases", _maybe_lease, request)


def lease(lease_id: str) -> Call[Lease]:
    """One lease, without its samples."""
    return _get(f"/v1/leases/{segment(lease_id)}", _lease)


def heartbeat(lease_id: str, ttl_s: float = 60.0) -> Call[Lease]:
    """Move a lease's deadline to `ttl_s` seconds from now. ApiError `lease_lost` (409) if it is over."""
    return _post(f"/v1/leases/{segment(lease_id)}/heartbeat", _lease, Heartbeat(ttl_s=ttl_s), repeatable=True)


def release(lease_id: str) -> Call[Lease]:
    """Give a lease back; its traces wait again."""
    return _post(f"/v1/leases/{segment(lease_id)}/release", _lease)


def complete(lease_id: str, manifest: Manifest, config: bytes | Path, weights: bytes | Path) -> Call[Version]:
    """Upload the trained adapter (PEFT's adapter_config.json and adapter_model.safetensors, as bytes or files).

    Returns the version once it is live. Completing again with the same weights gives the same version.
    ApiError `lease_lost` (409), or 422 with the reason: `canary_failed`, `adapter_rank`, `adapter_base_model`, ...
    """
    return Call(
        method="POST",
        path=f"/v1/leases/{segment(lease_id)}/complete",
        read=_version,
        form={"manifest": manifest.model_dump_json()},
        files={
            "config": ("adapter_config.json", config),
            "weights": ("adapter_model.safetensors", weights),
        },
        repeatable=True,
        slow=True,
    )


# --- adapters ----------------------------------------------------------------------


def adapters() -> Call[AdapterPage]:
    """All adapters with their versions."""
    return _get("/v1/adapters", _adapters)


def adapter(key: str) -> Call[Adapter]:
    """One adapter, for instance `user/anna`."""
    return _get(_adapter_path(key), _adapter)


def promote(key: str, version: int | None) -> Call[Adapter]:
    """Make `version` the live one; None takes the adapter off, so that the base answers."""
    # As a mapping: a `null` must reach the server.
    body = Promote(version=version).model_dump()
    return _post(f"{_adapter_path(key)}/promote", _adapter, body, slow=True)


def rollback(key: str) -> Call[Adapter]:
    """Make the version before the live one live."""
    return _post(f"{_adapter_path(key)}/rollback", _adapter, slow=True)


def _adapter_path(key: str) -> str:
    kind, _, name = key.partition("/")
    if kind not in ("user", "cohort") or not name:
        raise InvalidRequest(f"{key!r} is no adapter: write user/<id> or cohort/<name>")
    return f"/v1/adapters/{kind}/{segment(name)}"


# --- answers -----------------------------------------------------------------------


def models() -> Call[ModelList]:
    """What `chat` takes as `model`."""
    return _get("/v1/models", _models)


def chat(messages: Messages, **options: Unpack[ChatOptions]) -> Call[ChatReply]:
    """One answer. `user/<id>` as `model` brings that user's memory and live adapter."""
    return _post("/v1/chat/completions", _chat, _chat_body(messages, options), slow=True)


def chat_stream(messages: Messages, **options: Unpack[ChatOptions]) -> Stream[str]:
    """The pieces of an answer's text as they are written."""
    return _chat_pieces(_chat_body(messages, options), AnswerText)


def chat_deltas(messages: Messages, **options: Unpack[ChatOptions]) -> Stream[ChatDelta]:
    """The pieces of thinking and answer as they are written."""
    return _chat_pieces(_chat_body(messages, options), ChatPieces)


def _chat_pieces(body: dict[str, Any], decoder: Callable[[], Decoder[T]]) -> Stream[T]:
    return Stream(_post("/v1/chat/completions", _nothing, {**body, "stream": True}, slow=True), decoder)


def _chat_body(messages: Messages, options: ChatOptions) -> dict[str, Any]:
    if unknown := options.keys() - ChatOptions.__annotations__:
        raise TypeError(f"chat takes no {', '.join(sorted(unknown))}")
    asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else [dict(m) for m in messages]
    chosen = {name: value for name, value in options.items() if value is not None}
    return {"model": "base", "messages": asked, **chosen}
