"""Routes of batches: `client.batches`."""

from __future__ import annotations

from mindprint._methods import Method, Resource, SenderT, StreamMethod
from mindprint.streaming import Ndjson, Progress
from mindprint.transport import Call, Stream, get_call, post_call, read_nothing, reply_of, segment
from mindprint.types import Batch, BatchPage, BatchRequest, Trace

FINAL_STATES = ("done", "failed", "cancelled")
"""States of a batch that has ended."""

_batch = reply_of(Batch)
_batches = reply_of(BatchPage)


class BatchesResource(Resource[SenderT]):
    """Durable jobs that write traces for many engagements."""

    @Method
    def create(self, request: BatchRequest) -> Call[Batch]:
        """Start a batch. With an `idempotency_key`, starting it again returns the same batch.

        Raises:
            ApiError: `batch_queue_full` (429) if too many batches are open.
        """
        return post_call("/v1/batches", _batch, request, repeatable=request.idempotency_key is not None)

    @Method
    def list(self, *, limit: int = 100, after: str | None = None) -> Call[BatchPage]:
        """List batches, newest first.

        Args:
            limit: Size of the page, 1 to 1000.
            after: `next` of the previous page; None starts with the newest.
        """
        return get_call("/v1/batches", _batches, limit=limit, after=after)

    @Method
    def get(self, batch_id: str) -> Call[Batch]:
        """Return one batch as it stands.

        Raises:
            ApiError: `batch_not_found`.
        """
        return get_call(_path(batch_id), _batch)

    @Method
    def cancel(self, batch_id: str) -> Call[Batch]:
        """Stop a batch. The traces that it has written stay."""
        return post_call(f"{_path(batch_id)}/cancel", _batch, repeatable=True)

    @StreamMethod
    def watch(self, batch_id: str) -> Stream[Batch]:
        """Stream the batch now and after each change, until it is done, failed or cancelled.

        A dropped connection is opened again, as often as the client's `reconnects` allow.
        """
        call = get_call(f"{_path(batch_id)}/events", read_nothing)
        return Stream(call, lambda: Progress(Batch), lambda batch: batch.state in FINAL_STATES)

    @StreamMethod
    def results(self, batch_id: str) -> Stream[Trace]:
        """Stream the traces that a batch has written so far."""
        return Stream(get_call(f"{_path(batch_id)}/results", read_nothing), lambda: Ndjson(Trace))


def _path(batch_id: str) -> str:
    return f"/v1/batches/{segment(batch_id)}"
