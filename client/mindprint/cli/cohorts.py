"""`mindprint cohorts`"""

from __future__ import annotations

from typing import Annotated

import typer

from mindprint.cli.options import AsJson, Url, connect
from mindprint.cli.output import print_facts, print_json, print_rows
from mindprint.types import EVERYONE, Cohort

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="COHORT", help="The cohort's name.")]


@app.command("list")
def list_cohorts(as_json: AsJson = False, url: Url = None) -> None:
    """The cohorts: users whose traces train one adapter, for those who have none of their own."""
    with connect(url) as client:
        page = client.cohorts.list()
    if as_json:
        return print_json(page)
    rows = [(c.name, c.users, c.live, c.created_at, c.description) for c in page.cohorts]
    empty = "no cohorts: `mindprint cohorts put COHORT` makes one"
    print_rows(("cohort", "users", "live version", "since", "description"), rows, empty=empty)


@app.command("show")
def show(name: Name, as_json: AsJson = False, url: Url = None) -> None:
    """One cohort."""
    with connect(url) as client:
        cohort = client.cohorts.get(name)
    _print(cohort, as_json)


@app.command("put")
def put(
    name: Name,
    description: Annotated[str, typer.Option("--description", "-d", help="Who they are.")] = "",
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Make a cohort, or describe it anew."""
    with connect(url) as client:
        cohort = client.cohorts.put(name, description)
    _print(cohort, as_json)


@app.command("add")
def add(
    name: Name,
    users: Annotated[list[str], typer.Argument(metavar="USER...", help="Who moves in.")],
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Move users into a cohort, from whichever they were in."""
    with connect(url) as client:
        cohort = client.cohorts.add_members(name, users)
    _print(cohort, as_json)


@app.command("remove")
def remove(
    name: Name,
    user_id: Annotated[str, typer.Argument(metavar="USER", help="Who moves out.")],
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Move a user from a cohort to everyone's."""
    with connect(url) as client:
        cohort = client.cohorts.remove_member(name, user_id)
    _print(cohort, as_json)


@app.command("delete")
def delete(name: Name, url: Url = None) -> None:
    """Remove a cohort; its users go to everyone's."""
    with connect(url) as client:
        client.cohorts.delete(name)
    typer.echo(f"cohort {name} is gone; its users are in {EVERYONE}")


def _print(cohort: Cohort, as_json: bool) -> None:
    if as_json:
        return print_json(cohort)
    print_facts(
        [
            ("cohort", cohort.name),
            ("description", cohort.description),
            ("users", cohort.users),
            ("live version", cohort.live),
            ("since", cohort.created_at),
        ]
    )
