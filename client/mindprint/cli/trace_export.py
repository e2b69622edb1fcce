"""Export traces as they are stored, or as rows that TRL trains on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import typer
from pydantic import BaseModel

from mindprint.cli.errors import Fail
from mindprint.cli.output import write_ndjson
from mindprint.row_files import FileFormat, write_rows
from mindprint.sync_client import MindprintClient
from mindprint.training_rows import (
    CompletionRow,
    ConversationRow,
    PreferenceRow,
    RowFormat,
    conversation_rows,
    preference_rows,
    sft_rows,
)
from mindprint.types import Trace, VerdictLabel

ExportFormat = Literal["traces", RowFormat]
_KINDS: dict[ExportFormat, type[BaseModel]] = {
    "traces": Trace,
    "trl-sft": CompletionRow,
    "messages": ConversationRow,
    "trl-dpo": PreferenceRow,
}
_USERS = 500
"""Users in one page."""


def export_traces(
    client: MindprintClient,
    rows: ExportFormat,
    form: FileFormat,
    out: Path | None,
    *,
    user: str | None,
    verdict: VerdictLabel | None,
) -> None:
    """Write traces, or rows made of them, to stdout or a file, and say on stderr which ones make no row.

    Args:
        client: The client.
        rows: What a row is.
        form: How rows are written.
        out: The file or folder; None: stdout, for JSON Lines.
        user: Only of this user.
        verdict: Only traces with this verdict.

    Raises:
        Fail: The options do not fit together.
    """
    if out is None and form != "jsonl":
        raise Fail(f"--file-format {form} needs a file: name it with --out", code=2)
    if rows == "trl-dpo" and verdict is not None:
        raise Fail("--verdict does not fit --format trl-dpo: a pair has an accepted and a rejected trace", code=2)
    left_out: Counter[str] = Counter()
    made = _rows(client, rows, left_out, user, verdict)
    if out is None or (form == "jsonl" and rows == "traces"):
        write_ndjson(made, out, "traces")
    else:
        count = write_rows(made, _KINDS[rows], out, form)
        typer.echo(f"{count} {'traces' if rows == 'traces' else 'rows'} written to {out}")
    for reason, number in left_out.most_common():
        typer.secho(f"left out: {number} traces: {reason}", dim=True, err=True)


def _rows(
    client: MindprintClient, rows: ExportFormat, left_out: Counter[str], user: str | None, verdict: VerdictLabel | None
) -> Iterator[BaseModel]:
    if rows == "traces":
        return client.traces.export(user=user, verdict=verdict)
    if rows == "trl-dpo":
        return _pairs(client, left_out, user)
    make = sft_rows if rows == "trl-sft" else conversation_rows
    traces = client.traces.export(user=user, verdict=verdict or "accepted")
    return make(traces, left_out, all_states=verdict is not None)


def _pairs(client: MindprintClient, left_out: Counter[str], user: str | None) -> Iterator[PreferenceRow]:
    """Yield the pairs user by user, so that only one user's traces are held at a time."""
    for user_id in [user] if user else _user_ids(client):
        yield from preference_rows(client.traces.export(user=user_id), left_out)


def _user_ids(client: MindprintClient) -> Iterator[str]:
    after = None
    while True:
        page = client.users.list(limit=_USERS, after=after)
        yield from (user.id for user in page.users)
        if (after := page.next) is None:
            return
