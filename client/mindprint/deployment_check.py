"""Checks a deployment from outside: address, keys, state of the server, clocks, versions.

`look` asks the server; the checks are pure functions of what it saw.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from mindprint import __version__
from mindprint.transport import Timeouts, client_options, find_url, resolve_key
from mindprint.types import ApiKey, ServerInfo, SystemInfo

ModelT = TypeVar("ModelT", bound=BaseModel)
State = Literal["pass", "warn", "fail"]
ROUTES = ("/livez", "/readyz", "/v1/info", "/openapi.json", "/v1/keys/self", "/v1/system")
WARN_SKEW_S, FAIL_SKEW_S = 5.0, 60.0
"""Difference of the clocks above which there is a warning, and above which the check fails."""
EXPIRY_WARNING = timedelta(days=7)
LOW_DISK_FACTOR = 4
"""Free space is low below so many times `min_free_bytes`."""
ANOTHER_KEY = "to see this, set MINDPRINT_API_KEY to an admin key of the tenant default"


class Result(BaseModel):
    """What one check found.

    Attributes:
        check: What was looked at.
        state: Whether it is as it should be.
        found: What was found.
        advice: What to do; None if nothing is to be done.
    """

    check: str
    state: State
    found: str
    advice: str | None = None


class Report(BaseModel):
    """All results, in the order of the checks."""

    server: str
    results: list[Result]

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(result.state == "fail" for result in self.results)


@dataclass(frozen=True)
class Answer:
    """A reply of the server, or why there is none.

    Attributes:
        status: HTTP status; None without a reply.
        body: Its JSON; None if it is none.
        problem: Why there is no reply.
    """

    status: int | None = None
    body: Any = None
    problem: str | None = None


@dataclass(frozen=True)
class Observation:
    """What a server shows.

    Attributes:
        url: Its address.
        has_key: Whether this caller has a key.
        anonymous: Answers to requests without a key, by path.
        keyed: Answers to requests with this caller's key, by path.
        skew_s: Server's clock minus this one's, in seconds; None if it told no time.
        now: When it was looked at.
    """

    url: str
    has_key: bool
    anonymous: Mapping[str, Answer]
    keyed: Mapping[str, Answer]
    skew_s: float | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def system(self) -> SystemInfo | None:
        """Return what the server tells an admin; None if it does not."""
        return _parsed(SystemInfo, self.keyed["/v1/system"])

    @property
    def is_local(self) -> bool:
        """Whether the address is one of loopback."""
        return is_loopback(urlsplit(self.url).hostname or "")

    @property
    def needs_keys(self) -> bool:
        """Whether the server refused a request without a key."""
        return self.anonymous["/v1/info"].status == 401


def check_deployment(
    url: str | None = None, api_key: str | None = None, *, transport: httpx.BaseTransport | None = None
) -> Report:
    """Look at a server and return a result for each check.

    Args:
        url: Its address; None takes MINDPRINT_URL or the default one.
        api_key: None takes MINDPRINT_API_KEY.
        transport: httpx's transport, for tests and proxies.

    Raises:
        InvalidRequest: The address or the key cannot be used.
    """
    seen = look(find_url(url), api_key, transport=transport)
    checks = CHECKS if seen.anonymous["/livez"].status == 200 else CHECKS[:1]
    return Report(server=seen.url, results=[check(seen) for check in checks])


def look(url: str, api_key: str | None = None, *, transport: httpx.BaseTransport | None = None) -> Observation:
    """Ask a server everything that the checks need; without an answer to `/livez` nothing else."""
    options = client_options(url, api_key, Timeouts(read_s=10.0))
    key = options["headers"].pop("Authorization", None)
    with httpx.Client(transport=transport, **options) as client:
        asked = time.time()
        alive, date = _ask(client, "/livez", None)
        skew_s = None if date is None else date - (asked + time.time()) / 2
        anonymous, keyed = {"/livez": alive}, dict[str, Answer]()
        for path in ROUTES if alive.status == 200 else ():
            anonymous[path], _ = _ask(client, path, None)
            keyed[path] = _ask(client, path, key)[0] if key else anonymous[path]
    return Observation(url, resolve_key(api_key) is not None, anonymous, keyed, skew_s)


def _ask(client: httpx.Client, path: str, key: str | None) -> tuple[Answer, float | None]:
    """Return an answer, and the time in its header `Date` in seconds since 1970, in the middle of its second."""
    try:
        response = client.get(path, headers={"Authorization": key} if key else {})
    except httpx.HTTPError as error:
        return Answer(problem=str(error) or type(error).__name__), None
    try:
        date = parsedate_to_datetime(response.headers["Date"]).timestamp() + 0.5
    except (KeyError, ValueError):
        date = None
    try:
        return Answer(response.status_code, response.json()), date
    except ValueError:
        return Answer(response.status_code), date


# --- the checks ---


def check_reachable(seen: Observation) -> Result:
    """Check that the server answers `/livez`."""
    alive = seen.anonymous["/livez"]
    if alive.status == 200:
        return Result(check="reachable", state="pass", found=seen.url)
    found = f"status {alive.status} of {seen.url}/livez" if alive.problem is None else alive.problem
    return Result(
        check="reachable", state="fail", found=found, advice="start the server, or correct the address or the proxy"
    )


def check_tls(seen: Observation) -> Result:
    """Check that what is sent is encrypted, or stays on this machine."""
    if seen.url.startswith("https:"):
        return Result(check="TLS", state="pass", found="https; the certificate is valid")
    if seen.is_local:
        return Result(check="TLS", state="pass", found="http on loopback")
    return Result(
        check="TLS", state="fail", found="http to another machine: keys and texts can be read on the way",
        advice="put a proxy with TLS in front, and use its https address",
    )  # fmt: skip


def check_keys_required(seen: Observation) -> Result:
    """Check that a request without a key is refused."""
    answer = seen.anonymous["/v1/info"]
    if seen.needs_keys:
        return Result(check="keys required", state="pass", found="401 without a key")
    create = "create a key: `mindprint keys create --admin` on the server's host"
    if answer.status == 200:
        state: State = "warn" if seen.is_local else "fail"
        return Result(check="keys required", state=state, found="answers without a key", advice=create)
    if answer.status in (403, 421):
        return Result(
            check="keys required", state="fail", found="has no keys, and answers to names of loopback only",
            advice=create,
        )  # fmt: skip
    return Result(check="keys required", state="warn", found=_unknown(answer), advice="look again once it is ready")


def check_key(seen: Observation) -> Result:
    """Check that this caller's key is valid, and say what it may do."""
    if not seen.needs_keys:
        return Result(check="key", state="pass", found="none is needed")
    if not seen.has_key:
        return Result(check="key", state="fail", found="none is set", advice="set MINDPRINT_API_KEY")
    answer = seen.keyed["/v1/keys/self"]
    if answer.status == 401:
        advice = "set MINDPRINT_API_KEY to a key that `mindprint keys list` shows as valid"
        return Result(check="key", state="fail", found="not known, revoked or expired", advice=advice)
    if (key := _parsed(ApiKey, answer)) is None:
        return Result(check="key", state="warn", found=_unknown(answer), advice="look again once it is ready")
    found = f"{key.id}, scopes {' '.join(key.scopes)}"
    if key.expires_at is not None and key.expires_at - seen.now < EXPIRY_WARNING:
        advice = f"`mindprint keys rotate {key.id}`"
        return Result(check="key", state="warn", found=f"{found}; expires {key.expires_at:%Y-%m-%d}", advice=advice)
    return Result(check="key", state="pass", found=found)


