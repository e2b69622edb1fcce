"""`mindprint keys`: create, list, rotate and revoke API keys."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mindprint.cli.errors import Fail
from mindprint.cli.options import After, AsJson, Limit, Sets, Url, connect
from mindprint.cli.output import console, print_facts, print_json, print_next, print_rows
from mindprint.cli.settings_flags import build, parse_sets, part
from mindprint.types import DEFAULT_TENANT, SCOPES, ApiKey, CreatedApiKey, Scope

app = typer.Typer(no_args_is_help=True)
Id = Annotated[str, typer.Argument(metavar="KEY", help="The key's id; `mindprint keys list` shows it.")]
DAY_S = 86_400
WIDE_LIST = 130
"""Minimum width in columns at which the list shows all times."""


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")] = "admin",
    scopes: Annotated[
        list[str] | None, typer.Option("--scope", "-s", help=f"What it may do: {', '.join(SCOPES)}; repeat it.")
    ] = None,
    days: Annotated[float | None, typer.Option("--days", min=0, help="Days until it is refused.")] = None,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", help="Whose data it reaches, made if there is none; else that of your key."),
    ] = None,
    admin: Annotated[
        bool,
        typer.Option("--admin", help="Create an admin key in the database of this host's server: for the first key."),
    ] = False,
    config: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="With --admin: the server's TOML file.")
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Create a key and print its text, which is not shown again."""
    expires_in_s = None if days is None else days * DAY_S
    if admin and scopes:
        raise Fail("--admin makes a key with all scopes: leave out --scope, or --admin", code=2)
    if admin:
        created, database = _create_admin(name, expires_in_s, tenant or DEFAULT_TENANT, sets, config)
        typer.secho(f"Written to {database}: start the server with the same settings.", err=True)
        typer.secho(
            "A server that runs on it asks for a key from now on: restart trainers and apps with one.", err=True
        )
        return _print_created(created, as_json)
    if sets or config:
        raise Fail("--set and --config say where the database is: use them with --admin", code=2)
    with connect(url) as client:
        created = client.keys.create(name, _known(scopes), expires_in_s=expires_in_s, tenant=tenant)
    _print_created(created, as_json)


@app.command("list")
def list_keys(limit: Limit = 100, after: After = None, as_json: AsJson = False, url: Url = None) -> None:
    """List the keys, revoked and expired ones too, the oldest first."""
    with connect(url) as client:
        page = client.keys.list(limit=limit, after=after)
    if as_json:
        return print_json(page)
    wide = console().width >= WIDE_LIST
    rows = [
        (
            *(key.id, key.tenant, key.name, " ".join(key.scopes)),
            *((key.created_at, key.expires_at, key.revoked_at, key.last_used_at) if wide else (_end(key),)),
        )
        for key in page.keys
    ]
    ends = ("since", "expires", "revoked", "last used") if wide else ("expires",)
    empty = "no keys: `mindprint keys create --admin` makes the first one"
    print_rows(("key", "tenant", "name", "scopes", *ends), rows, empty=empty)
    print_next(page.next, "mindprint keys list")


@app.command("rotate")
def rotate(
    key_id: Id,
    keep_days: Annotated[float, typer.Option(min=0, help="Days for which the old key stays valid.")] = 1,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Create a key like another one, which is refused after a while."""
    with connect(url) as client:
        created = client.keys.rotate(key_id, keep_old_s=keep_days * DAY_S)
    _print_created(created, as_json)


@app.command("revoke")
def revoke(key_id: Id, as_json: AsJson = False, url: Url = None) -> None:
    """Revoke a key for good."""
    with connect(url) as client:
        key = client.keys.revoke(key_id)
    if as_json:
        return print_json(key)
    typer.echo(f"key {key.id} ({key.name}) is revoked; every server refuses it within 5 s")


def _end(key: ApiKey) -> datetime | str | None:
    return "revoked" if key.revoked_at is not None else key.expires_at


def _known(scopes: list[str] | None) -> list[Scope]:
    if not scopes:
        raise Fail(f"name what the key may do: --scope with one of {', '.join(SCOPES)}; repeat it", code=2)
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise Fail(f"there is no scope {unknown[0]!r}: use {', '.join(SCOPES)}", code=2)
    return [scope for scope in SCOPES if scope in scopes]


def _create_admin(
    name: str, expires_in_s: float | None, tenant: str, sets: list[str] | None, config: Path | None
) -> tuple[CreatedApiKey, str]:
    """Create an admin key without the server: whoever can write its database may. Return it and the database."""
    what = ("the server", "server,cpu")
    settings: Any = build(
        part("mindprint_server.settings", *what).Settings, parse_sets(sets), config=config, command="serve"
    )
    create = part("mindprint_server.access", *what).create_admin_key
    try:
        created: CreatedApiKey = asyncio.run(create(settings, name, expires_in_s, tenant))
    except part("mindprint_server.store", *what).StoreError as error:
        raise Fail(str(error)) from error
    if settings.database_url is None:
        return created, str((settings.data_dir / "mindprint.db").resolve())
    return created, str(part("mindprint_server.store.urls", *what).parse_url(settings.url))


def _print_created(created: CreatedApiKey, as_json: bool) -> None:
    if as_json:
        return print_json(created)
    print_facts(
        [
            ("key", created.id),
            ("tenant", created.tenant),
            ("name", created.name),
            ("scopes", " ".join(created.scopes)),
            ("expires", created.expires_at),
        ]
    )
    typer.echo(f"MINDPRINT_API_KEY={created.key}")  # not in the table, which would break it on a narrow terminal
    typer.secho("Keep the text now: it is not stored and cannot be shown again.", err=True)
