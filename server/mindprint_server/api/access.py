"""Access to the routes: each names the scopes of which a caller's key must have one."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response, Security, params
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.types import Receive, Scope, Send

from mindprint.types import DEFAULT_TENANT, ApiKey
from mindprint.types import Scope as KeyScope
from mindprint_server.access import AccessControl, may
from mindprint_server.api import audit
from mindprint_server.api.errors import OPENAI_ROUTE, TENANT, ApiError
from mindprint_server.settings.access import AccessSettings
from mindprint_server.sharing.quotas import Quotas, enter_key, in_no_key
from mindprint_server.store.audit import LOCAL
from mindprint_server.tenancy import enter_tenant, in_no_tenant

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")
"""The form of a `Host` header."""
bearer = HTTPBearer(
    scheme_name="ApiKey",
    description="`Authorization: Bearer mp_...`. A route lists the scopes of which the key must have one; "
    "`admin` has all. A server without keys listens on loopback only and asks for none.",
    auto_error=False,
)
RUNNING = "mindprint.running"
"""Where the scope of a request keeps what ends with its reply."""
PROBES = ("/livez", "/readyz", "/health", "/metrics")
"""Routes that no quota limits."""
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


async def authorize(request: Request, scopes: SecurityScopes, credentials: Credentials) -> ApiKey | None:
    """Return the caller's key, and work for its tenant from now on; None where the server has no keys.

    Raises:
        Unavailable: The server is starting, or its engine died.
        ApiError: 401, no key or a wrong one; 403, a key without the scope; 421 or 403, a request that a page in a
            browser may have sent to a server without keys.
    """
    access: AccessControl = request.app.state.server.ready().access
    if await access.is_open():
        check_local(request, request.app.state.settings)
        request.scope[TENANT] = DEFAULT_TENANT
        enter_tenant(DEFAULT_TENANT)
        request.state.actor = LOCAL
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
    request.state.actor = key.id
    request.scope[TENANT] = key.tenant
    enter_tenant(key.tenant)
    wanted: Any = scopes.scopes
    if not may(key, *wanted):
        message = f"key {key.id} lacks the scope {' or '.join(wanted)}: use a key that has it"
        raise ApiError(403, "missing_scope", message)
    enter_key(key.id)
    return key


class AccessRoute(APIRoute):
    """A route that checks the caller's key and quotas before it reads a body, and records what its declaration says.

    FastAPI by itself reads the body first. The route works for the key's tenant to the end of the reply, and counts as
    under way until then.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and forget its tenant afterwards."""
        with in_no_tenant(), in_no_key(), ExitStack() as scope[RUNNING]:
            await super().handle(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, behind the route's dependencies of access and inside the audit log."""
        handle = super().get_route_handler()
        checks = [needed for needed in self.dependencies if isinstance(needed, params.Security)]
        is_limited = bool(checks) and self.path not in PROBES

        mark = audit.mark_of(self.openapi_extra)

        async def check_access(request: Request) -> None:
            for check in checks:
                assert check.dependency is not None
                await check.dependency(request, SecurityScopes(list(check.scopes or ())), await bearer(request))
            if is_limited:
                quotas: Quotas = request.app.state.server.ready().quotas
                request.scope[RUNNING].enter_context(quotas.request())

        async def checked(request: Request) -> Response:
            if mark is not None:
                return await audit.recorded(request, mark, check=check_access, handle=handle)
            await check_access(request)
            return await handle(request)

        return checked


class OpenAIRoute(AccessRoute):
    """A route of OpenAI's API: a request with a wrong value is answered 400, not 422."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and note for the handlers of errors whose route it is."""
        scope[OPENAI_ROUTE] = True
        await super().handle(scope, receive, send)


def requires(*any_of: KeyScope) -> Any:
    """Return the dependency of a route that a key with one of these scopes may call."""
    return Security(authorize, scopes=list(any_of))


async def authorize_operator(request: Request, scopes: SecurityScopes, credentials: Credentials) -> None:
    """Do the same for a route that shows all tenants: for keys of `default` only.

    The route also answers while the server starts, and then shows nothing of the store.

    Raises:
        ApiError: As `authorize` does; 403 for a key of another tenant.
    """
    if request.app.state.server.services is None:
        return
    key = await authorize(request, scopes, credentials)
    if key is not None and key.tenant != DEFAULT_TENANT:
        raise ApiError(403, "other_tenant", f"this shows all tenants: use a key of tenant {DEFAULT_TENANT}")


def check_local(request: Request, settings: AccessSettings) -> None:
    """Refuse what a page in a browser may send to a server on loopback.

    Browsers always send `Host`. A page of another site has its own `Origin`, which `cors_origins` may name. A page
    whose name was bound anew to 127.0.0.1 has its own `Host`.

    Raises:
        ApiError: 421 for a foreign `Host`, 403 for a foreign `Origin`.
    """
    hosts = request.headers.getlist("host")
    host = hosts[0] if hosts else None
    name = host_name(f"//{host}") if len(hosts) == 1 and HOST.fullmatch(hosts[0]) else ""
    if host is not None and not (is_loopback(name) or name in {allowed.lower() for allowed in settings.allowed_hosts}):
        message = "a server without keys answers to names of loopback only: create a key, or set allowed_hosts"
        raise ApiError(421, "foreign_host", message)
    origin = request.headers.get("origin")
    is_own = origin is None or (host is not None and origin.partition("://")[2].lower() == host.lower())
    if not is_own and origin not in settings.cors_origins:
        message = "a server without keys takes nothing from pages of other sites: create a key, or set cors_origins"
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
