"""Runs an evaluation: splits it into pieces, runs those that are not done, and puts table and report together."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mindprint import AsyncMindprintClient, MindprintError, datasets, doctor, model_files
from mindprint.datasets import UserDataset
from mindprint.local.cluster import EXHAUSTIVE_SETTINGS, LocalCluster
from mindprint.local.console import Output
from mindprint.local.processes import ProcessFailed, cancel_on_signals, while_running
from mindprint.types import ServerInfo
from mindprint_eval import results
from mindprint_eval.arms import ARMS
from mindprint_eval.baselines import answer_with_baselines
from mindprint_eval.config import EvalOptions, EvaluationError
from mindprint_eval.response_cache import ResponseCache, content_digest
from mindprint_eval.shard import EvalShard, ShardResult, ShardRunner, recipes_for

NEVER = "1000000"
EXPECTED = (
    EvaluationError,
    datasets.DatasetError,
    model_files.MissingModel,
    ProcessFailed,
    MindprintError,
)
"""What a person is told in one line."""


def run_eval(options: EvalOptions) -> int:
    """Returns 0, 1 (could not go on) or 130 (interrupted). Started again, it takes up where it was."""
    out = Output()
    try:
        return asyncio.run(cancel_on_signals(_run(options, out)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        out.say("interrupted: start it again, and it goes on from here")
        return 130
    except Exception as error:
        cause = root_cause(error)
        if not isinstance(cause, EXPECTED):
            raise
        out.say(f"error: {cause}")
        return 1


async def _run(options: EvalOptions, out: Output) -> int:
    users, pool = select_users(options)
    all_pieces = list(split_into_shards(options, users, pool))
    out.say(
        f"{len(users)} users, {options.rows} rows, {options.engagements} engagements each, "
        f"{options.seeds} seed(s): {len(all_pieces)} piece(s) in {options.out}"
    )
    model = await asyncio.to_thread(model_files.resolve, options.model)
    found, infos = [], []
    with ResponseCache(options.out / "answers.jsonl") as book:
        for number, piece in enumerate(all_pieces, 1):
            out.say(
                f"piece {number} of {len(all_pieces)}: {', '.join(u.user_id for u in piece.users)}, seed {piece.seed}"
            )
            one, info = await _piece(options, out, book, piece, model)
            found.append(one)
            infos.append(info)
    folder = write_evaluation(options, users, found, infos[0])
    from mindprint_eval.report import summary
    from mindprint_eval.report.build import write_report

    page = await asyncio.to_thread(write_report, folder)
    for table in await asyncio.to_thread(summary.summary_tables, folder):
        out.say(table)
    out.say(f"report: {page}")
    return 0


async def _piece(
    options: EvalOptions, out: Output, book: ResponseCache, piece: EvalShard, model: Path
) -> tuple[ShardResult, ServerInfo]:
    settings = server_settings(options)
    folder = options.out / "pieces" / content_digest([piece.histories, piece.seed, settings, str(model)])[:12]
    folder.mkdir(parents=True, exist_ok=True)
    # The server stays down if there is nothing to ask it.
    done = folder / f"done-{content_digest(_decides(options, piece))[:12]}.json"
    if done.exists():
        kept = json.loads(done.read_text(encoding="utf-8"))
        info = ServerInfo.model_validate(kept["info"])
        _same_base(options, info)
        out.say(f"done before, taken from {done}")
        rows = [results.Outcome(**row) for row in kept["outcomes"]]
        return ShardResult(rows, kept["candidates"], kept["adapters"]), info
    with LocalCluster(folder, output=out) as cluster:
        server = await cluster.start_server(model, settings, timeout_s=options.start_timeout_s)
        async with AsyncMindprintClient(cluster.url) as client:
            info = await client.server.info()
            _same_base(options, info)
            running = ShardRunner(options, out, client, cluster, book, piece, info, settings)
            found = await while_running(server, running.run())
    if not any(row.outcome == "failed" and row.item for row in found.outcomes):
        kept = {"info": info.model_dump(mode="json"), **asdict(found)}
        done.with_suffix(".part").write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
        done.with_suffix(".part").replace(done)
    return found, info


def _same_base(options: EvalOptions, info: ServerInfo) -> None:
    """Raises CannotEvaluate when the evaluation began with another base model."""
    note = options.out / "base.json"
    now = {"base_digest": info.base_digest, "prompt_version": info.prompt_version}
    if not note.exists():
        note.write_text(json.dumps(now) + "\n", encoding="utf-8")
    before = json.loads(note.read_text(encoding="utf-8"))
    if before["base_digest"] != now["base_digest"]:
        raise EvaluationError(
            f"{options.out} was begun with the base model {before['base_digest'][:19]}, and the server's is "
            f"{now['base_digest'][:19]}: what was measured does not belong together; take another --out"
        )


def write_evaluation(
    options: EvalOptions, users: Sequence[UserDataset], found: Sequence[ShardResult], info: ServerInfo
) -> Path:
    """The tables of all pieces as one evaluation. Returns its folder."""
    folder = options.out
    rows = [row for piece in found for row in piece.outcomes]
    rows += answer_with_baselines(list(users), 0)  # they know no chance: one seed is all
    results.write_outcomes(rows, folder / "outcomes.jsonl.gz")
    results.write_ndjson((row for piece in found for row in piece.candidates), folder / "candidates.jsonl.gz")
    questions = ({"user": u.user_id, "item": row.id, "query": row.query} for u in users for row in u.held_out)
    results.write_ndjson(questions, folder / "questions.jsonl.gz")
    document = {
        "name": "eval",
        "command": " ".join(["mindprint", *sys.argv[1:]]),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": options.data.name,
        "data_digest": dataset_digest(options.data),
        "part": options.part,
        "users": [user.user_id for user in users],
        "rows": options.rows,
        "engagements": options.engagements,
        "seeds": list(options.numbers),
        "model": Path(info.model).name if Path(info.model).is_absolute() else info.model,
        "base_digest": info.base_digest,
        "prompt_version": info.prompt_version,
        "engine": info.engine,
        "machine": doctor.machine(),
        "versions": doctor.versions(),
        "settings": {
            "server": server_settings(options),
            "objective": dict(options.objective),
            "thresholds": asdict(options.thresholds),
            "group": options.group,
            "pool": options.pool,
            "general": options.general,
            "embeddings": options.embeddings.name if options.embeddings else None,
            "gate": options.gate,
        },
        "arms": [asdict(ARMS[name]) for name in options.arms],
        "adapters": [row for piece in found for row in piece.adapters],
    }
    (folder / "evaluation.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


# --- pure -------------------------------------------------------------------------------


def select_users(options: EvalOptions) -> tuple[list[UserDataset], list[UserDataset]]:
    """The users who are asked, and others whose answers train the pooled adapter. Raises BadRecords."""
    if not options.ids:
        there = datasets.list_user_ids(options.data)
        part = {"all": there, "tune": there[::2], "report": there[1::2]}[options.part]
        ids = part[: options.users]
        if len(ids) < options.users:
            raise datasets.DatasetError(
                f"{options.data} has {len(ids)} users in part {options.part!r}: ask for fewer than {options.users}"
            )
    else:
        there, ids = datasets.list_user_ids(options.data), list(options.ids)
    rest = [user for user in there if user not in ids]

    def read(names: Sequence[str]) -> list[UserDataset]:
        return datasets.load_users(
            options.data,
            ids=names,
            engagements=options.engagements,
            held_out=options.rows,
            fewer=True,
            open_too=True,
        )

    return read(ids), read(rest[: options.pool]) if options.pool and rest else []


def split_into_shards(
    options: EvalOptions, users: Sequence[UserDataset], pool: list[UserDataset]
) -> Iterator[EvalShard]:
    """Groups of users, all of them with the first seed before any with the next."""
    for seed in options.numbers:
        for start in range(0, len(users), options.group):
            yield EvalShard(list(users[start : start + options.group]), pool, seed)


def server_settings(options: EvalOptions) -> dict[str, str]:
    """Of the server of a piece, by name without prefix: nothing is held out of training but the questions themselves,
    nothing trains by itself, no version is withdrawn for what is to be measured of it, and no adapter starts from
    another but where a recipe says so: nobody else is in a cohort that has one. No engagement is left out or given up
    for being unlikely, unless the caller's variables or options say otherwise."""
    variables = {name.removeprefix("MINDPRINT_"): value for name, value in os.environ.items() if _of_server(name)}
    recipes = recipes_for([ARMS[name] for name in options.arms])
    return {
        **EXHAUSTIVE_SETTINGS,
        **variables,
        "HOLDOUT_SHARE": "0",
        "COHORT_MIN_TRACES": NEVER,
        "MAX_ATTEMPTS": "1",
        "MAX_COLLAPSED": "null",
        "MAX_FAILED": "null",
        "START_FROM": "parent" if any(recipe.after for recipe in recipes) else "base",
        "GATE": str(options.gate).lower(),
        **options.server,
    }


ELSEWHERE = (
    "MINDPRINT_TRAIN_",
    "MINDPRINT_URL",
    "MINDPRINT_API_KEY",
    "MINDPRINT_CACHE",
    "MINDPRINT_DATA",
    "MINDPRINT_TEST",
)
"""Variables that say nothing of how a server answers."""


def _of_server(name: str) -> bool:
    return name.startswith("MINDPRINT_") and not name.startswith(ELSEWHERE)


def _decides(options: EvalOptions, piece: EvalShard) -> list[Any]:
    """What decides the outcomes of a piece beside its histories and its server's settings."""
    questions = [[user.user_id, [row.id for row in user.held_out]] for user in piece.users]
    decides = [questions, options.arms, asdict(options.thresholds), dict(options.objective), options.general]
    return [*decides, str(options.embeddings)] if options.embeddings else decides


def dataset_digest(folder: Path) -> str:
    """Of the three files of records."""
    found = hashlib.sha256()
    for name in datasets.FILE_NAMES:
        found.update((folder / name).read_bytes())
    return "sha256:" + found.hexdigest()


def root_cause(error: BaseException) -> BaseException:
    """The error itself, or of several the one that a person is told."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
