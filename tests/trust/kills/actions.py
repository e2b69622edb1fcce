"""Callers that write to the service while it is killed, and note what it acknowledged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from kills.answers import is_undone, is_unknown
from kills.facts import Facts, Register
from mindprint.types import Batch, BatchRequest, Engagement, Trace

PAUSE_S = 0.02
"""Pause after an answer that asks the caller to come again, or none at all."""
MAX_ENGAGEMENTS = 24
"""A user with so many is not written to any more; a new one takes the place. Else batches grow without end."""
START = datetime(2026, 1, 1, tzinfo=UTC)


def make_engagement(user: str, number: int) -> Engagement:
    """Return the `number`-th engagement of a user. The same arguments give the same content."""
    return Engagement(
        id=f"e{number:05d}",
        prompt=f"Would {user} take walk number {number}?",
        response=("yes", "no")[number % 2],
        occurred_at=START + timedelta(hours=number),
        choices=["yes", "no"],
    )


class Caller:
    """Sends requests to the replicas and sorts the answers."""

    def __init__(self, urls: Sequence[str], key: str, facts: Facts, dice: random.Random) -> None:
        # The address names loopback and no key of a person is in the environment: proxies and netrc stay unused.
        self._clients = [
            httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=300, trust_env=False)
            for url in urls
        ]
        self._facts = facts
        self._dice = dice

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.aclose() for client in self._clients))

    async def send(self, method: str, path: str, json: Any = None, *, may_be: Sequence[int] = ()) -> Any:
        """Send a request to one of the replicas.

        Args:
            method: HTTP method.
            path: Path with query.
            json: Body.
            may_be: Statuses of refusals that are right here.

        Returns:
            The body of a reply with 2xx; None if there was none.
        """
        try:
            response = await self._dice.choice(self._clients).request(method, path, json=json)
        except httpx.TransportError as error:
            is_silent = isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)
            self._note("lost", f"{method} {path}: no answer within the time-out" if is_silent else None)
            await asyncio.sleep(PAUSE_S)
            return None
        status = response.status_code
        if is_unknown(response):
            self._note("unknown", None)
        elif response.is_success or is_undone(response) or status in may_be:
            self._note(str(status), None)
        else:
            self._note(str(status), f"{method} {path}: {status} {response.text[:300]}")
        if not response.is_success:
            await asyncio.sleep(PAUSE_S)
            return None
        return response.json()

    def _note(self, answer: str, unexpected: str | None) -> None:
        self._facts.answers[answer] += 1
        if unexpected is not None:
            self._facts.unexpected.append(unexpected)


class Worker:
    """One caller with users, cohorts and keys of its own, so that it knows what must be stored."""

    def __init__(self, name: str, caller: Caller, facts: Facts, dice: random.Random) -> None:
        self._name = name
        self._caller = caller
        self._facts = facts
        self._dice = dice
        self._engagements: dict[str, list[str]] = {}
        self._users = [self._new_user() for _ in range(4)]
        self._unanswered: BatchRequest | None = None
        self._batches: list[str] = []
        self._keys: list[str] = []
        self._number = 0

    async def work(self, stopped: asyncio.Event) -> None:
        """Act at random until `stopped` is set."""
        actions: dict[Callable[[], Awaitable[None]], int] = {
            self._ingest: 6, self._import: 3, self._write_trace: 2, self._submit: 4, self._cancel: 1, self._pin: 2,
            self._edit_cohort: 1, self._create_key: 1, self._revoke_key: 1,
        }  # fmt: skip
        while not stopped.is_set():
            [action] = self._dice.choices(list(actions), weights=list(actions.values()))
            await action()
            await asyncio.sleep(PAUSE_S * self._dice.random())

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _new_user(self) -> str:
        user = f"{self._name}-{len(self._engagements)}"
        self._engagements[user] = []
        return user

    async def _ingest(self) -> None:
        place = self._dice.randrange(len(self._users))
        if len(self._engagements[self._users[place]]) >= MAX_ENGAGEMENTS:
            self._users[place] = self._new_user()
        user = self._users[place]
        news = [make_engagement(user, self._next()) for _ in range(self._dice.randint(2, 6))]
        self._facts.sent_together.append((user, tuple(one.id for one in news)))
        body = {"engagements": [one.model_dump(mode="json") for one in news]}
        if await self._caller.send("POST", f"/v1/users/{user}/engagements", body):
            self._facts.engagements.update({(user, one.id): one for one in news})
            self._engagements[user] += [one.id for one in news]

    def _known(self) -> tuple[str, str] | None:
        """One of the worker's acknowledged engagements."""
        users = [user for user in self._users if self._engagements[user]]
        if not users:
            return None
        user = self._dice.choice(users)
        return user, self._dice.choice(self._engagements[user])

    async def _import(self) -> None:
        if about := self._known():
            thinking = f"thought {self._next()} of {self._name}"
            body = {"traces": [{"engagement_id": about[1], "thinking": thinking}]}
            if await self._caller.send("POST", f"/v1/users/{about[0]}/traces", body):
                self._facts.imported[thinking] = about

    async def _write_trace(self) -> None:
        if about := self._known():
            body = {"user_id": about[0], "engagement_id": about[1], "seed": self._dice.randrange(2**31)}
            if reply := await self._caller.send("POST", "/v1/traces", body):
                trace = Trace.model_validate(reply)
                self._facts.traces[trace.id] = trace

    async def _submit(self) -> None:
        """Submit a batch. One that was not answered is sent again with its idempotency key."""
        users = [user for user in self._users if self._engagements[user]]
        if not users:
            return
        request = self._unanswered or BatchRequest(
            users=self._dice.sample(users, min(len(users), self._dice.randint(1, 3))),
            seed=self._dice.randrange(2**31),
            candidates=self._dice.randint(1, 2),
            idempotency_key=f"{self._name}-{self._next()}",
        )
        self._unanswered = request
        if reply := await self._caller.send("POST", "/v1/batches", request.model_dump(mode="json")):
            batch = Batch.model_validate(reply)
            self._facts.batches[batch.id] = request
            self._batches.append(batch.id)
            self._unanswered = None

    async def _cancel(self) -> None:
        # Most newest batches still run.
        if self._batches:
            batch = self._batches[-1]
            if (reply := await self._caller.send("POST", f"/v1/batches/{batch}/cancel")) and (
                reply["state"] == "cancelled"
            ):
                self._facts.cancelled.add(batch)

    async def _pin(self) -> None:
        """Pin or unpin a version of one of the worker's users. 409: its files were removed."""
        if (reply := await self._caller.send("GET", "/v1/adapters")) is None:
            return
        mine = [
            one
            for one in reply["adapters"]
            if one["key"].removeprefix("user/") in self._engagements and one["versions"]
        ]
        if mine:
            adapter = self._dice.choice(mine)
            key, version = adapter["key"], self._dice.choice(adapter["versions"])["version"]
            pinned = self._dice.random() < 0.5
            register = self._facts.pins.setdefault((key, version), Register())
            register.ask(str(pinned).lower())
            path = f"/v1/adapters/{key}/versions/{version}/pin"
            if await self._caller.send("POST", path, {"pinned": pinned}, may_be=[409]):
                register.acknowledge(str(pinned).lower())

    async def _edit_cohort(self) -> None:
        name = f"{self._name}-{self._dice.randrange(3)}"
        register = self._facts.cohorts.setdefault(name, Register())
        description = f"description {self._next()}"
        register.ask(description)
        if await self._caller.send("PUT", f"/v1/cohorts/{name}", {"description": description}):
            register.acknowledge(description)

    async def _create_key(self) -> None:
        if reply := await self._caller.send("POST", "/v1/keys", {"name": self._name, "scopes": ["read"]}):
            register = self._facts.keys[reply["id"]] = Register()
            register.acknowledge("valid")
            self._keys.append(reply["id"])

    async def _revoke_key(self) -> None:
        if self._keys:
            key = self._dice.choice(self._keys)
            register = self._facts.keys[key]
            register.ask("revoked")
            if await self._caller.send("DELETE", f"/v1/keys/{key}"):
                register.acknowledge("revoked")
