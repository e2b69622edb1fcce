"""A server on the fake engine with two teams, and an engine that keeps what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from chat_room import Backend
from mindprint.types import SCOPES, CreateApiKey
from mindprint_server.app import create_app
from mindprint_server.engine import AdapterRef, GenerationOutput, Priority, Sampling
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.settings import Settings
from mindprint_server.tenancy import in_tenant
from mindprint_server.wiring import Services, close_services, open_services
from samples import engagement
from uploads import leased, published, upload

USERS = ("ann", "bob")
COUNT = 4
"""Engagements of each user."""


class ListeningEngine(FakeEngine):
    """Keeps the text of every prompt, also of chats."""

    def __init__(self, *, model_path: Path) -> None:
        super().__init__(model_path=model_path)
        self.backend = Backend()
        self.prompts: list[str] = []

    async def chat_backend(self) -> Any:
        return self.backend

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        self.prompts.append(self.tokenizer.decode(prompt_ids))
        return await super().generate(prompt_ids, sampling, adapter=adapter, priority=priority)

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
    ) -> list[float]:
        self.prompts.append(self.tokenizer.decode(prompt_ids))
        return await super().next_logprobs(prompt_ids, token_ids, adapter=adapter, priority=priority)

    def asked(self) -> str:
        """All that the engine was asked so far."""
        return "\n".join([*self.prompts, *(str(body) for body in self.backend.bodies)])

    def forget(self) -> None:
        self.prompts.clear()
        self.backend.bodies.clear()


@dataclass
class Team:
    """A tenant with a key of all scopes. `secret` stands in every text that it stores."""

    name: str
    secret: str
    http: httpx.AsyncClient
    services: Services
    batch: str = ""
    lease: str = ""
    publication: str = ""
    trace: str = ""
    key: str = ""
    erasure: str = ""

    async def post(self, path: str, **body: Any) -> Any:
        reply = await self.http.post(path, json=body)
        assert reply.status_code < 300, reply.text
        return reply.json()

    async def store_users(self, *users: str) -> None:
        """Store engagements of users."""
        for user in users:
            items = [self._engagement(number) for number in range(COUNT)]
            await self.post(f"/v1/users/{user}/engagements", engagements=items)

    async def fill(self, folder: Path) -> None:
        """Make something of every kind."""
        await self.store_users(*USERS)
        await self.http.put("/v1/cohorts/cooks", json={"description": self.secret})
        await self.post("/v1/cohorts/cooks/users", users=["bob"])
        await self.post("/v1/users/ann/profile")
        traces = [{"engagement_id": "m0", "thinking": f"{self.secret} because of the lake"}]
        await self.post("/v1/users/ann/traces", traces=traces)
        batch = await self.post("/v1/batches", users=["ann"], candidates=1, idempotency_key="monday")
        self.batch = batch["id"]
        async with self.http.stream("GET", f"/v1/batches/{self.batch}/events") as events:
            async for _ in events.aiter_lines():
                pass
        with in_tenant(self.name):
            lease = await leased(self.services)
            await upload(self.services, lease, folder)
            job = await self.services.store.publication_jobs.find_of_lease(lease.id)
            assert job is not None
            self.publication = job.id
            await published(self.services, folder, "cohort/cooks", user="bob")
            self.trace = (await self.services.store.traces.find(user="ann"))[0].id
        await self.post("/v1/users/ann/traces", traces=[traces[0] | {"thinking": f"{self.secret} and the lake again"}])
        self.lease = (await self.post("/v1/leases", owner=self.secret, adapter="user/ann"))["id"]
        self.key = (await self.post("/v1/keys", name=self.secret, scopes=["read"]))["id"]
        await self.store_users("zoe")
        self.erasure = (await self.http.delete("/v1/users/zoe/engagements/m0")).json()["id"]

    def _engagement(self, number: int) -> dict[str, Any]:
        plain = engagement(number).model_dump(mode="json")
        return plain | {"id": f"m{number}", "prompt": f"{self.secret}: {plain['prompt']}"}


@asynccontextmanager
async def two_teams(settings: Settings, base_folder: Path) -> AsyncIterator[tuple[Team, Team, ListeningEngine]]:
    """Teams `acme` and `globex`, with nothing stored yet."""
    engine = ListeningEngine(model_path=base_folder)
    services = await open_services(settings, engine=engine)
    app = create_app(settings, services=services)
    teams = []
    for name, secret in (("acme", "zebra"), ("globex", "walrus")):
        created = await services.access.create(CreateApiKey(name="all", scopes=list(SCOPES), tenant=name))
        http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://127.0.0.1",
            headers={"Authorization": f"Bearer {created.key}"},
        )
        teams.append(Team(name, secret, http, services))
    try:
        yield teams[0], teams[1], engine
    finally:
        for team in teams:
            await team.http.aclose()
        await close_services(services)
