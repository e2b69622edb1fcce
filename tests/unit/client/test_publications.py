"""`mindprint.endpoints.publications`: how long an upload waits for its publication."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from mindprint import ApiError, ConnectionFailed
from mindprint._methods import Pause, take_step
from mindprint.endpoints import publications
from mindprint.exceptions import MindprintError
from mindprint.types import Manifest, Publication, Version

GONE = ConnectionFailed("no server answers", sent=False)
Look = tuple[float, str | MindprintError]
"""The time of a look, and the state that it finds, or its error."""


def status(number: int) -> ApiError:
    return ApiError("no", status=number, code="c")


def followed(samples: Any, *looks: Look, max_absence_s: float = 60.0) -> tuple[Version | None, list[str], list[str]]:
    """Follow a publication through `looks`. Return its version, the states, and the absences that were told."""
    states: list[str] = []
    absences: list[str] = []
    steps = publications.follow(
        Publication.model_validate(samples.publication("stored")),
        lambda found: states.append(found.state),
        2.0,
        on_absence=lambda error: absences.append(str(error)),
        max_absence_s=max_absence_s,
    )
    step, version = take_step(steps, None)
    for now, found in looks:
        assert isinstance(step, Pause)
        step, version = take_step(steps, now)
        assert not isinstance(step, Pause)
        reply = found if isinstance(found, MindprintError) else published(samples, found)
        step, version = take_step(steps, reply)
    return version, states, absences


def published(samples: Any, state: str) -> Publication:
    result = samples.version(3) if state == "published" else None
    return Publication.model_validate(samples.publication(state, result=result))


@pytest.mark.parametrize("error", [GONE, status(502), status(503), status(504)])
def test_follow_when_the_server_is_away_then_goes_on(samples: Any, error: MindprintError) -> None:
    looks: list[Look] = [(0.0, "loading"), (2.0, error), (61.0, error), (62.0, "gate"), (64.0, "published")]
    version, states, absences = followed(samples, *looks)
    assert version is not None
    assert version.version == 3
    assert states == ["stored", "loading", "gate", "published"]
    assert absences == [str(error)]


def test_follow_when_the_server_is_away_for_longer_than_the_bound_then_raises(samples: Any) -> None:
    followed(samples, (0.0, GONE), (59.0, GONE))
    with pytest.raises(ConnectionFailed):
        followed(samples, (0.0, GONE), (59.0, GONE), (60.0, GONE))


def test_follow_when_the_server_answers_between_two_absences_then_bounds_each(samples: Any) -> None:
    looks: list[Look] = [(0.0, GONE), (40.0, "gate"), (42.0, GONE), (101.0, GONE), (102.0, "published")]
    version, _, absences = followed(samples, *looks)
    assert version is not None
    assert len(absences) == 2


def test_follow_when_the_server_refuses_to_tell_then_raises_at_once(samples: Any) -> None:
    with pytest.raises(ApiError) as refused:
        followed(samples, (0.0, status(401)))
    assert refused.value.status == 401


def test_follow_without_a_bound_raises_at_the_first_absence(samples: Any) -> None:
    with pytest.raises(ConnectionFailed):
        followed(samples, (0.0, GONE), max_absence_s=0.0)


async def test_import_goes_on_over_a_restart_of_the_server(caller: Any, samples: Any, no_pauses: list[float]) -> None:
    away = [httpx.ConnectError("gone")] * 9 + [httpx.Response(503)] * 3  # a call makes three attempts
    caller.server.answers_with(
        httpx.Response(202, json=samples.publication("stored")),
        *away,
        httpx.Response(200, json=samples.publication("published", result=samples.version(3))),
    )
    manifest = Manifest.model_validate(samples.manifest)
    version = await caller.call("adapters.import_version", manifest, b"{}", b"w")
    assert version.version == 3
    assert [request.method for request in caller.server.asked].count("POST") == 1