def check_bind(seen: Observation) -> Result:
    """Check that only the proxy reaches the server's own port."""
    if (system := seen.system()) is None:
        return Result(check="listens on", state="warn", found=_unknown(seen.keyed["/v1/system"]), advice=ANOTHER_KEY)
    if is_loopback(system.host):
        return Result(check="listens on", state="pass", found=f"{system.host}: loopback only")
    return Result(
        check="listens on", state="warn", found=f"{system.host}: other machines reach it without TLS",
        advice="bind it to loopback, or let a firewall or network policy admit only the proxy",
    )  # fmt: skip


def check_docs(seen: Observation) -> Result:
    """Check that the schema of the routes is not shown to everybody."""
    if seen.anonymous["/openapi.json"].status != 200:
        return Result(check="/docs", state="pass", found="not shown without a key")
    if seen.is_local:
        return Result(check="/docs", state="pass", found="shown without a key, on loopback")
    return Result(
        check="/docs", state="warn", found="shown to everybody who reaches the server",
        advice="set openapi=false, or let the proxy refuse /docs and /openapi.json",
    )  # fmt: skip


def check_engine(seen: Observation) -> Result:
    """Check that the engine has started and works."""
    ready = seen.anonymous["/readyz"]
    body = ready.body if isinstance(ready.body, dict) else {}
    status = body.get("status")
    failing = {name: why for name, why in _reasons(seen).items() if name not in ("store", "disk")}
    if status == "starting":
        advice = "wait; engine_start_timeout_s is the limit"
        return Result(check="engine", state="warn", found=f"starting: {body.get('phase')}", advice=advice)
    if status == "dead":
        return Result(check="engine", state="fail", found="dead", advice="restart the server, and look at its log")
    if status is None:
        return Result(check="engine", state="fail", found=_unknown(ready), advice="is this a Mindprint server?")
    if failing:
        found = "; ".join(f"{name}: {why}" for name, why in failing.items())
        return Result(check="engine", state="fail", found=found, advice="look at the server's log")
    info = _parsed(ServerInfo, seen.keyed["/v1/info"])
    return Result(check="engine", state="pass", found=f"{info.engine} on {info.device}" if info else "ready")


