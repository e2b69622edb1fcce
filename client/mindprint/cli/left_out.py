"""What the imports of files share: which rows are left out, and when that is too many."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from mindprint.cli.errors import Fail
from mindprint.cli.output import print_rows, safe, short
from mindprint.importers import BadImport, SameId, Skips, check_bad_share
from mindprint.importers.summary import LeftOut, changed_engagement_ids
from mindprint.private_files import private_umask

MAX_BAD_SHARE = 0.1
"""Share of faulty rows up to which the others are imported."""
MaxBadShare = Annotated[
    float, typer.Option(min=0, max=1, help="Import nothing if a larger share of the rows is faulty. 0 allows none.")
]
SkippedFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", dir_okay=False, help="Write all rows that were left out: file, line, reason."),
]
_MAX_HINT = 300
"""Characters of a line about one row."""
_SHOWN_IDS = 5
"""Changed ids on the screen; --id-map writes all."""


@dataclass(frozen=True, kw_only=True)
class LeftOutOptions:
    """What an import does about the rows that it leaves out, and how it prints.

    Attributes:
        max_bad_share: Share of faulty rows up to which the others are imported, from 0 to 1.
        skipped: A file for all rows that were left out.
        as_json: Whether to print JSON.
    """

    max_bad_share: float = MAX_BAD_SHARE
    skipped: Path | None = None
    as_json: bool = False


def refuse_stream(path: Path) -> None:
    """Refuse a pipe or a device: an import reads its file more than once, and they give each row once.

    Raises:
        Fail: The path is neither a file nor a folder.
    """
    if not path.is_file() and not path.is_dir():
        raise Fail(
            f"{path} is no regular file, and an import reads its file twice: save the rows to a file, and name it"
        )


def refuse(path: Path, what: str, usable: int, skips: Skips, max_bad_share: float) -> None:
    """Refuse an import of which too many rows are faulty, or none can be used.

    Args:
        path: The file.
        what: What it should hold, such as `engagements`.
        usable: How many rows can be used.
        skips: The rows that are left out.
        max_bad_share: Share of faulty rows up to which the others are imported, from 0 to 1.

    Raises:
        Fail: Nothing may be sent.
    """
    with nothing_sent():
        check_bad_share(skips, usable, max_bad_share)
    if not usable:
        reasons = "; ".join(f"{count} left out: {reason}" for reason, count in skips.most_common())
        raise Fail(f"{path} holds no {what}{f' that can be used ({reasons})' if reasons else ''}")


@contextlib.contextmanager
def nothing_sent() -> Iterator[None]:
    """Say of a file that cannot be used that nothing of it was sent."""
    try:
        yield
    except (BadImport, SameId) as error:
        raise Fail(f"{error} (nothing was sent)") from error


def print_imported(stored: Sequence[tuple[str, int]], skips: Counter[str]) -> None:
    """Print how many rows of a file were stored, unchanged and left out."""
    left_out = [(f"left out: {reason}", count) for reason, count in skips.most_common()]
    print_rows(("imported", "number"), [*stored, *left_out], empty="")


def print_left_out(skips: Skips) -> None:
    """Print on stderr which rows were left out, and which ids changed."""
    for row in skips.places:
        _hint(f"{'bad row' if row.bad else 'left out'}: {row.where}: {row.reason}")
    if (rest := skips.total() - len(skips.places)) > 0:
        _hint(f"and {rest} more: --skipped FILE writes all")
    for kind, changed in (("user", skips.users.changed), ("id", skips.engagements.changed)):
        for made, raw in itertools.islice(changed.items(), _SHOWN_IDS):
            _hint(f"{kind} {short(raw)!r} is {made}")
        if len(changed) > _SHOWN_IDS:
            _hint(f"and {len(changed) - _SHOWN_IDS} more: --id-map FILE writes all")


def write_files(skips: Skips, *, skipped: Path | None, id_map: Path | None = None) -> None:
    """Write the rows that were left out, and the ids that were changed, to files of the caller's."""
    left_out = LeftOut.of(skips)
    _write(skipped, left_out.places)
    _write(id_map, itertools.chain(left_out.changed_ids, changed_engagement_ids(skips)))


def _write(file: Path | None, items: Iterable[BaseModel]) -> None:
    if file is not None:
        with private_umask(), file.open("w", encoding="utf-8") as opened:
            opened.writelines(f"{item.model_dump_json()}\n" for item in items)


def _hint(line: str) -> None:
    typer.secho(safe(short(line, _MAX_HINT)), dim=True, err=True)
