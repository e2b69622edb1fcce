from __future__ import annotations

import asyncio

import pytest

from mindprint_server.exceptions import NotFound
from mindprint_server.wiring import Services
from samples import engagement


async def test_name_of_a_user_is_not_kept_after_the_profile_is_written(services: Services) -> None:
    await services.store.engagements.add("ann", [engagement(n) for n in range(6)])
    assert await services.profiles.ensure("ann") == 1
    await services.profiles.renew("ann")
    with pytest.raises(NotFound):
        await services.profiles.renew("eve")
    assert list(services.profiles._locks) == []


async def test_calls_for_one_user_run_one_after_the_other(services: Services) -> None:
    await services.store.engagements.add("ann", [engagement(n) for n in range(6)])
    assert sorted(await asyncio.gather(*(services.profiles.ensure("ann") for _ in range(3)))) == [0, 0, 1]
