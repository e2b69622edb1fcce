"""Bounds on requests: how many, how large, how long."""

from __future__ import annotations

from pydantic import BaseModel, Field


class LimitSettings(BaseModel):
    """Requests: how many at once, how large, how long."""

    max_interactive: int = Field(256, ge=1)
    """Maximum number of answers and single traces in progress at once; also at most `max_num_seqs`. Further requests
    wait, and free slots go to the waiting tenant that holds fewest. A request with `n` counts
    `n` times, and one with several prompts once for each."""
    max_waiting_interactive: int = Field(256, ge=0)
    """Maximum number of requests of one tenant that wait for a slot. Further ones are refused with 429."""
    reserved_for_tenants: float = Field(0.25, ge=0, le=1)
    """Share of the slots for answers that one tenant leaves free for others, once a second tenant has asked since the
    start. Batches leave as many free for the answers of other tenants. So a tenant need not wait until an answer of
    another one ends. 0 reserves none."""
    max_answers: int = Field(8, ge=1)
    """Maximum number of answers to one chat or prompt, the `n` of a request. A larger `n` is refused with 400, as is
    one above `max_interactive`."""
    max_connections: int = Field(900, ge=1)
    """Maximum number of open connections. A request on a further one is refused with 503, except health checks and
    metrics. Above twice as many, connections are closed at once. The default stays below the usual limit of 1,024 open
    files."""
    header_timeout_s: float = Field(10, gt=0)
    """Maximum seconds in which the headers of a request must arrive, counted from its first byte, and on a new
    connection from its start. Later ones are refused with 408 and the connection is closed."""
    request_timeout_s: float = Field(300, gt=0)
    """Maximum seconds in which the whole body of a request must arrive (else 408), and in which an answer must begin or
    a single trace must be written (else 504). For an upload it bounds the pause between two parts of the body."""
    stream_max_silence_s: float = Field(1, gt=0)
    """Maximum seconds in which a streamed answer sends nothing. The headers are sent by then, whatever the engine does,
    and then a comment (`: ping`), which clients ignore. Keep it below the read time-out of every proxy before the
    server."""
    stream_max_stall_s: float = Field(60, gt=0)
    """Maximum seconds in which the reader of a reply takes nothing. Then a streamed answer ends, and its slots and its
    version are free for others. The connection of any reply is closed. The default lets short breaks of a connection
    pass."""
    download_timeout_s: float = Field(1800, gt=0)
    """Maximum seconds for which one reply waits for its reader, all waits together. Then its connection is closed, and
    what it held is free: files, reads of the database, a place among the running requests. A stream whose reader keeps
    up does not wait, so it may last longer. The default fits `max_upload_bytes` at 0.3 MB a second."""
    upload_timeout_s: float = Field(1800, gt=0)
    """Maximum seconds in which the whole body of an upload must arrive (else 408). The default fits `max_upload_bytes`
    at 0.3 MB a second."""
    max_body_bytes: int = Field(1_000_000, ge=1024)
    """Maximum size of the body of a request in bytes, except of an upload. A larger one is refused with 413."""
    max_json_depth: int = Field(64, ge=8)
    """Maximum number of levels of lists and objects in the JSON of a body. A deeper one is refused with 400. The
    manifest and the configuration in an upload are not counted."""
    max_upload_bytes: int = Field(512 * 1024 * 1024, ge=1024)
    """Maximum size of an upload of adapter files in bytes. A larger one is refused with 413."""
    retry_after_s: int = Field(2, ge=1)
    """Seconds after which a refused client may try again: the value of `Retry-After` with 429 and 503."""
