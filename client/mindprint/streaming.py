"""Decode streamed replies from bytes to items, piece by piece. The sync and the async client share this code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from mindprint.exceptions import ApiError, BadReply, ConnectionFailed
from mindprint.types import ChatDelta

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
M = TypeVar("M", bound=BaseModel)


class Decoder(Protocol[T_co]):
    """Turn the pieces of a body into items."""

    def feed(self, chunk: bytes) -> Iterator[T_co]:
        """Yield the items that a chunk of the body completes."""
        ...

    def end(self) -> Iterator[T_co]:
        """Yield the remaining items at the end of the body.

        Raises:
            ConnectionFailed: The body ended before its end.
            BadReply: The remaining text cannot be read.
        """
        ...


class _Lines:
    """Split bytes into lines at newlines only: JSON text may hold U+2028, where `str.splitlines` also splits."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, chunk: bytes) -> Iterator[str]:
        self._held += chunk
        if b"\n" not in chunk:
            return
        *whole, rest = self._held.split(b"\n")
        self._held = rest
        for line in whole:
            yield _text(line)

    def end(self) -> Iterator[str]:
        if self._held:
            yield _text(self._held)
            self._held = bytearray()


class Ndjson(Generic[M]):
    """Decode one JSON object per line."""

    def __init__(self, kind: type[M]) -> None:
        self._kind = kind
        self._lines = _Lines()
        self._count = 0

    def feed(self, chunk: bytes) -> Iterator[M]:
        """Yield the items of the lines that a chunk completes."""
        for line in self._lines.feed(chunk):
            yield from self._read(line)

    def end(self) -> Iterator[M]:
        """Yield the item of a last line without a line end."""
        for line in self._lines.end():
            yield from self._read(line)

    def _read(self, line: str) -> Iterator[M]:
        if not line.strip():
            return
        self._count += 1
        try:
            yield self._kind.model_validate_json(line)
        except ValidationError as error:
            raise BadReply(f"line {self._count} of the reply is no {self._kind.__name__}: {first(error)}") from error


class Events(Generic[T]):
    """Decode server-sent events: `read(event, data)` makes items of them; comments and retry hints are ignored.

    Not httpx-sse: it reads a whole response, replaces text that is not UTF-8, and has no public incremental decoder.
    """

    def __init__(self, read: Callable[[str, str], Iterator[T]]) -> None:
        self._read = read
        self._lines = _Lines()
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[T]:
        for line in self._lines.feed(chunk):
            yield from self._take(line)

    def end(self) -> Iterator[T]:
        """Drop an event without its closing blank line, as the standard demands."""
        return iter(())

    def _take(self, line: str) -> Iterator[T]:
        if line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                self._event = value
            elif field == "data":
                self._data.append(value)
            return
        event, data = self._event or "message", "\n".join(self._data)
        dispatch = bool(self._data)
        self._event, self._data = "", []
        if dispatch:
            yield from self._read(event, data)


class Progress(Events[M]):
    """Decode events named `progress`, whose data is one object; ignore other events."""

    def __init__(self, kind: type[M]) -> None:
        super().__init__(self._one)
        self._kind = kind

    def _one(self, event: str, data: str) -> Iterator[M]:
        if event != "progress":
            return
        try:
            yield self._kind.model_validate_json(data)
        except ValidationError as error:
            raise BadReply(f"an event of the reply is no {self._kind.__name__}: {first(error)}") from error


class ChatPieces(Events[ChatDelta]):
    """Decode OpenAI's streamed chat. A stream that ends before `[DONE]` is incomplete."""

    def __init__(self) -> None:
        super().__init__(self._piece)
        self._done = False

    def end(self) -> Iterator[ChatDelta]:
        """Yield nothing more.

        Raises:
            ConnectionFailed: The stream ended without its end mark.
        """
        if not self._done:
            raise ConnectionFailed("the answer broke off: ask again", sent=True)
        return iter(())

    def _piece(self, _event: str, data: str) -> Iterator[ChatDelta]:
        if data == "[DONE]":
            self._done = True
            return
        chunk = _object(data)
        if isinstance(error := chunk.get("error"), dict):
            raise ApiError(
                str(error.get("message", data)),
                status=error["code"] if isinstance(error.get("code"), int) else 500,
                code=str(error.get("code") or error.get("type") or "error"),
            )
        try:
            yield ChatDelta.from_chunk(chunk)
        except (AttributeError, LookupError, TypeError, ValidationError) as error:
            raise BadReply(f"a piece of the answer is no chat.completion.chunk: {data[:200]}") from error


class AnswerText:
    """Decode the text of a streamed chat's answer, without thinking and empty pieces."""

    def __init__(self) -> None:
        self._pieces = ChatPieces()

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Yield the pieces of the answer's text that a chunk completes."""
        return (piece.text for piece in self._pieces.feed(chunk) if piece.text)

    def end(self) -> Iterator[str]:
        """Yield the rest of the answer's text."""
        return (piece.text for piece in self._pieces.end() if piece.text)


def first(error: ValidationError) -> str:
    """Return the first complaint of a validation error on one line: `field: message`."""
    complaint = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in complaint["loc"])
    message = complaint["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _text(line: bytes | bytearray) -> str:
    try:
        return line.decode().removesuffix("\r")
    except UnicodeDecodeError as error:
        raise BadReply("the reply is not UTF-8 text") from error


def _object(data: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise BadReply(f"a piece of the answer is no JSON: {data[:200]}") from error
    if not isinstance(value, dict):
        raise BadReply(f"a piece of the answer is no JSON object: {data[:200]}")
    return value
