"""The models that a request may name: the base model, users, cohorts, and versions of their adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from mindprint.types import Adapter, Version
from mindprint.types.keys import BASE, AdapterKey, ModelName, VersionRef
from mindprint_server.chat.messages import read_model, shorten
from mindprint_server.context import ServerContext
from mindprint_server.exceptions import NotFound
from mindprint_server.store import RecordNotFound

ADAPTERS_A_READ = 100
"""Adapters that a list of models reads from the store at a time."""


@contextmanager
def found_by_model(model: ModelName) -> Iterator[None]:
    """Say of a user, cohort or version that is not found that `model` names it, and where models are listed.

    Args:
        model: The model of the request.

    Raises:
        RecordNotFound: One was not found in the block.
    """
    try:
        yield
    except RecordNotFound as error:
        asked = shorten(str(model))
        error.message = f"there is no model {asked} ({error.message}); GET /v1/models lists those with an adapter"
        error.param = "model"
        raise


class ModelCatalog:
    """Lists and finds models, as cards in OpenAI's form. It loads nothing.

    Args:
        ctx: Settings, store, engine and metrics of the server.
    """

    def __init__(self, ctx: ServerContext) -> None:
        self._store = ctx.store
        self._engine = ctx.engine

    async def list_page(self, *, after: ModelName | None = None, limit: int) -> dict[str, Any]:
        """List the base model, every adapter with a live version, and every version that may be named.

        An adapter's own card comes before those of its versions. `has_more` and `last_id` are those of OpenAI's other
        lists.

        Args:
            after: Last id of the previous page; None starts at the beginning.
            limit: Maximum number of cards.
        """
        cards = [self._card(BASE)] if after is None else []
        last_key = None if after is None else after.key
        if after is not None and last_key is not None:
            with suppress(RecordNotFound):
                adapter = await self._store.adapters.get(last_key)
                cards += self._cards_of_adapter(adapter, after=after.number or 0)
        is_last = False
        while len(cards) <= limit and not is_last:
            adapters = await self._store.adapters.list_page(after=last_key, limit=ADAPTERS_A_READ)
            for adapter in adapters:
                cards += self._cards_of_adapter(adapter)
                last_key = AdapterKey(adapter.key)
            is_last = len(adapters) < ADAPTERS_A_READ
        page = cards[:limit]
        last = page[-1]["id"] if page else None
        return {"object": "list", "data": page, "has_more": len(cards) > limit, "last_id": last}

    def _cards_of_adapter(self, adapter: Adapter, after: int = -1) -> list[dict[str, Any]]:
        """Return the card of an adapter with a live version, as number 0, and those of its versions."""
        cards: list[dict[str, Any]] = []
        for version in adapter.versions:
            if adapter.live == version.version and after < 0:
                root = VersionRef.of(adapter.key, version.version)
                cards.insert(0, self._card(adapter.key, version.created_at, root=root))
            if _may_be_named(version) and version.version > after:
                cards.append(self._card(VersionRef.of(adapter.key, version.version), version.created_at))
        return cards

    async def get(self, name: str) -> dict[str, Any]:
        """Return the card of one model.

        It finds what `model` of a request may name. So it also finds users and cohorts without a version in service,
        for whom another model answers: the card's `root` says which.

        Raises:
            NotFound: There is no such model, or it is another tenant's.
        """
        model = read_model({"model": name})
        try:
            return await self._find(model)
        except RecordNotFound as error:
            message = f"there is no model {shorten(name)} ({error.message}); GET /v1/models lists those with an adapter"
            raise NotFound("model_not_found", message, param="model") from None

    async def _find(self, name: ModelName) -> dict[str, Any]:
        key, number = name.key, name.number
        if key is None:
            return self._card(BASE)
        if number is not None:
            version = await self._store.versions.get(key, number)
            if not _may_be_named(version):
                raise RecordNotFound("version", name, hint="it was refused, or its files were removed")
            return self._card(name, version.created_at)
        return await self._card_of_adapter(key)

    async def _card_of_adapter(self, key: AdapterKey) -> dict[str, Any]:
        """Return the card of a user or cohort, with the version that answers most requests as its root."""
        is_user = key.kind == "user"
        live = self._store.live_versions
        answering, pointers = await live.resolve_for_user(key.name) if is_user else (key, await live.get(key))
        version = pointers.live
        if pointers.canary is not None and (pointers.canary_share or 0.0) > 0.5:
            version = pointers.canary
        root = BASE if version is None else VersionRef.of(answering, version.version)
        if version is not None and answering == key:
            return self._card(key, version.created_at, root=root)
        # Another model answers for those who exist, and none for others.
        if is_user:
            return self._card(key, (await self._store.users.get(key.name)).created_at, root=root)
        return self._card(key, (await self._store.cohorts.get(key.name)).created_at, root=root)

    def _card(self, name: str, created_at: datetime | None = None, root: str | None = None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": int(created_at.timestamp()) if created_at else 0,
            "owned_by": "mindprint",
            "root": root or name,
            "parent": None if name == BASE else BASE,
            "max_model_len": self._engine.info().max_model_len,
        }


def _may_be_named(version: Version) -> bool:
    return version.state != "refused" and version.files
