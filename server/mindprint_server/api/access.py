"""Access to the routes: each names the scopes of which a caller's key must have one."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response, Security, params
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from mindprint.types import ApiKey, Scope
from mindprint_server.access import AccessControl, may
from mindprint_server.api.errors import ApiError

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")
"""The form of a `Host` header."""
bearer = HTTPBearer(
    scheme_name="ApiKey",
    description="`Authorization: Bearer mp_...`. A route lists the scopes of which the key must have one; "
    "`admin` has all. A server without keys listens on loopback only and asks for none.",
    auto_error=False,
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


async def authorize(request: Request, scopes: SecurityScopes, credentials: Credentials) -> ApiKey | None:
    """Return the caller's key; None where the server has no keys.

    Raises:
        Unavailable: The server is starting, or its engine died.
        ApiError: 401, no key or a wrong one; 403, a key without the scope; 421 or 403, a request that a page in a
            browser may have sent to a server without keys.
    """
    access: AccessControl = request.app.state.server.ready().access
    if await access.is_open():
        check_local(request, request.app.state.settings.allowed_hosts)
        return None
    key = None if credentials is None else await access.identify(credentials.credentials)
    if key is None:
        message = "no key came with the request" if credentials is None else "the key is not known, or not any more"
        raise ApiError(
            401,
            "invalid_api_key",
            f"{message}: send a valid one as Authorization: Bearer (MINDPRINT_API_KEY for our client and command)",
            headers={"WWW-Authenticate": "Bearer"},
        )
    wanted: Any = scopes.scopes
    if not may(key, *wanted):
        message = f"key {key.id} lacks the scope {' or '.join(wanted)}: use a key that has it"
        raise ApiError(403, "missing_scope", message)
    return key


class AccessRoute(APIRoute):
    """A route that checks the caller's key before it reads a body. FastAPI by itself reads the body first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, behind the route's dependencies of access."""
        handle = super().get_route_handler()
        checks = [needed for needed in self.dependencies if isinstance(needed, params.Security)]

        async def checked(request: Request) -> Response:
            for check in checks:
                assert check.dependency is not None
                await check.dependency(request, SecurityScopes(list(check.scopes or ())), await bearer(request))
            return await handle(request)

        return checked


def requires(*any_of: Scope) -> Any:
    """Return the dependency of a route that a key with one of these scopes may call."""
    return Security(authorize, scopes=list(any_of))


async def authorize_once_open(request: Request, scopes: SecurityScopes, credentials: Credentials) -> None:
    """Do the same for a route that also answers while the server starts, and then shows nothing of the store."""
    if request.app.state.server.services is not None:
        await authorize(request, scopes, credentials)


def check_local(request: Request, allowed_hosts: tuple[str, ...]) -> None:
    """Refuse what a page in a browser may send to a server on loopback.

    Browsers always send `Host`. A page of another site has its own `Origin`. A page whose name was bound anew to
    127.0.0.1 has its own `Host`.

    Raises:
        ApiError: 421 for a foreign `Host`, 403 for a foreign `Origin`.
    """
    hosts = request.headers.getlist("host")
    host = hosts[0] if hosts else None
    name = host_name(f"//{host}") if len(hosts) == 1 and HOST.fullmatch(hosts[0]) else ""
    if host is not None and not (is_loopback(name) or name in {allowed.lower() for allowed in allowed_hosts}):
        message = "a server without keys answers to names of loopback only: create a key, or set allowed_hosts"
        raise ApiError(421, "foreign_host", message)
    origin = request.headers.get("origin")
    if origin is not None and (host is None or origin.partition("://")[2].lower() != host.lower()):
        message = "a server without keys takes nothing from pages of other sites: create a key"
        raise ApiError(403, "foreign_origin", message)


def host_name(url: str) -> str:
    """Return the host of a URL in lower case, without port and brackets; empty if it has none."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def is_loopback(name: str) -> bool:
    """Return whether a host's name is one of loopback: `localhost`, 127.0.0.0/8 or ::1."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
