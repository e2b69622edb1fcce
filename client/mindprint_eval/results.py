"""The table of outcomes: one row for each question that was asked, and how to write and read it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mindprint.datasets import QuestionKind

if TYPE_CHECKING:
    import pandas as pd

Measure = Literal["answer", "bare", "general", "reversed", "early_end", "filler", "other_trace", "reason", "likeness"]
"""`answer`: the arm's own answer. `bare`: sampled thinking from the bare `<think>`. `general`: a fixed question about
no user. `reversed`: the answer with the choices in reverse order. `early_end`, `filler`, `other_trace`: the answer
after the thinking was perturbed. `reason`: log-probability of the reason that the user wrote. `likeness`: embedding
similarity of thinking and a written reason."""
Status = Literal["answered", "no_adapter", "refused", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one question to one arm, with one seed."""

    measure: Measure
    arm: str
    seed: int
    user: str
    item: str
    kind: QuestionKind
    seen: bool | None
    """Whether the user was asked the same question before; None if the dataset does not say."""
    outcome: Status
    why: str
    """Why it was not answered."""
    target: str
    answer: str
    right: bool | None
    logprob: float | None
    """Log-probability of the real answer in nats, over the choices of a closed question."""
    tokens: int
    """Length of the real answer in tokens."""
    choices: Mapping[str, float] | None
    """Log-probability of each choice."""
    thinking: str
    thinking_tokens: int
    finish: str
    reason: str | None
    """Why the thinking is unsound: loop, empty, parse or leak."""
    prompt_tokens: int
    seconds: float
    """Machine time in seconds: requests that run at the same time share the time that they take."""
    cosine: float | None = None
    """Cosine similarity of `thinking` and `target`, where it is measured."""


COLUMNS = tuple(field.name for field in fields(Outcome))


def write_outcomes(rows: Iterable[Outcome], path: Path) -> None:
    """Write outcomes as gzipped NDJSON; the same rows give the same bytes."""
    write_ndjson((asdict(row) for row in rows), path)


def read_outcomes(path: Path) -> pd.DataFrame:
    """Read outcomes as a frame with the columns of `Outcome`, even if there are no rows."""
    import pandas as pd

    table = pd.DataFrame(list(read_ndjson(path)), columns=list(COLUMNS))
    return table.astype({"logprob": float, "seconds": float, "cosine": float})


def write_ndjson(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write gzipped NDJSON without a time stamp; the same rows give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream, gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
        for row in rows:
            packed.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def read_ndjson(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a file that `write_ndjson` wrote."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
