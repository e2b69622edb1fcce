from __future__ import annotations

import asyncio
from typing import Any

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


async def test_notes_of_all_users_are_generated_a_few_at_a_time(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, calls = 0, 0, 0
    generate = services.engine.generate

    async def count(*args: Any, **kwargs: Any) -> Any:
        nonlocal running, most, calls
        running, calls = running + 1, calls + 1
        most = max(most, running)
        await asyncio.sleep(0)
        try:
            return await generate(*args, **kwargs)
        finally:
            running -= 1

    monkeypatch.setattr(services.engine, "generate", count)
    at_once, piece = services.settings.profile_notes_at_once, services.settings.profile_piece
    length = piece * (at_once + 2)
    for place, user in enumerate(("ann", "ben")):  # with other notes, which are remembered
        await services.store.engagements.add(user, [engagement(place * length + n) for n in range(length)])
    await asyncio.gather(*(services.profiles.renew(user) for user in ("ann", "ben")))
    assert calls > 2 * at_once
    assert most == at_once
