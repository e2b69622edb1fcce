"""Describe one HTTP call: what is sent, how the reply is read, and which error a failure becomes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from mindprint.exceptions import UNKNOWN_CODE, ApiError, BadReply, ConnectionFailed, InvalidRequest
from mindprint.retry import parse_retry_after, parse_should_retry
from mindprint.streaming import Decoder, first
from mindprint.types import ErrorReply

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

DEFAULT_URL = "http://127.0.0.1:8300"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Bounds on waiting, in seconds. Calls that generate text or check an adapter take longer than lookups."""

    connect_s: float = 5.0
    read_s: float = 30.0
    slow_s: float = 330.0
    """Bound on a call that generates text or checks an adapter; above the server's own `request_timeout_s`."""
    stream_s: float = 60.0
    """Longest wait for data on a stream. The server sends a comment more often than that."""
    keepalive_s: float = 2.0
    """Time for which an idle connection is kept for further calls. Servers keep it open longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One HTTP call. `read` turns the body of a 2xx response into the reply."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, str | int | None] = field(default_factory=dict)
    body: BaseModel | Mapping[str, Any] | None = None
    form: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[str, bytes | Path]] = field(default_factory=dict)
    """Form field -> (file name, content or path). A file is opened again for each attempt."""
    repeatable: bool
    """Whether making the call twice has the same effect as making it once."""
    slow: bool = False


@dataclass(frozen=True, slots=True)
class Stream(Generic[T]):
    """A call whose reply is read item by item, in constant memory."""

    call: Call[None]
    decoder: Callable[[], Decoder[T]]
    final: Callable[[T], bool] | None = None
    """Returns whether an item is the last one. If it is set, a broken stream is opened again until the last item."""


class Sink(Protocol[T_co]):
    """Receives a file piece by piece."""

    def write(self, chunk: bytes) -> None: ...

    def finish(self) -> T_co:
        """Return the result of the complete file."""
        ...


@dataclass(frozen=True, slots=True)
class Download(Generic[T]):
    """A call whose reply is a file that may be larger than memory. Each attempt opens a new sink."""

    call: Call[None]
    opened: Callable[[], AbstractContextManager[Sink[T]]]


def reply_of(kind: Any) -> Callable[[httpx.Response], Any]:
    """Return a function that reads JSON replies of the type `kind`; 204 gives None."""
    adapter = TypeAdapter(kind)

    def read(response: httpx.Response) -> Any:
        try:
            return adapter.validate_json(b"null" if response.status_code == 204 else response.content)
        except ValidationError as error:
            where = f"{response.request.method} {response.request.url}"
            raise BadReply(
                f"{where} answered something unexpected ({first(error)}): is this a Mindprint server of this version?"
            ) from error

    return read


def get_call(path: str, read: Callable[[httpx.Response], T], **params: str | int | None) -> Call[T]:
    """Describe a GET request, which may be repeated.

    Args:
        path: The route, quoted.
        read: Turns the response into the return value.
        **params: Query parameters; None is left out.
    """
    return Call(method="GET", path=path, read=read, params=params, repeatable=True)


def post_call(
    path: str, read: Callable[[httpx.Response], T], body: Any = None, *, repeatable: bool = False, slow: bool = False
) -> Call[T]:
    """Describe a POST request.

    Args:
        path: The route, quoted.
        read: Turns the response into the return value.
        body: A pydantic model or a JSON value; None sends none.
        repeatable: Whether sending the request twice has the same effect as sending it once.
        slow: Whether the longer time-out applies.
    """
    return Call(method="POST", path=path, read=read, body=body, repeatable=repeatable, slow=slow)


def put_call(path: str, read: Callable[[httpx.Response], T], body: Any, *, slow: bool = False) -> Call[T]:
    """Describe a PUT request, which may be repeated.

    Args:
        path: The route, quoted.
        read: Turns the response into the return value.
        body: A pydantic model or a JSON value.
        slow: Whether the longer time-out applies.
    """
    return Call(method="PUT", path=path, read=read, body=body, repeatable=True, slow=slow)


def delete_call(path: str, read: Callable[[httpx.Response], T], **params: str | int | None) -> Call[T]:
    """Describe a DELETE request, which may be repeated.

    Args:
        path: The route, quoted.
        read: Turns the response into the return value.
        **params: Query parameters; None is left out.
    """
    return Call(method="DELETE", path=path, read=read, params=params, repeatable=True)


def read_nothing(_: httpx.Response) -> None:
    """Return None for a response without a body."""
    return None


def segment(value: str) -> str:
    """Quote `value` as one segment of a path.

    Raises:
        InvalidRequest: `value` is empty, `.` or `..`.
    """
    if value in ("", ".", ".."):
        raise InvalidRequest(f"{value!r} is no id: give the id of something that exists")
    return quote(value, safe="")


def find_url(url: str | None) -> str:
    """Return the server's address: `url`, or MINDPRINT_URL, or http://127.0.0.1:8300.

    Raises:
        InvalidRequest: It is no HTTP address.
    """
    address = (url or os.environ.get("MINDPRINT_URL") or DEFAULT_URL).rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{address!r} is no server address: write it like {DEFAULT_URL}")
    return address


def resolve_key(api_key: str | None) -> str | None:
    """Return the API key without white space around it: the given one, else MINDPRINT_API_KEY; None without any.

    Raises:
        InvalidRequest: A header cannot hold it. The message does not show it.
    """
    key = (api_key or os.environ.get("MINDPRINT_API_KEY") or "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InvalidRequest("the API key holds characters that no key has: copy it again, as it was printed")
    return key or None


def client_options(url: str, api_key: str | None, timeouts: Timeouts) -> dict[str, Any]:
    """Return the arguments of httpx.Client and httpx.AsyncClient.

    Raises:
        InvalidRequest: The API key cannot be sent.
    """
    from mindprint import __version__

    key = resolve_key(api_key)
    return {
        "base_url": url,
        "headers": {"User-Agent": f"mindprint/{__version__}", **({"Authorization": f"Bearer {key}"} if key else {})},
        "timeout": httpx.Timeout(timeouts.read_s, connect=timeouts.connect_s, pool=timeouts.slow_s),
        "limits": httpx.Limits(max_connections=100, keepalive_expiry=timeouts.keepalive_s),
        # Use no proxy for loopback: a proxy cannot reach this machine's own.
        "trust_env": urlsplit(url).hostname not in _LOOPBACK,
    }


@contextlib.contextmanager
def request_parts(call: Call[Any], timeouts: Timeouts, *, streamed: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `httpx.Client.build_request`; files stay open inside the context."""
    with contextlib.ExitStack() as stack:
        parts: dict[str, Any] = {"method": call.method, "url": call.path}
        parts["params"] = {name: value for name, value in call.params.items() if value is not None}
        if isinstance(call.body, BaseModel):
            parts["content"] = call.body.model_dump_json(exclude_none=True)
            parts["headers"] = {"Content-Type": "application/json"}
        elif call.body is not None:
            parts["json"] = call.body
        if call.files:
            parts["data"] = dict(call.form)
            parts["files"] = {
                name: (file_name, content if isinstance(content, bytes) else stack.enter_context(content.open("rb")))
                for name, (file_name, content) in call.files.items()
            }
        read_s = timeouts.slow_s if call.slow else timeouts.stream_s if streamed else timeouts.read_s
        parts["timeout"] = httpx.Timeout(read_s, connect=timeouts.connect_s, pool=timeouts.slow_s)
        yield parts


