"""Merge evaluations of different users or seeds, so that a long evaluation can be spread over machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from mindprint_eval import results
from mindprint_eval.config import EvaluationError
from mindprint_eval.report.analysis import BASELINES

MUST_MATCH = (
    "data",
    "data_digest",
    "part",
    "rows",
    "engagements",
    "model",
    "base_digest",
    "prompt_version",
    "engine",
    "settings",
    "arms",
)
"""Entries of evaluation.json that must be equal in merged evaluations."""


def merge_evaluations(folders: Sequence[Path], out: Path) -> Path:
    """Merge evaluations into a new folder, and return it.

    Raises:
        EvaluationError: `out` exists, a table is missing, or the evaluations do not belong together.
    """
    if out.exists():
        raise EvaluationError(f"{out} is there already: name a folder for --out that is not")
    documents = [_document(folder) for folder in folders]
    document = merge_documents(documents)
    tables = {name: [folder / f"{name}.jsonl.gz" for folder in folders] for name in ("outcomes", "candidates")}
    if lacking := [path for paths in tables.values() for path in paths if not path.exists()]:
        raise EvaluationError(f"{lacking[0]} is missing: an evaluation is joined with its tables")
    out.mkdir(parents=True)
    results.write_ndjson(_each_once(_lines(tables["outcomes"])), out / "outcomes.jsonl.gz")
    results.write_ndjson(_lines(tables["candidates"]), out / "candidates.jsonl.gz")
    questions = [path for folder in folders if (path := folder / "questions.jsonl.gz").exists()]
    results.write_ndjson(_lines(questions), out / "questions.jsonl.gz")
    (out / "evaluation.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return out


def merge_documents(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the contents of evaluation.json files; the entry `joined` describes each.

    Raises:
        EvaluationError: They differ in settings, or have a user with the same seed twice.
    """
    first, *others = documents
    for other in others:
        if unlike := [name for name in MUST_MATCH if first.get(name) != other.get(name)]:
            raise EvaluationError(
                f"they differ in {', '.join(unlike)}: only evaluations of the same data, model, arms and settings "
                "belong together"
            )
    met: set[tuple[str, int]] = set()
    for document in documents:
        mine = set(product(document["users"], document["seeds"]))
        if twice := sorted(met & mine):
            user, seed = twice[0]
            raise EvaluationError(f"{user} with seed {seed} is in two of them: name each user and seed once")
        met |= mine
    return {
        **first,
        "command": " ".join(["mindprint", *sys.argv[1:]]),
        "made_at": max(document["made_at"] for document in documents),
        "users": list(dict.fromkeys(user for document in documents for user in document["users"])),
        "seeds": sorted({seed for document in documents for seed in document["seeds"]}),
        "adapters": [adapter for document in documents for adapter in document["adapters"]],
        "joined": [
            {name: document.get(name) for name in ("command", "made_at", "machine", "versions")}
            for document in documents
        ],
    }


def _document(folder: Path) -> dict[str, Any]:
    path = folder / "evaluation.json"
    if not path.exists():
        raise EvaluationError(f"{folder} has no evaluation.json: it is no evaluation, or one that has not ended")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def _lines(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield from results.read_ndjson(path)


def _each_once(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Drop repeated answers of baselines: they do not depend on the seed, so each evaluation has them."""
    met = set()
    for row in rows:
        if row["arm"] in BASELINES:
            key = (row["measure"], row["arm"], row["user"], row["item"])
            if key in met:
                continue
            met.add(key)
        yield row
