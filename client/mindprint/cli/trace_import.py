"""Import the accepted thinking in a file for a user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, ValidationError

from mindprint.cli.engagement_import import Bounds, batched
from mindprint.cli.left_out import (
    LeftOutOptions,
    nothing_sent,
    print_imported,
    print_left_out,
    refuse,
    refuse_stream,
    write_files,
)
from mindprint.cli.output import print_json
from mindprint.importers import Skips
from mindprint.importers.json_rows import json_rows
from mindprint.importers.rows import fault_of
from mindprint.importers.summary import LeftOut
from mindprint.streaming import first
from mindprint.sync_client import MindprintClient
from mindprint.types import ImportedTrace, Reply, TraceState, VerdictLabel
from mindprint.valid_ids import EngagementIds, user_name

OTHER_MODEL = "not for training"
"""Why an accepted trace is left out: its mode or its model is never trained on."""
OTHER_USER = "trace is of another user"


class LineProvenance(Reply):
    saw_answer: bool = False


class Line(Reply):
    """The fields of a line that are read. A line is an exported trace, or only an engagement id and a thinking."""

    user_id: str | None = None
    engagement_id: str | None = None
    thinking: str = ""
    verdict: VerdictLabel = "accepted"
    state: TraceState = "waiting"
    scores: dict[str, float] = Field(default_factory=dict)
    provenance: LineProvenance = LineProvenance()

    def why_left_out(self) -> str | None:
        if self.verdict != "accepted":
            return self.verdict
        return OTHER_MODEL if self.state == "stored" else None

    def imported_trace(self, ids: EngagementIds) -> ImportedTrace:
        return ImportedTrace.model_validate(
            {
                # The id that the row got when it was imported.
                "engagement_id": ids.of(self.engagement_id) if self.engagement_id else self.engagement_id,
                "thinking": self.thinking,
                "saw_answer": self.provenance.saw_answer,
                "scores": self.scores,
            }
        )


class ImportedThinking(Reply):
    """What was stored of a file."""

    created: int
    unchanged: int
    skipped: LeftOut


def import_thinking(
    client: MindprintClient, user_id: str, file: Path, bounds: Bounds, options: LeftOutOptions, *, named: str | None
) -> None:
    """Check the whole file, send its traces, and print how many were stored and left out.

    Args:
        client: The client.
        user_id: Whose traces they become.
        file: The file.
        bounds: Bounds of each request.
        options: What is left out, and how it is printed.
        named: The same person's id in the file; None: `user_id`.

    Raises:
        Fail: The file is a pipe, too many lines are faulty, or there is no accepted trace. Nothing was sent.
    """
    refuse_stream(file)
    skips = Skips(max_places=None) if options.skipped else Skips()
    with nothing_sent():
        usable = sum(1 for _ in read(file, named or user_id, skips))
    write_files(skips, skipped=options.skipped)
    refuse(file, "accepted traces", usable, skips, options.max_bad_share)
    created = unchanged = 0
    rows = ((user_id, trace) for trace in read(file, named or user_id, Skips()))
    for _, part in batched(rows, bounds):
        done = client.traces.add(user_id, part)
        created, unchanged = created + done.created, unchanged + done.unchanged
    if options.as_json:
        return print_json(ImportedThinking(created=created, unchanged=unchanged, skipped=LeftOut.of(skips)))
    print_imported([("traces created", created), ("traces unchanged", unchanged)], skips)
    print_left_out(skips)


def read(file: Path, user_id: str, skips: Skips) -> Iterator[ImportedTrace]:
    """Yield the accepted traces of one user, and count the others.

    Args:
        file: JSON Lines, or one JSON array.
        user_id: The user. Lines without a `user_id` are the user's, too.
        skips: Counts the lines that are left out, by reason.

    Raises:
        BadImport: The file is a JSON array and breaks off.
        SameId: Two ids of engagements become the same valid id.
    """
    for row in json_rows(file, skips):
        try:
            line = Line.model_validate(row.data)
            if line.user_id is not None and user_id not in (line.user_id, user_name(line.user_id)):
                detail = f"is of user {line.user_id!r}, not {user_id!r}: if both are one person, add --from"
                skips.reject(OTHER_USER, row.where, detail)
            elif why := line.why_left_out():
                skips.leave_out(why, row.where)
            else:
                yield line.imported_trace(skips.engagements)
        except ValidationError as error:
            skips.reject(fault_of(error), row.where, first(error))
