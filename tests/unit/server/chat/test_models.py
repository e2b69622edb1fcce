"""Which model answers for a user or a cohort, as `GET /v1/models/{model}` says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat_room import Room
from mindprint_server.exceptions import NotFound
from uploads import published


async def test_the_root_of_a_user_is_the_version_that_answers(room: Room, tmp_path: Path) -> None:
    models = room.services.models
    assert (await models.get("user/bob"))["root"] == "base"
    await published(room.services, tmp_path, "cohort/everyone", user="bob")
    for model in ("user/bob", "user/ann", "cohort/everyone"):
        answer = await room.ask(model, mode="direct")
        assert (await models.get(model))["root"] == answer["mindprint"]["model"]
    assert (await models.get("user/bob"))["root"] == "cohort/everyone@1"


async def test_a_version_without_files_is_no_model(room: Room, tmp_path: Path) -> None:
    await published(room.services, tmp_path)
    assert (await room.services.models.get("user/ann@1"))["root"] == "user/ann@1"
    assert await room.services.store.retention.mark_files_removed("user/ann", 1)
    with pytest.raises(NotFound, match="its files were removed"):
        await room.services.models.get("user/ann@1")
