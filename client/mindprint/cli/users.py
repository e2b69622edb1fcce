"""`mindprint users`: list users, import engagements, show profiles, erase and export."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from mindprint.cli import erasures
from mindprint.cli.engagement_import import Bounds, ImportOptions, import_path, show_import
from mindprint.cli.errors import Fail
from mindprint.cli.left_out import MAX_BAD_SHARE, MaxBadShare, SkippedFile
from mindprint.cli.options import After, AsJson, Limit, Url, connect
from mindprint.cli.output import print_facts, print_json, print_next, print_rows, print_text
from mindprint.importers import Columns, Format, ReadOptions
from mindprint.types import AutoModeDecision
from mindprint.valid_ids import user_name

app = typer.Typer(no_args_is_help=True)


def _valid(user_id: str) -> str:
    """Refuse what is no id of a user, and name the id that an import makes of it."""
    if (made := user_name(user_id)) != user_id:
        raise Fail(f"{user_id!r} is no user id: an import calls this user {made!r}; ask with that id", code=2)
    return user_id


UserId = Annotated[str, typer.Argument(metavar="USER", help="The user's id.", callback=_valid)]


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
            "dataset: the folder of `eval run --data`. table: CSV, TSV, Parquet or JSON Lines with named columns. "
            "pairs: chosen and rejected answers. chat: messages as OpenAI's API has them. "
            "convokit: the folder of a corpus. polis: a folder with comments.csv and votes.csv. "
            "cmv: PRIME's history_data.json and evaluation_data.json. lamp: LaMP's questions.",
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
            help="table, pairs: the column of the users. Other formats have no columns: the same as --one-user.",
        ),
    ] = None,
    one_user: Annotated[
        str | None,
        typer.Option(metavar="USER", help="The user of rows that name none; rows of others are left out."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(metavar="COLUMN", help="table, pairs: the questions.")] = None,
    response: Annotated[str | None, typer.Option(metavar="COLUMN", help="table: the users' answers.")] = None,
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="table, pairs: when; else in file order.")] = None,
    id_: Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="table, pairs: the rows' ids.")] = None,
    choices: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="table: the choices, a list or `a|b|c`.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="COLUMN", help="table, pairs: the users' reasons.")] = None,
    chosen: Annotated[str | None, typer.Option(metavar="COLUMN", help="pairs: the answers that were chosen.")] = None,
    rejected: Annotated[str | None, typer.Option(metavar="COLUMN", help="pairs: the answers that were not.")] = None,
    time_format: Annotated[
        str | None, typer.Option(help="How times are written, such as `%d/%m/%Y`, where day and month are unclear.")
    ] = None,
    assistant_answers: Annotated[
        bool, typer.Option("--assistant-answers", help="chat: the user wrote or approved the assistant's answers.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would come in, and what is left out. Needs no server.")
    ] = False,
    max_bad_share: MaxBadShare = MAX_BAD_SHARE,
    agree_vote: Annotated[
        int | None,
        typer.Option(help="polis: the vote that means agree, 1 or -1. Without it the counts in comments.csv decide."),
    ] = None,
    id_map: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Write the ids of users and rows that were changed, and the originals."
        ),
    ] = None,
    skipped: SkippedFile = None,
    rows: Annotated[int, typer.Option(min=1, max=1000, help="Engagements in one request.")] = Bounds.rows,
    size: Annotated[int, typer.Option(min=1024, help="Bytes in one request.")] = Bounds.size,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Send the engagements in a file. The file is checked first; sending it again changes nothing."""
    options = ImportOptions(
        kind=kind,
        outputs=outputs,
        user=user,
        one_user=one_user,
        read=ReadOptions(
            agree_vote=_agree_vote(agree_vote),
            columns=Columns(
                prompt=prompt,
                response=response,
                time=time,
                id=id_,
                choices=choices,
                reason=reason,
                chosen=chosen,
                rejected=rejected,
            ),
            time_format=time_format,
            assistant_answers=assistant_answers,
        ),
        max_bad_share=max_bad_share,
        id_map=id_map,
        skipped=skipped,
        as_json=as_json,
    )
    if dry_run:
        return show_import(path, options)
    with connect(url) as client:
        import_path(client, path, options, Bounds(rows=rows, size=size))


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


@app.command("erase")
def erase(
    user_id: UserId,
    engagement: Annotated[str | None, typer.Option(help="Only this engagement, and what may show it.")] = None,
    after: Annotated[
        datetime | None, typer.Option(help="Only engagements from this time on (UTC), and what may show them.")
    ] = None,
    before: Annotated[datetime | None, typer.Option(help="Only engagements before this time (UTC).")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")] = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Erase a user, or some of the user's engagements, from the server. It cannot be undone."""
    is_span = after is not None or before is not None
    if engagement is not None and is_span:
        raise Fail("--engagement names one, --after and --before name many: use one of them", code=2)
    what = f"engagement {engagement} of" if engagement else "engagements of" if is_span else "all data of"
    if not yes:
        typer.confirm(f"Erase {what} user {user_id}? It cannot be undone.", abort=True, err=True)
    with connect(url) as client:
        if engagement is not None:
            erasure = client.users.erase_engagement(user_id, engagement)
        elif is_span:
            erasure = client.users.erase_engagements(user_id, after=after, before=before)
        else:
            erasure = client.users.erase(user_id)
        if wait:
            erasure = erasures.wait_until_done(client, erasure)
    erasures.print_erasure(erasure, as_json)


@app.command("export")
def export(
    user_id: UserId,
    file: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="The new zip.")],
    url: Url = None,
) -> None:
    """Write all that the server stores of a user into one zip."""
    with connect(url) as client:
        written = client.users.export(user_id, file)
    typer.echo(f"user {user_id} written to {written}: {written.stat().st_size} bytes")


def _agree_vote(value: int | None) -> Literal[1, -1] | None:
    if value is None:
        return None
    if value not in (1, -1):
        raise Fail(f"--agree-vote {value} is no sign: 1 or -1 means agree", code=2)
    return 1 if value == 1 else -1


def _row(kind: str, decision: AutoModeDecision) -> tuple[object, ...]:
    gains = _gain(decision.mean), _gain(decision.low)
    return kind, decision.items, *gains, decision.mode, decision.why


def _gain(nats: float | None) -> str | None:
    return None if nats is None else f"{nats:+.3f}"
