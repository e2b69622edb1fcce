"""Descriptors that turn the description of a route into a method of the sync and of the async client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import update_wrapper
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from mindprint.exceptions import MindprintError
from mindprint.transport import Call, Download, Stream

P = ParamSpec("P")
T = TypeVar("T")


class Sender(Protocol):
    """What a resource needs of the sync client."""

    def send(self, call: Call[T]) -> T: ...

    def stream(self, stream: Stream[T]) -> Generator[T]: ...

    def fetch(self, download: Download[T]) -> T: ...

    def follow(self, steps: Steps[T]) -> T: ...


class AsyncSender(Protocol):
    """What a resource needs of the async client."""

    def send(self, call: Call[T]) -> Coroutine[Any, Any, T]: ...

    def stream(self, stream: Stream[T]) -> AsyncGenerator[T]: ...

    def fetch(self, download: Download[T]) -> Coroutine[Any, Any, T]: ...

    def follow(self, steps: Steps[T]) -> Coroutine[Any, Any, T]: ...


SenderT = TypeVar("SenderT", bound=Sender | AsyncSender)


class Resource(Generic[SenderT]):
    """The routes of one noun, such as `client.users`. Its methods are called through the client that made it."""

    def __init__(self, client: SenderT) -> None:
        self._client = client


class Method(Generic[P, T]):
    """Decorate a function that describes a call: the sync client returns the reply, the async one is awaited.

    The decorated function has a `self` parameter, so that it reads like a method. It is called with None for it.
    """

    def __init__(self, function: Callable[Concatenate[Any, P], Call[T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def describe(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Return the call without sending it."""
        return self._function(None, *args, **kwargs)

    @overload
    def __get__(self, resource: Resource[Sender], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, resource: Resource[AsyncSender], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, resource: None, owner: type) -> Method[P, T]: ...
    def __get__(self, resource: Any, owner: type) -> Any:
        return self if resource is None else _bind(self._function, resource, resource._client.send)


class StreamMethod(Generic[P, T]):
    """Decorate a function that describes a stream: iterate over the result with `for`, or with `async for`."""

    def __init__(self, function: Callable[Concatenate[Any, P], Stream[T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def describe(self, *args: P.args, **kwargs: P.kwargs) -> Stream[T]:
        """Return the stream without opening it."""
        return self._function(None, *args, **kwargs)

    @overload
    def __get__(self, resource: Resource[Sender], owner: type) -> Callable[P, Generator[T]]: ...
    @overload
    def __get__(self, resource: Resource[AsyncSender], owner: type) -> Callable[P, AsyncGenerator[T]]: ...
    @overload
    def __get__(self, resource: None, owner: type) -> StreamMethod[P, T]: ...
    def __get__(self, resource: Any, owner: type) -> Any:
        return self if resource is None else _bind(self._function, resource, resource._client.stream)


class DownloadMethod(Generic[P, T]):
    """Decorate a function that describes a download: the reply is written to disk while it arrives."""

    def __init__(self, function: Callable[Concatenate[Any, P], Download[T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def describe(self, *args: P.args, **kwargs: P.kwargs) -> Download[T]:
        """Return the download without starting it."""
        return self._function(None, *args, **kwargs)

    @overload
    def __get__(self, resource: Resource[Sender], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, resource: Resource[AsyncSender], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, resource: None, owner: type) -> DownloadMethod[P, T]: ...
    def __get__(self, resource: Any, owner: type) -> Any:
        return self if resource is None else _bind(self._function, resource, resource._client.fetch)


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait between two calls of a workflow, in seconds."""

    seconds: float


Steps = Generator[Call[Any] | Pause, Any, T]
"""Yields calls and gets their replies, or has their errors raised in it. In between it yields pauses, and gets the time
after each, in seconds of a monotonic clock. It returns the result."""


class Workflow(Generic[P, T]):
    """Decorate a generator function that describes several calls: the sync client returns its result.

    The async client's method is awaited. An error of a call ends the workflow, unless it
    handles the error.
    """

    def __init__(self, function: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def describe(self, *args: P.args, **kwargs: P.kwargs) -> Steps[T]:
        """Return the steps without making a call."""
        return self._function(None, *args, **kwargs)

    @overload
    def __get__(self, resource: Resource[Sender], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, resource: Resource[AsyncSender], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, resource: None, owner: type) -> Workflow[P, T]: ...
    def __get__(self, resource: Any, owner: type) -> Any:
        return self if resource is None else _bind(self._function, resource, resource._client.follow)


def take_step(steps: Steps[T], reply: Any) -> tuple[Call[Any] | Pause | None, T | None]:
    """Hand a reply to a workflow. Return its next step and None, or None and its result.

    Args:
        steps: The workflow.
        reply: The reply to its last call, or the error of that; after a pause the time; None at the beginning.
    """
    try:
        return steps.throw(reply) if isinstance(reply, MindprintError) else steps.send(reply), None
    except StopIteration as end:
        return None, end.value


def _bind(function: Callable[..., Any], resource: Any, send: Callable[[Any], Any]) -> Any:
    def call(_resource: Any, *args: Any, **kwargs: Any) -> Any:
        return send(function(None, *args, **kwargs))

    return MethodType(update_wrapper(call, function), resource)
