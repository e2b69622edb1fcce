"""`mindprint users`: list users, import engagements, show profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mindprint.cli.engagement_import import Bounds, import_path
from mindprint.cli.options import After, AsJson, Limit, Url, connect
from mindprint.cli.output import print_facts, print_json, print_next, print_rows, print_text
from mindprint.importers import Format
from mindprint.types import AutoModeDecision

app = typer.Typer(no_args_is_help=True)
UserId = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]


@app.command("list")
def list_users(limit: Limit = 100, after: After = None, as_json: AsJson = False, url: Url = None) -> None:
    """List the users with their number of engagements."""
    with connect(url) as client:
        page = client.users.list(limit=limit, after=after)
    if as_json:
        return print_json(page)
    rows = [
        (user.id, user.engagements, user.cohort, user.profile_version, user.live_version, user.created_at)
        for user in page.users
    ]
    empty = "no users yet: `mindprint users import FILE` brings some"
    print_rows(("user", "engagements", "cohort", "profile", "live version", "since"), rows, empty=empty)
    print_next(page.next, "mindprint users list")


@app.command("show")
def show(user_id: UserId, as_json: AsJson = False, url: Url = None) -> None:
    """Show one user, and how many of the user's traces are trained and live."""
    with connect(url) as client:
        user = client.users.get(user_id)
        if as_json:
            return print_json(user)
        funnel = client.server.funnel(user_id)
    print_facts(
        [
            ("user", user.id),
            ("since", user.created_at),
            ("engagements", user.engagements),
            ("cohort", user.cohort),
            ("profile", user.profile_version),
            ("live version", user.live_version),
            ("traces", f"{funnel.generated} generated, {funnel.accepted} accepted, {funnel.trained} trained"),
        ]
    )


@app.command("import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", exists=True, readable=True, help="A file, or the folder of an export."),
    ],
    kind: Annotated[
        Format,
        typer.Option(
            "--format",
            "-f",
            help="ndjson: one engagement a line (id, prompt, response, occurred_at, and if there are reason, choices). "
            "lamp: LaMP's questions. cmv: PRIME's history_data.json and evaluation_data.json. "
            "polis: a folder with comments.csv and votes.csv.",
        ),
    ] = "auto",
    outputs: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, help="The answers to LaMP's questions."),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            "-u",
            help="ndjson: whose the lines are; without it each has a `user_id`. Others: only the rows of this user.",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=1000, help="Engagements in one request.")] = Bounds.rows,
    size: Annotated[int, typer.Option(min=1024, help="Bytes in one request.")] = Bounds.size,
    url: Url = None,
) -> None:
    """Send the engagements in a file. The file is checked first; sending it again changes nothing."""
    with connect(url) as client:
        import_path(client, path, kind, Bounds(rows=rows, size=size), outputs=outputs, user=user)


@app.command("profile")
def show_profile(
    user_id: UserId,
    write: Annotated[bool, typer.Option("--write", help="Write a new profile now.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show the profile that the base model wrote about a user."""
    with connect(url) as client:
        profile = client.users.write_profile(user_id) if write else client.users.get_profile(user_id)
    if as_json:
        return print_json(profile)
    print_facts(
        [
            ("user", profile.user_id),
            ("version", profile.version),
            ("covers", f"{profile.covers} engagements"),
            ("until", profile.covers_until),
            ("tokens", profile.tokens),
        ]
    )
    print_text("profile", profile.text)


@app.command("auto-mode")
def auto_mode(user_id: UserId, as_json: AsJson = False, url: Url = None) -> None:
    """Show whether --mode auto thinks before it answers this user, and the evidence."""
    with connect(url) as client:
        decisions = client.users.get_auto_mode(user_id)
    if as_json:
        return print_json(decisions)
    print_facts([("user", decisions.user_id), ("answered by", decisions.model)])
    typer.echo()
    columns = ("queries", "questions", "mean gain", "lower bound", "mode", "why")
    print_rows(columns, [_row("closed", decisions.closed), _row("open", decisions.open)], empty="", fold=True)


def _row(kind: str, decision: AutoModeDecision) -> tuple[object, ...]:
    gains = _gain(decision.mean), _gain(decision.low)
    return kind, decision.items, *gains, decision.mode, decision.why


def _gain(nats: float | None) -> str | None:
    return None if nats is None else f"{nats:+.3f}"
