"""Every route of the server, described once; both clients are made from these descriptions.

Those of adapters and cohorts are in `versions`, OpenAI's in `answers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mindprint.replies import EngagementPage, UserPage
from mindprint.streaming import Ndjson, Progress
from mindprint.transport import Call, Stream, get, nothing, post, reply_of, segment
from mindprint.types import (
    AutoModeDecisions,
    Batch,
    BatchPage,
    BatchRequest,
    Engagement,
    EngagementBatch,
    Funnel,
    GivenTraces,
    Heartbeat,
    ImportedTrace,
    Ingested,
    Lease,
    LeaseRequest,
    Manifest,
    Mode,
    Profile,
    ServerInfo,
    Trace,
    TracePage,
    TraceRequest,
    TraceState,
    User,
    VerdictLabel,
    Version,
)

FINAL = ("done", "failed", "cancelled")
"""The batch states after which nothing changes any more."""

_batch = reply_of(Batch)
_batches = reply_of(BatchPage)
_engagements = reply_of(EngagementPage)
_funnel = reply_of(Funnel)
_info = reply_of(ServerInfo)
_ingested = reply_of(Ingested)
_lease = reply_of(Lease)
_maybe_lease = reply_of(Lease | None)
_profile = reply_of(Profile)
_routes = reply_of(AutoModeDecisions)
_trace = reply_of(Trace)
_traces = reply_of(TracePage)
_user = reply_of(User)
_users = reply_of(UserPage)
_version = reply_of(Version)


# --- the server ------------------------------------------------------------------


def info() -> Call[ServerInfo]:
    """What the server runs: engine, device, model, limits."""
    return get("/v1/info", _info)


def metrics() -> Call[str]:
    """The Prometheus text of `/metrics`."""
    return get("/metrics", lambda response: response.text)


def funnel(user: str | None = None) -> Call[Funnel]:
    """From engagements attempted to traces in a live version, for the whole server or one user."""
    return get("/v1/funnel", _funnel, user=user)


# --- users -------------------------------------------------------------------------


def users(*, limit: int = 100, after: str | None = None) -> Call[UserPage]:
    """A page of users by id; `next` of the reply is the `after` of the following page."""
    return get("/v1/users", _users, limit=limit, after=after)


def user(user_id: str) -> Call[User]:
    """One user. ApiError `user_not_found`."""
    return get(f"/v1/users/{segment(user_id)}", _user)


def add_engagements(user_id: str, engagements: Sequence[Engagement]) -> Call[Ingested]:
    """Store up to 1000 engagements, all or none; sending them again changes nothing.

    ApiError `engagement_conflict` (409) if an id is there with other content.
    """
    body = EngagementBatch(engagements=list(engagements))
    return post(f"/v1/users/{segment(user_id)}/engagements", _ingested, body, repeatable=True)


def engagements(user_id: str, *, limit: int = 100, after: str | None = None) -> Call[EngagementPage]:
    """A page of a user's history, oldest first; `after` is an engagement's id."""
    return get(f"/v1/users/{segment(user_id)}/engagements", _engagements, limit=limit, after=after)


def profile(user_id: str) -> Call[Profile]:
    """The newest written profile. ApiError `profile_not_found`."""
    return get(f"/v1/users/{segment(user_id)}/profile", _profile)


def write_profile(user_id: str) -> Call[Profile]:
    """Write a new profile now, from all engagements."""
    return post(f"/v1/users/{segment(user_id)}/profile", _profile, slow=True)


def routes(user_id: str) -> Call[AutoModeDecisions]:
    """Which mode `auto` takes for the user's closed and open queries, and on what evidence."""
    return get(f"/v1/users/{segment(user_id)}/route", _routes)


# --- traces ------------------------------------------------------------------------


def write_trace(request: TraceRequest) -> Call[Trace]:
    """Write one trace now."""
    return post("/v1/traces", _trace, request, slow=True)


