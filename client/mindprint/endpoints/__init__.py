"""The server's routes, one module a noun. Each description is a method of the sync and of the async client.

A description returns a `Call[T]`: the sync client's method returns `T`, the async client's method is awaited. A
`Stream[T]` is iterated over, and a `Download[T]` is written to disk. Every method raises MindprintError: ApiError when
the server refuses the call, ConnectionFailed, BadReply or InvalidRequest.
"""

from __future__ import annotations

from typing import Generic

from mindprint._methods import SenderT
from mindprint.endpoints.adapters import AdaptersResource
from mindprint.endpoints.audit import AuditResource
from mindprint.endpoints.batches import BatchesResource
from mindprint.endpoints.chat import ChatResource, ModelsResource
from mindprint.endpoints.cohorts import CohortsResource
from mindprint.endpoints.erasures import ErasuresResource
from mindprint.endpoints.keys import KeysResource
from mindprint.endpoints.leases import LeasesResource
from mindprint.endpoints.system import ServerResource
from mindprint.endpoints.traces import TracesResource
from mindprint.endpoints.users import UsersResource


class Resources(Generic[SenderT]):
    """The nouns of the server as attributes of a client."""

    def __init__(self, client: SenderT) -> None:
        self.server = ServerResource(client)
        self.keys = KeysResource(client)
        self.audit = AuditResource(client)
        self.users = UsersResource(client)
        self.erasures = ErasuresResource(client)
        self.traces = TracesResource(client)
        self.batches = BatchesResource(client)
        self.leases = LeasesResource(client)
        self.adapters = AdaptersResource(client)
        self.cohorts = CohortsResource(client)
        self.models = ModelsResource(client)
        self.chat = ChatResource(client)
