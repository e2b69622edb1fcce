"""What the commands have in common: where the server is, and in which form to answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mindprint.cli.errors import Fail
from mindprint.retry import Retries
from mindprint.sync_client import MindprintClient
from mindprint.transport import DEFAULT_URL
from mindprint.types.keys import EXAMPLE, VersionRef

if TYPE_CHECKING:
    from stamina.instrumentation import RetryDetails

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="MINDPRINT_URL", show_default=DEFAULT_URL, help="Where the server listens."),
]
VersionName = Annotated[str, typer.Argument(metavar="VERSION", help="user/<id>@<number> or cohort/<name>@<number>.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="The most rows to show.")]
After = Annotated[str | None, typer.Option("--after", help="Go on behind this one, from the last line of a list.")]

_PATIENCE = Retries(attempts=3, wait_initial_s=0.2, jitter_s=0.1)
"""Someone is waiting at the terminal."""
_WORTH_TELLING_S = 1.0


def connect(url: str | None) -> MindprintClient:
    """A client that says on stderr when it waits for the server. MINDPRINT_API_KEY is sent if it is set."""
    import stamina

    stamina.instrumentation.set_on_retry_hooks([_waiting])
    return MindprintClient(url, retries=_PATIENCE)


def _waiting(details: RetryDetails) -> None:
    if details.wait_for >= _WORTH_TELLING_S:
        typer.secho(f"{details.caused_by}: trying again in {details.wait_for:.0f} s", dim=True, err=True)


def given(**options: Any) -> dict[str, Any]:
    """Those options that were set: for what is left out the server has a default."""
    return {name: value for name, value in options.items() if value is not None}


def version_or_none(name: str) -> VersionRef | None:
    """Return the version that a text names; None if it names none."""
    try:
        return VersionRef(name)
    except ValueError:
        return None


def version_of(name: str) -> tuple[str, int]:
    """Return key and number of a version such as `user/anna@7`. Raises Fail."""
    if (version := version_or_none(name)) is None:
        raise Fail(f"{name!r} names no version: write it like {EXAMPLE}", code=2)
    return version.key, version.number
