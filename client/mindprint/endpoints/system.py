"""Routes about the server itself: `client.server`."""

from __future__ import annotations

from mindprint._methods import Method, Resource, SenderT
from mindprint.transport import Call, get_call, reply_of
from mindprint.types import Funnel, ServerInfo, SystemInfo

_funnel = reply_of(Funnel)
_info = reply_of(ServerInfo)
_system = reply_of(SystemInfo)


class ServerResource(Resource[SenderT]):
    """The server: what it runs, its metrics, its funnel of traces."""

    @Method
    def info(self) -> Call[ServerInfo]:
        """Return what the server runs: engine, device, model, limits of adapters."""
        return get_call("/v1/info", _info)

    @Method
    def system(self) -> Call[SystemInfo]:
        """Return where the server listens and what it stores in. It needs a key with the scope `admin`."""
        return get_call("/v1/system", _system)

    @Method
    def metrics(self) -> Call[str]:
        """Return the metrics as Prometheus text."""
        return get_call("/metrics", lambda response: response.text)

    @Method
    def funnel(self, user: str | None = None) -> Call[Funnel]:
        """Return the funnel: counts from engagements attempted to traces in a live version.

        Args:
            user: Id of a user; None counts the traces of all users.
        """
        return get_call("/v1/funnel", _funnel, user=user)
