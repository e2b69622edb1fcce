"""How uploads wait for their publications: versions that the server checks in the background."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mindprint._methods import Pause, Steps
from mindprint.exceptions import ApiError, MindprintError
from mindprint.retry import is_absent
from mindprint.transport import Call, get_call, reply_of, segment
from mindprint.types import Manifest, Publication, Version

FIRST_POLL_S = 0.05
"""Seconds until the first look at a publication."""
MAX_ABSENCE_S = 600.0
"""Seconds without an answer after which an import stops waiting for its publication. A restarted server goes on with
it, and needs minutes to load a large model."""
read = reply_of(Publication)
"""Reads a publication from a reply."""


def ignore(publication: Publication) -> None:
    """Do nothing with a publication: the default of `on_progress`."""


def ignore_absence(error: MindprintError) -> None:
    """Do nothing about a server that is away: the default of `on_absence`."""


def upload(
    path: str, manifest: Manifest, config: bytes | Path, weights: bytes | Path, *, repeatable: bool
) -> Call[Publication]:
    """Describe the call that uploads a version.

    Args:
        path: The route.
        manifest: What was trained and how, with the items of the parity check.
        config: PEFT's adapter_config.json, as bytes or as a file.
        weights: PEFT's adapter_model.safetensors, as bytes or as a file.
        repeatable: Whether the same upload again has the same result.
    """
    return Call(
        method="POST",
        path=path,
        read=read,
        form={"manifest": manifest.model_dump_json()},
        files={"config": ("adapter_config.json", config), "weights": ("adapter_model.safetensors", weights)},
        repeatable=repeatable,
        slow=True,
    )


def get(publication_id: str) -> Call[Publication]:
    """Describe the call that returns a publication."""
    return get_call(f"/v1/publications/{segment(publication_id)}", read)


def follow(
    publication: Publication,
    on_progress: Callable[[Publication], None],
    poll_s: float,
    *,
    on_absence: Callable[[MindprintError], None] = ignore_absence,
    max_absence_s: float = 0.0,
) -> Steps[Version]:
    """Wait until a publication has ended, and return its version.

    Args:
        publication: The publication, as the upload returned it.
        on_progress: Called with it now, and after each change of its state.
        poll_s: Seconds between two looks. The first ones come faster.
        on_absence: Called once in each absence of the server, with the error of the first look.
        max_absence_s: Seconds without an answer after which the error is raised. 0: at the first one.

    Raises:
        ApiError: There is no version: 422 with the reason of the refusal, or 409.
        MindprintError: The server is away for longer, or refuses to tell.
    """
    on_progress(publication)
    wait_s = min(FIRST_POLL_S, poll_s)
    away_since: float | None = None
    while publication.finished_at is None:
        now = yield Pause(wait_s)
        wait_s = min(2 * wait_s, poll_s)
        try:
            known, publication = publication, (yield get(publication.id))
        except MindprintError as error:
            if not is_absent(error) or now - (now if away_since is None else away_since) >= max_absence_s:
                raise
            if away_since is None:
                away_since = now
                on_absence(error)
            continue
        away_since = None
        if publication.state != known.state:
            on_progress(publication)
    return _result_of(publication)


def _result_of(publication: Publication) -> Version:
    """Return the version of a publication that has ended, or raise why there is none."""
    if publication.result is not None:
        return publication.result
    if publication.state == "published":
        message = f"version {publication.version} of {publication.adapter} was published, but has been erased since"
        raise ApiError(message, status=409, code="lease_revoked")
    status = 422 if publication.state == "refused" else 409
    raise ApiError(publication.message or "no reason given", status=status, code=publication.code or "refused")
