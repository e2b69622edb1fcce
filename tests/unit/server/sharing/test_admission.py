"""Who is let in, who waits, and when nobody is inside."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from mindprint_server.exceptions import LimitExceeded
from mindprint_server.sharing.admission import AdmissionController
from mindprint_server.tenancy import in_tenant


async def admitted(admission: AdmissionController, answers: int = 1) -> bool:
    """Whether a request is let in at once."""
    try:
        async with admission.enter(answers):
            return True
    except LimitExceeded:
        return False


async def test_no_more_than_the_limit() -> None:
    admission = AdmissionController(1, 7)
    async with admission.enter():
        with pytest.raises(LimitExceeded) as refused:
            async with admission.enter():
                pass
    assert (refused.value.code, refused.value.retry_after) == ("server_busy", 7)
    assert await admitted(admission)


async def test_request_counts_once_for_each_answer() -> None:
    admission = AdmissionController(8, 1)
    async with admission.enter(5):
        assert not await admitted(admission, 4)
        async with admission.enter(3):
            assert not await admitted(admission)
    assert await admitted(admission, 8)


async def test_a_request_above_the_limit_waits_for_its_turn() -> None:
    admission = AdmissionController(1, 1, max_waiting=1)
    async with admission.enter():
        waiting = asyncio.create_task(admitted(admission))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert not await admitted(admission), "one waits already"
        with in_tenant("globex"):
            other = asyncio.create_task(admitted(admission))
        await asyncio.sleep(0)
        assert not other.done()
    assert await waiting
    assert await other


async def test_a_tenant_that_floods_does_not_hold_up_another() -> None:
    admission = AdmissionController(2, 1, max_waiting=99)
    order: list[str] = []

    async def ask(tenant: str) -> None:
        with in_tenant(tenant):
            async with admission.enter():
                order.append(tenant)
                await asyncio.sleep(0)

    flood = [asyncio.create_task(ask("acme")) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.gather(*flood, *(ask("globex") for _ in range(3)))
    assert order.index("globex") <= 4
    assert [at for at, tenant in enumerate(order) if tenant == "globex"][-1] <= 2 + 2 * 3
    assert len(order) == 53


async def test_who_leaves_while_waiting_takes_no_slot() -> None:
    admission = AdmissionController(1, 1, max_waiting=9)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(admission.enter())
        gone = asyncio.create_task(admitted(admission))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        with pytest.raises(TimeoutError):
            async with admission.enter(max_wait_s=0):
                pass
    assert await admitted(admission)


async def test_batches_leave_slots_free_for_the_answers_of_other_tenants_only() -> None:
    admission = AdmissionController(8, 1, reserved_share=0.25)
    assert admission.reserved_beside({"default", "globex"}) == 0, "nobody has asked for an answer"
    assert await admitted(admission)
    assert admission.reserved_beside({"default"}) == 0
    assert admission.reserved_beside({"globex"}) == 2
    assert admission.reserved_beside({"default", "globex"}) == 2
    with in_tenant("globex"):
        assert await admitted(admission)
    assert admission.reserved_beside({"default"}) == 2


async def test_waiting_ends_when_the_last_request_ends() -> None:
    admission = AdmissionController(9, 1, max_idle_wait_s=60)
    await admission.wait_until_idle()  # at once: nobody is inside
    async with admission.enter():
        async with admission.enter():
            waiting = asyncio.create_task(admission.wait_until_idle())
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 1)


async def test_waiting_ends_after_max_idle_wait_s() -> None:
    for max_idle_wait_s in (0.01, 0):
        admission = AdmissionController(9, 1, max_idle_wait_s)
        async with admission.enter():
            await asyncio.wait_for(admission.wait_until_idle(), 1)
