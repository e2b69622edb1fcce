"""`mindprint cohorts`: list and change cohorts."""

from __future__ import annotations

from typing import Annotated

import typer

from mindprint.cli.options import After, AsJson, Limit, Url, connect
from mindprint.cli.output import print_facts, print_json, print_next, print_rows
from mindprint.types import EVERYONE, Cohort

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="COHORT", help="The cohort's name.")]


@app.command("list")
def list_cohorts(limit: Limit = 100, after: After = None, as_json: AsJson = False, url: Url = None) -> None:
    """List the cohorts: users whose traces train one adapter, for users without their own."""
    with connect(url) as client:
        page = client.cohorts.list(limit=limit, after=after)
    if as_json:
        return print_json(page)
    rows = [(cohort.name, cohort.users, cohort.live, cohort.created_at, cohort.description) for cohort in page.cohorts]
    empty = "no cohorts: `mindprint cohorts put COHORT` makes one"
    print_rows(("cohort", "users", "live version", "since", "description"), rows, empty=empty)
    print_next(page.next, "mindprint cohorts list")


@app.command("show")
def show(name: Name, as_json: AsJson = False, url: Url = None) -> None:
    """Show one cohort."""
    with connect(url) as client:
        cohort = client.cohorts.get(name)
    _print(cohort, as_json)


@app.command("put")
def put(
    name: Name,
    description: Annotated[str, typer.Option("--description", "-d", help="Description of the cohort.")] = "",
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Create a cohort, or replace its description."""
    with connect(url) as client:
        cohort = client.cohorts.put(name, description)
    _print(cohort, as_json)


@app.command("add")
def add(
    name: Name,
    users: Annotated[list[str], typer.Argument(metavar="USER...", help="Users to move into the cohort.")],
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Move users into a cohort; each user is in one cohort at a time."""
    with connect(url) as client:
        cohort = client.cohorts.add_members(name, users)
    _print(cohort, as_json)


@app.command("remove")
def remove(
    name: Name,
    user_id: Annotated[str, typer.Argument(metavar="USER", help="User to move out of the cohort.")],
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Move a user from a cohort to `everyone`."""
    with connect(url) as client:
        cohort = client.cohorts.remove_member(name, user_id)
    _print(cohort, as_json)


@app.command("delete")
def delete(name: Name, url: Url = None) -> None:
    """Remove a cohort; its users move to `everyone`."""
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
