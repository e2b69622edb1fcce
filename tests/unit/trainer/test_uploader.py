"""`mindprint_trainer.uploader`: uploads whose server goes away after it has stored them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mindprint import ConnectionFailed
from mindprint.types import Publication, Version
from mindprint_trainer import absence
from mindprint_trainer.errors import LeaseEnded
from mindprint_trainer.settings import Settings
from mindprint_trainer.uploader import UploadResult, VersionUploader

GONE = ConnectionFailed("no server answers", sent=False)
SHOWN: dict[str, Any] = {"adapter": "user/ann", "version": 3}
"""All that the uploader reads of a publication and of a version."""
GATE = Publication.model_construct(**SHOWN, state="gate")
LIVE = Version.model_construct(**SHOWN)


class Held:
    """A lease; each test says when it is lost."""

    def __init__(self) -> None:
        self.lease = SimpleNamespace(id="lease-1", adapter="user/ann")
        self.is_handed_over = self.is_lost = self.is_released = False
        self.stops = 0

    def raise_if_lost(self) -> None:
        if self.is_lost:
            raise LeaseEnded

    def stop_heartbeat(self) -> None:
        self.stops += 1

    def release(self) -> None:
        self.is_released = True


def upload(settings: Settings, held: Held, *calls: Callable[[Callable[[Publication], None]], Version]) -> UploadResult:
    """Upload to a server that does `calls`, one for each upload, and return how it ended."""
    left = iter(calls)

    def complete(*_: Any, on_progress: Callable[[Publication], None], **__: Any) -> Version:
        return next(left)(on_progress)

    client: Any = SimpleNamespace(leases=SimpleNamespace(complete=complete))
    trained: Any = SimpleNamespace(manifest=None, files=SimpleNamespace(config=b"", weights=b""))
    uploader = VersionUploader(settings, client, lambda *_, **__: None)
    lease: Any = held
    uploader.submit(lease, trained)
    result = uploader.poll(60)
    assert result is not None
    return result


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Settings without a wait between two calls."""
    return settings.model_copy(update={"poll_s": 0.001, "absence_max_wait_s": 0.001})


def test_upload_whose_lease_is_lost_after_it_was_stored_then_has_the_servers_result(quick: Settings) -> None:
    held = Held()

    def restarts(on_progress: Callable[[Publication], None]) -> Version:
        on_progress(GATE)
        held.is_lost = True
        raise GONE

    result = upload(quick, held, restarts, lambda _: LIVE)
    assert (result.result, result.is_final, held.is_released) == ("version 3", True, False)


def test_upload_whose_lease_is_lost_before_it_was_stored_then_is_not_repeated(quick: Settings) -> None:
    held = Held()

    def unreachable(_: Callable[[Publication], None]) -> Version:
        held.is_lost = True
        raise GONE

    assert upload(quick, held, unreachable).result == "the lease was lost: nothing uploaded"


def test_absences_around_an_answer_are_bounded_each_by_itself(quick: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(absence.ServerAbsence.__init__, "__kwdefaults__", {"clock": lambda: now})

    def goes_away(at: float, *, answers: bool) -> Callable[[Callable[[Publication], None]], Version]:
        def call(on_progress: Callable[[Publication], None]) -> Version:
            nonlocal now
            if answers:
                on_progress(GATE)
            now = at
            raise GONE

        return call

    bounded = quick.model_copy(update={"max_absence_s": 60.0})
    calls = (goes_away(0.0, answers=False), goes_away(500.0, answers=True), lambda _: LIVE)
    assert upload(bounded, Held(), *calls).result == "version 3"


def test_no_heartbeat_is_sent_once_the_server_has_stored_the_upload(quick: Settings) -> None:
    """It would be refused as soon as the version is published, and count as a failed request."""
    held, stops = Held(), list[int]()

    def publishes(on_progress: Callable[[Publication], None]) -> Version:
        stops.append(held.stops)
        for _ in range(2):
            on_progress(GATE)
            stops.append(held.stops)
        return LIVE

    assert upload(quick, held, publishes).result == "version 3"
    assert stops == [0, 1, 1]