def trace(trace_id: str) -> Call[Trace]:
    """One trace by its id."""
    return get(f"/v1/traces/{segment(trace_id)}", _trace)


def traces(
    *,
    user: str | None = None,
    engagement: str | None = None,
    mode: Mode | None = None,
    batch: str | None = None,
    verdict: VerdictLabel | None = None,
    state: TraceState | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Call[TracePage]:
    """A page of traces in the order of writing; `next` of the reply is the `after` of the following page.

    Engagements of several users may have one id: name the `user` with the `engagement`.
    """
    return get(
        "/v1/traces",
        _traces,
        user=user,
        engagement=engagement,
        mode=mode,
        batch=batch,
        verdict=verdict,
        state=state,
        limit=limit,
        after=after,
    )


def add_traces(user_id: str, traces: Sequence[ImportedTrace]) -> Call[Ingested]:
    """Bring up to 1000 thinkings about stored engagements, all or none: they wait for a trainer as accepted ones do.

    Sending them again changes nothing. ApiError `engagement_not_found`, `backlog_full` (429), `prompt_too_long`.
    """
    body = GivenTraces(traces=list(traces))
    return post(f"/v1/users/{segment(user_id)}/traces", _ingested, body, repeatable=True, slow=True)


def export_traces(*, user: str | None = None, verdict: VerdictLabel | None = None) -> Stream[Trace]:
    """All traces, one after the other, however many."""
    return _ndjson(get("/v1/traces/export", nothing, user=user, verdict=verdict))


# --- batches -----------------------------------------------------------------------


def start_batch(request: BatchRequest) -> Call[Batch]:
    """Start a durable job. With an `idempotency_key`, starting it again gives the same batch.

    ApiError `batch_queue_full` (429) if too many are open.
    """
    return post("/v1/batches", _batch, request, repeatable=request.idempotency_key is not None)


def batches(*, limit: int = 100) -> Call[BatchPage]:
    """The batches, newest first."""
    return get("/v1/batches", _batches, limit=limit)


def batch(batch_id: str) -> Call[Batch]:
    """One batch as it stands."""
    return get(f"/v1/batches/{segment(batch_id)}", _batch)


def cancel_batch(batch_id: str) -> Call[Batch]:
    """Stop a batch; what it has written stays."""
    return post(f"/v1/batches/{segment(batch_id)}/cancel", _batch)


def watch_batch(batch_id: str) -> Stream[Batch]:
    """The batch now and after each change, until it is done, failed or cancelled. Survives dropped connections."""
    call = get(f"/v1/batches/{segment(batch_id)}/events", nothing)
    return Stream(call, lambda: Progress(Batch), lambda item: item.state in FINAL)


def batch_results(batch_id: str) -> Stream[Trace]:
    """The traces that a batch has written so far."""
    return _ndjson(get(f"/v1/batches/{segment(batch_id)}/results", nothing))


def _ndjson(call: Call[None]) -> Stream[Trace]:
    return Stream(call, lambda: Ndjson(Trace))


# --- leases ------------------------------------------------------------------------


def claim(request: LeaseRequest) -> Call[Lease | None]:
    """Claim the waiting traces of one adapter; None when nothing is waiting."""
    return post("/v1/leases", _maybe_lease, request)


def lease(lease_id: str) -> Call[Lease]:
    """One lease, without its samples."""
    return get(f"/v1/leases/{segment(lease_id)}", _lease)


def heartbeat(lease_id: str, ttl_s: float = 60.0) -> Call[Lease]:
    """Move a lease's deadline to `ttl_s` seconds from now. ApiError `lease_lost` (409) if it is over."""
    return post(f"/v1/leases/{segment(lease_id)}/heartbeat", _lease, Heartbeat(ttl_s=ttl_s), repeatable=True)


def release(lease_id: str) -> Call[Lease]:
    """Give a lease back; its traces wait again."""
    return post(f"/v1/leases/{segment(lease_id)}/release", _lease)


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
