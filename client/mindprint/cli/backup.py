"""`mindprint backup` and `mindprint restore`: the server's database and adapter files, on its host."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from mindprint.cli.errors import Fail
from mindprint.cli.options import AsJson, Sets, given
from mindprint.cli.output import print_facts, print_json
from mindprint.cli.settings_flags import build, parse_sets, part

SERVER = ("the server", "server,cpu")
Config = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, show_default="mindprint.toml, if it is there", help="Server's TOML file."
    ),
]


DataDir = Annotated[
    Path | None, typer.Option(show_default=".mindprint/server", help="Server's folder of the store and the adapters.")
]


def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The backup: a folder that does not exist yet.")],
    data_dir: DataDir = None,
    config: Config = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Copy the server's database and adapter files into a folder, on the server's host. The server may run.

    All rows are of one moment, and the digest of each file is noted.
    """
    _print(_run("back_up", folder, data_dir, config, sets), as_json, f"backed up into {folder}")


def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", exists=True, file_okay=False, help="The backup.")],
    data_dir: DataDir = None,
    config: Config = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Fill a new database and data folder from a backup, on the server's host. No server may run on them.

    The backup is verified first. A database that is not empty is refused.
    """
    _print(_run("restore", folder, data_dir, config, sets), as_json, f"restored from {folder}: start the server now")


def _run(name: str, folder: Path, data_dir: Path | None, config: Path | None, sets: list[str] | None) -> Any:
    wanted = {**parse_sets(sets), **given(data_dir=data_dir)}
    settings = build(part("mindprint_server.settings", *SERVER).Settings, wanted, config=config, command="serve")
    module = part("mindprint_server.backup", *SERVER)
    errors = (module.BackupError, part("mindprint_server.store", *SERVER).StoreError)
    try:
        return asyncio.run(getattr(module, name)(settings, folder.absolute()))
    except errors as error:
        raise Fail(str(error)) from error


def _print(manifest: Any, as_json: bool, done: str) -> None:
    if as_json:
        return print_json(manifest)
    print_facts(
        [
            ("rows", sum(manifest.rows.values())),
            ("files", len(manifest.files)),
            ("database", manifest.database),
            ("revision", manifest.revision),
            ("made", manifest.created_at),
            ("by", f"mindprint {manifest.mindprint}"),
        ]
    )
    typer.secho(done, err=True)
