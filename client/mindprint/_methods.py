"""Turns the descriptions in `calls`, `versions` and `answers` into methods, of the sync and the async client alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from mindprint import answers, calls, versions
from mindprint.transport import Call, Download, Stream

if TYPE_CHECKING:
    from mindprint.async_client import AsyncMindprintClient
    from mindprint.sync_client import MindprintClient

P = ParamSpec("P")
T = TypeVar("T")


class Reply(Generic[P, T]):
    """A method that returns a reply: `client.user("anna")`, or `await client.user("anna")`."""

    def __init__(self, describe: Callable[P, Call[T]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, client: MindprintClient, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncMindprintClient, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: None, owner: type) -> Reply[P, T]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.send(self._describe(*args, **kwargs))

        return update_wrapper(call, self._describe)


class Items(Generic[P, T]):
    """A method that yields items: `for item in client.watch_batch(id)`, or `async for`."""

    def __init__(self, describe: Callable[P, Stream[T]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, client: MindprintClient, owner: type) -> Callable[P, Generator[T]]: ...
    @overload
    def __get__(self, client: AsyncMindprintClient, owner: type) -> Callable[P, AsyncGenerator[T]]: ...
    @overload
    def __get__(self, client: None, owner: type) -> Items[P, T]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.stream(self._describe(*args, **kwargs))

        return update_wrapper(call, self._describe)


class Saved(Generic[P, T]):
    """A method whose reply is kept on disk: `client.download("user/anna", 2, folder)`, or `await`."""

    def __init__(self, describe: Callable[P, Download[T]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, client: MindprintClient, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncMindprintClient, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: None, owner: type) -> Saved[P, T]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.fetch(self._describe(*args, **kwargs))

        return update_wrapper(call, self._describe)


class Api:
    """The server's routes as methods; `calls`, `versions` and `answers` tell what each takes, returns and raises."""

    info = Reply(calls.info)
    metrics = Reply(calls.metrics)
    funnel = Reply(calls.funnel)

    users = Reply(calls.users)
    user = Reply(calls.user)
    add_engagements = Reply(calls.add_engagements)
    engagements = Reply(calls.engagements)
    profile = Reply(calls.profile)
    write_profile = Reply(calls.write_profile)
    routes = Reply(calls.routes)

    write_trace = Reply(calls.write_trace)
    trace = Reply(calls.trace)
    traces = Reply(calls.traces)
    add_traces = Reply(calls.add_traces)
    export_traces = Items(calls.export_traces)

    start_batch = Reply(calls.start_batch)
    batches = Reply(calls.batches)
    batch = Reply(calls.batch)
    cancel_batch = Reply(calls.cancel_batch)
    watch_batch = Items(calls.watch_batch)
    batch_results = Items(calls.batch_results)

    claim = Reply(calls.claim)
    lease = Reply(calls.lease)
    heartbeat = Reply(calls.heartbeat)
    release = Reply(calls.release)
    complete = Reply(calls.complete)

    adapters = Reply(versions.adapters)
    adapter = Reply(versions.adapter)
    promote = Reply(versions.promote)
    rollback = Reply(versions.rollback)
    release_candidate = Reply(versions.release_candidate)
    version = Reply(versions.version)
    lineage = Reply(versions.lineage)
    pin = Reply(versions.pin)
    download = Saved(versions.download)

    cohorts = Reply(versions.cohorts)
    cohort = Reply(versions.cohort)
    put_cohort = Reply(versions.put_cohort)
    delete_cohort = Reply(versions.delete_cohort)
    add_members = Reply(versions.add_members)
    remove_member = Reply(versions.remove_member)

    models = Reply(answers.models)
    chat = Reply(answers.chat)
    chat_stream = Items(answers.chat_stream)
    chat_deltas = Items(answers.chat_deltas)
