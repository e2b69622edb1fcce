"""The table that an evaluation leaves: one line for each question that was asked, whatever became of it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Measure = Literal["answer", "bare", "general", "early_end", "filler", "other_trace", "reason", "likeness"]
"""`answer`: the arm's own way. `bare`: thinking from the bare `<think>`, sampled. `general`: a fixed question about
nobody. `early_end`, `filler`, `other_trace`: the arm's answer after its thinking was changed. `reason`: how likely the
reason is that the user wrote. `likeness`: how near thinking is to a reason that a user wrote, by embeddings."""
QuestionKind = Literal["closed", "rating", "open", "ranking"]
Status = Literal["answered", "no_adapter", "refused", "failed"]


@dataclass(frozen=True)
class Outcome:
    measure: Measure
    arm: str
    seed: int
    user: str
    item: str
    kind: QuestionKind
    seen: bool | None
    """Whether the same question was put to the user before; None if the records do not say."""
    outcome: Status
    why: str
    """Where it was not answered."""
    target: str
    answer: str
    right: bool | None
    logprob: float | None
    """Nats of the real answer, over the choices of a closed question."""
    tokens: int
    """Length of the real answer."""
    choices: Mapping[str, float] | None
    """Log-probability of each choice."""
    thinking: str
    thinking_tokens: int
    finish: str
    reason: str | None
    """What is wrong with the thinking: loop, empty, parse or leak."""
    prompt_tokens: int
    seconds: float
    """Of the machine's time: many questions are asked at once, and share the time that they took."""
    cosine: float | None = None
    """Of `thinking` and `target`, where their likeness is measured."""


COLUMNS = tuple(field.name for field in fields(Outcome))


def write_outcomes(rows: Iterable[Outcome], path: Path) -> None:
    """As gzipped NDJSON; the same rows make the same bytes."""
    write_ndjson((asdict(row) for row in rows), path)


def read_outcomes(path: Path) -> pd.DataFrame:
    """All rows, with the columns of `Outcome` whether there are rows or not."""
    import pandas as pd

    table = pd.DataFrame(list(read_ndjson(path)), columns=list(COLUMNS))
    return table.astype({"logprob": float, "seconds": float, "cosine": float})


def write_ndjson(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Gzipped NDJSON that holds no time of writing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream, gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
        for row in rows:
            packed.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def read_ndjson(path: Path) -> Iterator[dict[str, Any]]:
    """What `write_ndjson` wrote."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
