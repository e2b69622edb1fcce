"""Import the accepted thinking in a file for a user."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, ValidationError

from mindprint.cli.engagement_import import Bounds, batched, print_imported
from mindprint.cli.errors import Fail
from mindprint.streaming import first
from mindprint.sync_client import MindprintClient
from mindprint.types import ImportedTrace, Reply, TraceState, VerdictLabel

OTHER_MODEL = "not for training"
"""Why an accepted trace is left out: its mode or its model is never trained on."""


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

    def imported_trace(self) -> ImportedTrace:
        return ImportedTrace.model_validate(
            {
                "engagement_id": self.engagement_id,
                "thinking": self.thinking,
                "saw_answer": self.provenance.saw_answer,
                "scores": self.scores,
            }
        )


def import_thinking(client: MindprintClient, user_id: str, file: Path, bounds: Bounds) -> None:
    """Check the whole file, send its traces, and print how many were stored.

    Raises:
        Fail: A line is not valid, or there is no accepted trace. Nothing was sent.
    """
    skips: Counter[str] = Counter()
    try:
        rows = [(user_id, trace) for trace in read(file, skips)]
    except ValueError as error:
        raise Fail(f"{file}:{error} (nothing was sent)") from error
    if not rows:
        reasons = "; ".join(f"{count} left out: {reason}" for reason, count in skips.most_common())
        raise Fail(f"{file} holds no accepted traces{f' ({reasons})' if reasons else ''}")
    created = unchanged = 0
    for _, part in batched(iter(rows), bounds):
        done = client.traces.add(user_id, part)
        created, unchanged = created + done.created, unchanged + done.unchanged
    print_imported([("traces created", created), ("traces unchanged", unchanged)], skips)


def read(file: Path, skips: Counter[str]) -> Iterator[ImportedTrace]:
    """Yield the accepted traces of one user, and count the others.

    Raises:
        ValueError: A line is not valid. The message begins with its number.
    """
    whose: str | None = None
    with file.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            text = text.removeprefix(BOM_UTF8) if number == 1 else text
            if not text.strip():
                continue
            try:
                line = Line.model_validate_json(text)
                whose = whose or line.user_id
                if line.user_id not in (None, whose):
                    raise ValueError(f"is of user {line.user_id!r}, earlier lines of {whose!r}: export one with --user")
                if why := line.why_left_out():
                    skips[why] += 1
                else:
                    yield line.imported_trace()
            except ValueError as error:
                reason = first(error) if isinstance(error, ValidationError) else str(error)
                raise ValueError(f"{number}: {reason}") from error
