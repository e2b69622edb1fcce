"""Options that several commands have, and the client that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mindprint.cli.errors import Fail
from mindprint.retry import Retries, is_starting
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
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Rows to show at most.")]
After = Annotated[
    str | None, typer.Option("--after", help="Continue after this one, named in the last line of a list.")
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; repeat it.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the settings as TOML and stop.")]

_PATIENCE = Retries(attempts=3, wait_initial_s=0.2, jitter_s=0.1)
"""Few attempts: a person waits at the terminal."""
_WORTH_TELLING_S = 1.0


def connect(url: str | None) -> MindprintClient:
    """Return a client that says on stderr when it waits for the server. It sends MINDPRINT_API_KEY if that is set."""
    import stamina

    stamina.instrumentation.set_on_retry_hooks([_Waits().tell])
    return MindprintClient(url, retries=_PATIENCE)


class _Waits:
    """Says on stderr what a command waits for; of a server that starts only once."""

    def __init__(self) -> None:
        self._has_told_start = False

    def tell(self, details: RetryDetails) -> None:
        if is_starting(details.caused_by):
            if not self._has_told_start:
                typer.secho(f"the server is starting: waiting up to {_PATIENCE.starting_s:.0f} s", dim=True, err=True)
            self._has_told_start = True
        elif details.wait_for >= _WORTH_TELLING_S:
            typer.secho(f"{details.caused_by}: trying again in {details.wait_for:.0f} s", dim=True, err=True)


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were set, so that the server's default holds for the others."""
    return {name: value for name, value in options.items() if value is not None}


def version_or_none(name: str) -> VersionRef | None:
    """Return the version that a text names; None if it names none."""
    try:
        return VersionRef(name)
    except ValueError:
        return None


def version_of(name: str) -> tuple[str, int]:
    """Return key and number of a version such as `user/anna@7`.

    Raises:
        Fail: `name` is no version.
    """
    if (version := version_or_none(name)) is None:
        raise Fail(f"{name!r} names no version: write it like {EXAMPLE}", code=2)
    return version.key, version.number
