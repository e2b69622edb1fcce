"""Who is let in, and when nobody is inside."""

from __future__ import annotations

import asyncio

import pytest

from mindprint_server.admission import AdmissionController
from mindprint_server.exceptions import LimitExceeded, ServerError


def test_no_more_than_the_limit() -> None:
    admission = AdmissionController(1, 7)
    with admission.enter(), pytest.raises(ServerError) as refused, admission.enter():
        pass
    assert (type(refused.value), refused.value.retry_after) == (LimitExceeded, 7)
    with admission.enter():
        pass


def test_request_counts_once_for_each_answer() -> None:
    admission = AdmissionController(8, 1)
    with admission.enter(5):
        with pytest.raises(LimitExceeded), admission.enter(4):
            pass
        with admission.enter(3), pytest.raises(LimitExceeded), admission.enter():
            pass
    with admission.enter(8):
        pass


async def test_waiting_ends_when_the_last_request_ends() -> None:
    admission = AdmissionController(9, 1, max_idle_wait_s=60)
    await admission.wait_until_idle()  # at once: nobody is inside
    with admission.enter():
        with admission.enter():
            waiting = asyncio.create_task(admission.wait_until_idle())
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 1)


async def test_waiting_ends_after_max_idle_wait_s() -> None:
    for max_idle_wait_s in (0.01, 0):
        admission = AdmissionController(9, 1, max_idle_wait_s)
        with admission.enter():
            await asyncio.wait_for(admission.wait_until_idle(), 1)