_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)


@contextlib.contextmanager
def our_errors(url: str) -> Iterator[None]:
    """Turn errors of httpx into errors of this package.

    Raises:
        ConnectionFailed: No complete reply arrived.
        BadReply: The reply is not readable.
    """
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        reason = str(error) or type(error).__name__
        raise ConnectionFailed(
            f"no server answers at {url} ({reason}): start one with `mindprint serve`, or set MINDPRINT_URL", sent=False
        ) from error
    except httpx.TimeoutException as error:
        raise ConnectionFailed(
            f"{url} did not answer in time ({type(error).__name__}): look at the server's log, or allow more time",
            sent=not isinstance(error, _UNSENT),
        ) from error
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise ConnectionFailed(
            f"the connection to {url} broke ({reason}): look at the server's log", sent=not isinstance(error, _UNSENT)
        ) from error
    except (httpx.InvalidURL, httpx.DecodingError, httpx.TooManyRedirects) as error:
        raise BadReply(f"{url} answered something unreadable ({error}): is this a Mindprint server?") from error


ADVICE = {
    **dict.fromkeys((301, 302, 303, 307, 308), "set MINDPRINT_URL to the address that it redirects to"),
    **dict.fromkeys((401, 403, 407), "a proxy before the server asks for a login of its own"),
    404: "compare MINDPRINT_URL with the server's address and the path that a proxy passes on",
    413: "let the proxy take larger bodies (nginx: client_max_body_size)",
    **dict.fromkeys(
        (408, 429, 502, 503, 504, *range(520, 525), 530),
        "try again in a moment, and look at the server's and the proxy's log if it stays so",
    ),
}
"""What to do after an error reply that is not in the server's form, by status."""


def refusal(response: httpx.Response) -> ApiError:
    """Return the error of a response other than 2xx. Its body must have been read."""
    try:
        body = ErrorReply.model_validate_json(response.content).error
        message, code, kind, param = body.message, body.code, body.type, body.param
    except ValidationError:  # a proxy's page, or another server altogether
        message, code, kind, param = _describe_foreign(response), UNKNOWN_CODE, "", None
    return ApiError(
        message,
        status=response.status_code,
        code=code,
        type=kind,
        param=param,
        request_id=response.headers.get("x-request-id"),
        retry_after=parse_retry_after(response.headers.get("retry-after")),
        should_retry=parse_should_retry(response.headers.get("x-should-retry")),
    )


def _describe_foreign(response: httpx.Response) -> str:
    """Describe an error reply of something else than the server, in one line without its body."""
    host = response.request.url.netloc.decode("ascii", "replace")
    phrase = HTTPStatus(response.status_code).phrase if response.status_code in set(HTTPStatus) else ""
    status = f"{response.status_code} {phrase}".strip()
    advice = ADVICE.get(response.status_code, "is this a Mindprint server?")
    return f"{host} answered {status}, but not as a Mindprint server does: {advice}"


def broken_off(url: str, error: Exception) -> ConnectionFailed:
    """Return the error of a stream that ended before its end."""
    if isinstance(error, ConnectionFailed):
        return error
    return ConnectionFailed(f"{url} ended the stream before its end: look at the server's log", sent=True)
