"""Routes of traces: `client.traces`."""

from __future__ import annotations

from collections.abc import Sequence

from mindprint._methods import Method, Resource, SenderT, StreamMethod
from mindprint.streaming import Ndjson
from mindprint.transport import Call, Stream, get_call, post_call, read_nothing, reply_of, segment
from mindprint.types import (
    ImportedTrace,
    ImportedTraces,
    Ingested,
    Mode,
    Requeue,
    Requeued,
    Trace,
    TracePage,
    TraceRequest,
    TraceState,
    VerdictLabel,
)

_ingested = reply_of(Ingested)
_requeued = reply_of(Requeued)
_trace = reply_of(Trace)
_traces = reply_of(TracePage)


class TracesResource(Resource[SenderT]):
    """Thinking traces: write one, import your own, list and export them."""

    @Method
    def create(self, request: TraceRequest) -> Call[Trace]:
        """Write one trace now and return it.

        A trace about a stored engagement is judged and stored; a trace about a query is only returned.
        """
        return post_call("/v1/traces", _trace, request, slow=True)

    @Method
    def get(self, trace_id: str) -> Call[Trace]:
        """Return one stored trace.

        Raises:
            ApiError: `trace_not_found`.
        """
        return get_call(f"/v1/traces/{segment(trace_id)}", _trace)

    @Method
    def list(
        self,
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
        """List stored traces in the order in which they were written.

        Args:
            user: Only traces of this user.
            engagement: Only traces about this engagement. Engagement ids are unique per user: name the `user` as well.
            mode: Only traces of this mode.
            batch: Only traces that this batch wrote.
            verdict: Only accepted, rejected or unjudged ones.
            state: Only those in this state of the training queue.
            limit: Size of the page, 1 to 1000.
            after: `next` of the previous page; None starts at the beginning.
        """
        return get_call(
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

    @Method
    def add(self, user_id: str, traces: Sequence[ImportedTrace]) -> Call[Ingested]:
        """Import up to 1000 traces about stored engagements, all or none.

        They wait for a trainer like accepted traces. Importing them again changes nothing.

        Raises:
            ApiError: `engagement_not_found`, `backlog_full` (429) or `prompt_too_long`.
        """
        body = ImportedTraces(traces=[*traces])
        return post_call(f"/v1/users/{segment(user_id)}/traces", _ingested, body, repeatable=True, slow=True)

    @Method
    def requeue(self, trace_ids: Sequence[str] | None = None, *, user: str | None = None) -> Call[Requeued]:
        """Put dead letters back into the queue, with no attempts counted. Without arguments: all there are.

        Args:
            trace_ids: Up to 1000 ids; `list(state="dead_letter")` finds them.
            user: All of this user, instead of ids.

        Raises:
            ApiError: `user_not_found`.
        """
        body = Requeue(trace_ids=None if trace_ids is None else [*trace_ids], user_id=user)
        return post_call("/v1/traces/requeue", _requeued, body, repeatable=True)

    @StreamMethod
    def export(self, *, user: str | None = None, verdict: VerdictLabel | None = None) -> Stream[Trace]:
        """Stream all stored traces, in constant memory.

        Args:
            user: Only traces of this user.
            verdict: Only accepted, rejected or unjudged ones.
        """
        return Stream(get_call("/v1/traces/export", read_nothing, user=user, verdict=verdict), lambda: Ndjson(Trace))
