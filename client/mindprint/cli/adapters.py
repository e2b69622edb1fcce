"""`mindprint adapters`"""

from __future__ import annotations

from typing import Annotated

import typer

from mindprint.cli.failures import Fail
from mindprint.cli.options import AsJson, Url, connect
from mindprint.cli.output import print_facts, print_json, print_rows
from mindprint.types import Adapter

app = typer.Typer(no_args_is_help=True)
Key = Annotated[str, typer.Argument(metavar="ADAPTER", help="user/<id> or cohort/<name>.")]


@app.command("list")
def list_adapters(as_json: AsJson = False, url: Url = None) -> None:
    """The adapters and their live versions."""
    with connect(url) as client:
        page = client.adapters()
    if as_json:
        return print_json(page)
    rows = [(a.key, a.live, len(a.versions), a.versions[-1].created_at if a.versions else None) for a in page.adapters]
    empty = "no adapters yet: `mindprint train` makes them from accepted traces"
    print_rows(("adapter", "live version", "versions", "newest"), rows, empty=empty)


@app.command("show")
def show(key: Key, as_json: AsJson = False, url: Url = None) -> None:
    """One adapter with all its versions and their proofs."""
    with connect(url) as client:
        adapter = client.adapter(key)
    _print(adapter, as_json)


@app.command("promote")
def promote(
    key: Key,
    version: Annotated[int | None, typer.Argument(min=1, help="The version to make live.")] = None,
    base: Annotated[bool, typer.Option("--base", help="Take the adapter off: the base answers.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Choose the version that answers."""
    if (version is None) != base:
        raise Fail(f"name either a version or --base: `mindprint adapters show {key}` lists the versions", code=2)
    with connect(url) as client:
        adapter = client.promote(key, version)
    _print(adapter, as_json)


@app.command("rollback")
def rollback(key: Key, as_json: AsJson = False, url: Url = None) -> None:
    """Go back to the version before the live one."""
    with connect(url) as client:
        adapter = client.rollback(key)
    _print(adapter, as_json)


def _print(adapter: Adapter, as_json: bool) -> None:
    if as_json:
        return print_json(adapter)
    print_facts([("adapter", adapter.key), ("live", f"version {adapter.live}" if adapter.live else "base")])
    typer.echo()
    rows = []
    for version in adapter.versions:
        canary = version.canary
        passed = None if canary is None else "passed" if canary.passed else f"refused: {canary.reason}"
        apart = None if canary is None else f"{canary.against_trainer:.3f}"
        shift = None if canary is None else f"{canary.against_base:.3f}"
        row = (
            version.version,
            version.state,
            version.traces,
            version.parent,
            passed,
            apart,
            shift,
            version.digest[:19],
        )
        rows.append((*row, version.created_at))
    columns = ("version", "state", "traces", "parent", "canary", "off trainer", "off base", "digest", "made")
    print_rows(columns, rows, empty="it has no versions")
