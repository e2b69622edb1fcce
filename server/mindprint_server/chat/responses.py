"""OpenAI's Responses API as another form of the chat: each request is converted, and nothing is stored."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any

from mindprint_server.chat.response_output import ResponseWriter
from mindprint_server.chat.response_request import read_chat_request
from mindprint_server.chat.runner import ChatReply
from mindprint_server.chat.service import ChatService
from mindprint_server.exceptions import ServerError

FIELDS = {"messages": "input", "max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens",
    "response_format": "text"}  # fmt: skip
"""Names in a request of what the chat calls otherwise."""


class ResponseService:
    """Answers requests of the Responses API.

    Args:
        chat: Answers the chats that they are converted to.
    """

    def __init__(self, chat: ChatService) -> None:
        self._chat = chat

    async def create(
        self, body: dict[str, Any], *, wait_for_disconnect: Callable[[], Coroutine[Any, Any, None]]
    ) -> ChatReply:
        """Answer a request, whole or as a stream of events.

        Args:
            body: The request in OpenAI's form, with our `mode`.
            wait_for_disconnect: Returns when the caller disconnected. Called once, unless the request is refused.

        Raises:
            ServerError: As `ChatService.complete` does, with the names of this API; and for `previous_response_id` and
                other fields of what is stored.
        """
        try:
            reply = await self._chat.complete(read_chat_request(body), wait_for_disconnect=wait_for_disconnect)
        except ServerError as error:
            error.param = _own_name(error.param)
            raise
        writer = ResponseWriter(body)
        if isinstance(reply.content, dict):
            return ChatReply(reply.model, writer.write_whole(reply.content))
        return ChatReply(reply.model, await _begin(write_events(reply.content, writer)))


async def _begin(lines: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """Take the empty line with which the events begin. Python closes a generator that began, and no other."""
    await anext(lines)
    return lines


async def write_events(lines: AsyncGenerator[str], writer: ResponseWriter) -> AsyncGenerator[str]:
    """Write the event stream of a chat as events of the Responses API, after an empty line.

    Args:
        lines: Lines of the chat's event stream.
        writer: Builds the response.
    """
    async with aclosing(lines):
        yield ""
        for event in writer.begin():
            yield event
        async for line in lines:
            if line.startswith(":"):
                yield line  # a comment, which keeps the connection open
                continue
            chunk = _read(line)
            if "error" in chunk:
                error = chunk["error"]
                for event in writer.fail({**error, "param": _own_name(error.get("param"))}):
                    yield event
                return
            for event in writer.add(chunk):
                yield event
        for event in writer.end():
            yield event


def _own_name(param: str | None) -> str | None:
    """Return the name in a request of what the chat calls otherwise: `messages[1].content` is a part of `input`."""
    return None if param is None else FIELDS.get(re.split(r"[.\[]", param)[0], param)


def _read(line: str) -> Mapping[str, Any]:
    """Return the chunk in a line; an empty one for `[DONE]` and comments."""
    try:
        chunk = json.loads(line.removeprefix("data: "))
    except ValueError:
        return {}
    return chunk if isinstance(chunk, dict) else {}
