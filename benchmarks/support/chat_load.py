"""Chat requests at a steady rate, and what comes back of each."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx

from mindprint.datasets import UserDataset
from mindprint.types.keys import AdapterKey
from support.harness import CannotMeasure

PATIENCE = 4
"""Times its length that a phase may take."""


@dataclass(frozen=True)
class ChatReply:
    key: str
    sent_at: float
    """Monotonic seconds."""
    version: str = ""
    """As the reply names it."""
    text: str = ""
    first_token_s: float = 0.0
    """Since it was due."""
    failure: str | None = None


class ChatLoad:
    """Chat requests at a steady rate, for the users in turn."""

    def __init__(self, http: httpx.AsyncClient, people: Sequence[UserDataset], rate: float, tokens: int) -> None:
        self._http = http
        self._rate = rate
        self._tokens = tokens
        questions = (person.held_out[n % len(person.held_out)].query for n in itertools.count() for person in people)
        self._asked = zip(itertools.cycle(AdapterKey.user(person.user_id) for person in people), questions, strict=True)

    async def run(self, seconds: float, beside: asyncio.Task[None], tell: Callable[[str], None]) -> list[ChatReply]:
        """Asks for so long, and until what runs `beside` is done; then waits for the last answers.

        Raises CannotMeasure where that takes many times longer: then more is asked here than can be answered.
        """
        began, under_way = time.monotonic(), list[asyncio.Task[ChatReply]]()
        for number in itertools.count():
            due = began + number / self._rate
            if due >= began + seconds and beside.done():
                break
            if due >= began + PATIENCE * seconds:
                raise CannotMeasure(f"no version gets through beside {self._rate} requests a second: lower --rate")
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            under_way.append(asyncio.create_task(self.ask(*next(self._asked), due)))
            tell(f"{sum(one.done() for one in under_way)} of {len(under_way)} answered")
        return await asyncio.gather(*under_way)

    async def ask(self, key: str, question: str, due: float) -> ChatReply:
        sent = time.monotonic()
        body = {"model": key, "messages": [{"role": "user", "content": question}], "max_tokens": self._tokens}
        try:
            return await chat(self._http, body, due)
        except (httpx.HTTPError, ValueError, LookupError) as error:
            return ChatReply(key, sent, failure=f"{type(error).__name__}: {error}"[:200])


async def chat(http: httpx.AsyncClient, body: Mapping[str, object], due: float) -> ChatReply:
    """One streamed answer, in direct mode. Raises httpx.HTTPError, ValueError and LookupError if it fails."""
    sent, first, text, whole, version = time.monotonic(), 0.0, "", False, ""
    async with http.stream("POST", "/v1/chat/completions", json={**body, "mode": "direct", "stream": True}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            data = line.removeprefix("data: ")
            whole = whole or data == "[DONE]"
            if not data or data.startswith(":") or whole:
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                raise ValueError(chunk["error"])
            version = version or chunk.get("mindprint", {}).get("model", "")
            for choice in chunk["choices"]:
                piece = choice["delta"].get("content") or ""
                first = first or (time.monotonic() if piece else 0.0)
                text += piece
    if not whole or not first:
        raise ValueError("the answer broke off" if text else "the answer is empty")
    return ChatReply(str(body["model"]), sent, version, text, first - due)
