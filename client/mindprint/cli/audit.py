"""`mindprint audit`: who changed what."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from mindprint.cli.options import After, AsJson, Limit, Url, connect
from mindprint.cli.output import print_json, print_next, print_rows
from mindprint.types import AuditEvent

app = typer.Typer(no_args_is_help=True)


@app.callback()
def root() -> None:
    pass


@app.command("list")
def list_events(
    actor: Annotated[
        str | None, typer.Option(help="Only what this key did: its id, or local, host, admin_key.")
    ] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, such as adapter.promote.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only from this time on, in UTC.")] = None,
    limit: Limit = 100,
    after: After = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List changes and attempts at changes, the newest first."""
    with connect(url) as client:
        page = client.audit.list(actor=actor, action=action, since=since, limit=limit, after=after)
    if as_json:
        return print_json(page)
    rows = [(event.created_at, event.actor, event.action, event.status, _objects(event)) for event in page.events]
    print_rows(("when", "who", "action", "status", "objects"), rows, empty="no such events", fold=True)
    print_next(page.next, "mindprint audit list")


def _objects(event: AuditEvent) -> str:
    return " ".join(
        f"{name}={','.join(value) if isinstance(value, list) else value}" for name, value in event.objects.items()
    )