def check_database(seen: Observation) -> Result:
    """Check that the database answers, and say which it is."""
    if why := _reasons(seen).get("store"):
        return Result(check="database", state="fail", found=why, advice="bring the database back; callers retry")
    if (system := seen.system()) is None:
        return Result(check="database", state="pass", found="answers")
    if system.database == "sqlite":
        return Result(check="database", state="pass", found="SQLite: for one server")
    return Result(check="database", state="pass", found="PostgreSQL")


def check_disk(seen: Observation) -> Result:
    """Check that there is free space in the data folder."""
    free = "free some space on the disk of data_dir"
    if why := _reasons(seen).get("disk"):
        return Result(check="disk", state="fail", found=why, advice=free)
    if (system := seen.system()) is None:
        return Result(check="disk", state="pass", found="enough")
    found = f"{system.free_bytes / 2**30:.1f} GiB free"
    if system.free_bytes < LOW_DISK_FACTOR * system.min_free_bytes:
        return Result(check="disk", state="warn", found=found, advice=free)
    return Result(check="disk", state="pass", found=found)


def check_artifacts(seen: Observation) -> Result:
    """Check that adapter files can be stored."""
    if (system := seen.system()) is None:
        found = _unknown(seen.keyed["/v1/system"])
        return Result(check="adapter files", state="warn", found=found, advice=ANOTHER_KEY)
    if system.artifacts_problem is None:
        return Result(check="adapter files", state="pass", found=system.artifacts)
    advice = "mend it before a trainer uploads the next version"
    return Result(check="adapter files", state="fail", found=system.artifacts_problem, advice=advice)


def check_clock(seen: Observation) -> Result:
    """Check that the clocks of the server and of this machine agree: leases and keys end by them."""
    if seen.skew_s is None:
        return Result(check="clock", state="warn", found="the server told no time", advice="let the proxy pass on Date")
    found = f"{abs(seen.skew_s):.0f} s {'ahead of' if seen.skew_s > 0 else 'behind'} this machine's"
    advice = "run NTP on both machines: leases and keys end by the clock"
    if abs(seen.skew_s) > FAIL_SKEW_S:
        return Result(check="clock", state="fail", found=found, advice=advice)
    if abs(seen.skew_s) > WARN_SKEW_S:
        return Result(check="clock", state="warn", found=found, advice=advice)
    return Result(check="clock", state="pass", found=f"within {WARN_SKEW_S:.0f} s")


def check_version(seen: Observation) -> Result:
    """Check that client and server are of one release."""
    if (info := _parsed(ServerInfo, seen.keyed["/v1/info"])) is None:
        return Result(
            check="version", state="warn", found=_unknown(seen.keyed["/v1/info"]),
            advice="look again with a valid key, once the server is ready",
        )  # fmt: skip
    if info.mindprint == __version__:
        return Result(check="version", state="pass", found=f"{__version__} on both sides")
    found = f"server {info.mindprint}, client {__version__}"
    advice = f"pip install mindprint=={info.mindprint}"
    is_near = info.mindprint.split(".")[:2] == __version__.split(".")[:2]
    return Result(check="version", state="warn" if is_near else "fail", found=found, advice=advice)


CHECKS: tuple[Callable[[Observation], Result], ...] = (
    check_reachable,
    check_tls,
    check_keys_required,
    check_key,
    check_bind,
    check_docs,
    check_engine,
    check_database,
    check_disk,
    check_artifacts,
    check_clock,
    check_version,
)
"""All checks, in the order of the report. Without the first, no other is made."""


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine's own: `localhost`, 127.0.0.0/8 or ::1."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reasons(seen: Observation) -> dict[str, str]:
    body = seen.anonymous["/readyz"].body
    reasons = body.get("reasons") if isinstance(body, dict) else None
    return {str(name): str(why) for name, why in reasons.items()} if isinstance(reasons, dict) else {}


def _parsed(kind: type[ModelT], answer: Answer) -> ModelT | None:
    if answer.status != 200:
        return None
    try:
        return kind.model_validate(answer.body)
    except ValidationError:
        return None


def _unknown(answer: Answer) -> str:
    """Return why something could not be seen."""
    if answer.problem is not None:
        return answer.problem
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return f"not shown: {answer.status}{f' {code}' if code else ''}"
