"""The routes of adapters, their versions, and cohorts, described as in `calls`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mindprint import downloads
from mindprint.exceptions import InvalidRequest
from mindprint.transport import Call, Download, delete, get, nothing, post, put, reply_of, segment
from mindprint.types import (
    Adapter,
    AdapterPage,
    Cohort,
    CohortEdit,
    CohortPage,
    Lineage,
    Members,
    Pin,
    Promote,
    Release,
    Version,
)

_adapter = reply_of(Adapter)
_adapters = reply_of(AdapterPage)
_cohort = reply_of(Cohort)
_cohorts = reply_of(CohortPage)
_lineage = reply_of(Lineage)
_version = reply_of(Version)


def adapters() -> Call[AdapterPage]:
    """All adapters with their versions."""
    return get("/v1/adapters", _adapters)


def adapter(key: str) -> Call[Adapter]:
    """One adapter, for instance `user/anna`."""
    return get(_adapter_path(key), _adapter)


def promote(key: str, version: int | None) -> Call[Adapter]:
    """Make `version` the live one; None takes the adapter off, so that the cohort or the base answers."""
    # As a mapping: a `null` must reach the server.
    body = Promote(version=version).model_dump()
    return post(f"{_adapter_path(key)}/promote", _adapter, body, slow=True)


def rollback(key: str) -> Call[Adapter]:
    """Make the version before the live one live."""
    return post(f"{_adapter_path(key)}/rollback", _adapter, slow=True)


def release_candidate(key: str, version: int | None, share: float = 0.1) -> Call[Adapter]:
    """Let `version` answer a `share` (above 0, below 1) of the adapter's requests before it is live; None ends that."""
    body = Release(version=version, share=share).model_dump()
    return post(f"{_adapter_path(key)}/release", _adapter, body, repeatable=True, slow=True)


def version(key: str, number: int) -> Call[Version]:
    """One version with what the gate found."""
    return get(_version_path(key, number), _version)


def lineage(key: str, number: int) -> Call[Lineage]:
    """Why a version is as it is: its traces, its ancestors, what it was examined on."""
    return get(f"{_version_path(key, number)}/lineage", _lineage)


def pin(key: str, number: int, pinned: bool = True) -> Call[Version]:
    """A pinned version keeps its files and, once loaded, its place in the engine."""
    return post(f"{_version_path(key, number)}/pin", _version, Pin(pinned=pinned), repeatable=True, slow=True)


def download(key: str, number: int, folder: Path, *, most_bytes: int = downloads.MOST_BYTES) -> Download[Path]:
    """Fetch a version as a plain PEFT folder: adapter_config.json, adapter_model.safetensors and manifest.json.

    `folder` must be absent or empty; it appears whole or not at all, and is returned.
    ApiError `version_files_gone` (409) once retention has removed the files, BadReply if the weights are not those of
    the manifest, OSError if it cannot be written.
    """
    call = get(f"{_version_path(key, number)}/download", nothing)
    return Download(call, partial(downloads.opened, folder, most_bytes))


def _version_path(key: str, number: int) -> str:
    return f"{_adapter_path(key)}/versions/{number}"


def _adapter_path(key: str) -> str:
    kind, _, name = key.partition("/")
    if kind not in ("user", "cohort") or not name:
        raise InvalidRequest(f"{key!r} is no adapter: write user/<id> or cohort/<name>")
    return f"/v1/adapters/{kind}/{segment(name)}"


# --- cohorts -----------------------------------------------------------------------


def cohorts() -> Call[CohortPage]:
    """All cohorts, with their number of users."""
    return get("/v1/cohorts", _cohorts)


def cohort(name: str) -> Call[Cohort]:
    """One cohort. ApiError `cohort_not_found`."""
    return get(_cohort_path(name), _cohort)


def put_cohort(name: str, description: str = "") -> Call[Cohort]:
    """Create a cohort, or describe it anew."""
    return put(_cohort_path(name), _cohort, CohortEdit(description=description))


def delete_cohort(name: str) -> Call[None]:
    """Remove a cohort; its users go to `everyone`, which cannot be removed."""
    return delete(_cohort_path(name), nothing)


def add_members(name: str, users: Sequence[str]) -> Call[Cohort]:
    """Move users into a cohort, from whichever they were in."""
    return post(f"{_cohort_path(name)}/users", _cohort, Members(users=list(users)), repeatable=True)


def remove_member(name: str, user_id: str) -> Call[Cohort]:
    """Move a user from a cohort to `everyone`."""
    return delete(f"{_cohort_path(name)}/users/{segment(user_id)}", _cohort)


def _cohort_path(name: str) -> str:
    return f"/v1/cohorts/{segment(name)}"
