"""`mindprint adapters import`: bring an adapter that another tool trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mindprint.cli.errors import Fail
from mindprint.cli.options import AsJson, Sets, Url, connect, given
from mindprint.cli.output import print_json
from mindprint.cli.settings_flags import build, parse_sets, part
from mindprint.endpoints.publications import MAX_ABSENCE_S
from mindprint.exceptions import MindprintError
from mindprint.types import Publication, Version
from mindprint.types.keys import AdapterKey, VersionRef

EVIDENCE = {"parity_items": 8, "parity_target_tokens": 8}
"""Settings of the parity items of an import. There are more than after a training: nothing else is known of it."""


def import_adapter(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", exists=True, file_okay=False, help="The PEFT folder to import.")
    ],
    user: Annotated[str | None, typer.Option("--user", "-u", help="The user whose adapter it becomes.")] = None,
    cohort: Annotated[str | None, typer.Option("--cohort", help="The cohort whose adapter it becomes.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", show_default="the server's", help="Folder or id of the base model.")
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="A question that the adapter was trained for; repeat it. Default: general ones."),
    ] = None,
    max_absence_s: Annotated[
        float,
        typer.Option("--max-absence-s", min=0, help="Seconds that the server may be away while it checks the version."),
    ] = MAX_ABSENCE_S,
    sets: Sets = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Import a PEFT folder of another tool as the next version of an adapter.

    PEFT itself computes log-probabilities with it here. The server's engine must reproduce them, else the version is
    refused. It needs the trainer and the base model on this machine.
    """
    if (user is None) == (cohort is None):
        raise Fail("name either --user or --cohort: the adapter becomes a version of theirs", code=2)
    kind, name = ("user", user) if user is not None else ("cohort", cohort)
    what = ("the import", "trainer,cpu")
    measuring = part("mindprint_trainer.peft_import", *what)
    wanted = {**EVIDENCE, **parse_sets(sets), **given(model=model)}
    settings = build(part("mindprint_trainer.settings", *what).Settings, wanted, command="adapters import")
    with connect(url) as client:
        info = client.server.info()
        try:
            key = AdapterKey(f"{kind}/{name}")
            measured = measuring.measure_adapter(folder, key, info, settings, prompts or ())
        except (measuring.TrainerError, ValueError) as error:
            raise Fail(str(error)) from error
        progress = _Progress()
        try:
            version = client.adapters.import_version(
                measured.manifest,
                measured.files.config,
                measured.files.weights,
                on_progress=progress.tell,
                on_absence=_tell_absence,
                max_absence_s=max_absence_s,
            )
        except MindprintError as error:
            raise progress.explain(error) from error
    if as_json:
        return print_json(version)
    typer.echo(_told(version))


class _Progress:
    """Tells on stderr what the server does with an import, and remembers the publication."""

    def __init__(self) -> None:
        self._publication: Publication | None = None

    def tell(self, publication: Publication) -> None:
        if self._publication is None:
            typer.echo(f"publication {publication.id}: the server goes on with it, also without this command", err=True)
        self._publication = publication
        name = VersionRef.of(publication.adapter, publication.version)
        typer.echo(f"{name}: {publication.state.replace('_', ' ')}", err=True)

    def explain(self, error: MindprintError) -> MindprintError:
        """Return the error to end with: nobody shall import again what the server goes on with."""
        publication = self._publication
        if publication is None or publication.finished_at is not None:
            return error
        return Fail(
            f"{error}; the server goes on with publication {publication.id}: do not import again; "
            "`mindprint adapters list` shows the version"
        )


def _tell_absence(error: MindprintError) -> None:
    typer.echo(f"the server is away: waiting for it ({error})", err=True)


def _told(version: Version) -> str:
    ref = VersionRef.of(version.adapter, version.version)
    if version.parity is None:
        return f"{ref} is {version.state}"
    parity = version.parity
    return (
        f"{ref} is {version.state}: {parity.against_trainer:.4f} nats a token from PEFT, "
        f"{parity.against_base:.4f} from the base model"
    )
