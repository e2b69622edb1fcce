"""Run an evaluation: split it into shards, run those that are not done, and write tables and report."""

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
from mindprint.valid_ids import user_name
from mindprint_eval import results
from mindprint_eval.arms import ARMS
from mindprint_eval.baselines import answer_with_baselines
from mindprint_eval.config import EvalOptions, EvaluationError
from mindprint_eval.response_cache import ResponseCache, content_digest
from mindprint_eval.shard import EvalShard, ShardResult, ShardServer, recipes_for, run_shard

NEVER = "1000000"
EXPECTED = (
    EvaluationError,
    datasets.DatasetError,
    model_files.MissingModel,
    ProcessFailed,
    MindprintError,
)
"""Errors that are shown as one line."""


def run_eval(options: EvalOptions) -> int:
    """Run an evaluation. Started again with the same folder, it sends only what is new.

    Returns:
        The exit code: 0, 1 (the evaluation cannot go on) or 130 (interrupted).
    """
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
    shards = list(split_into_shards(options, users, pool))
    out.say(
        f"{len(users)} users, {options.rows} rows, {options.engagements} engagements each, "
        f"{options.seeds} seed(s): {len(shards)} shard(s) in {options.out}"
    )
    model = await asyncio.to_thread(model_files.resolve, options.model)
    found, infos = [], []
    with ResponseCache(options.out / "answers.jsonl") as cache:
        for number, shard in enumerate(shards, 1):
            out.say(f"shard {number} of {len(shards)}: {', '.join(u.user_id for u in shard.users)}, seed {shard.seed}")
            one, info = await _run_shard(options, out, cache, shard, model)
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


async def _run_shard(
    options: EvalOptions, out: Output, cache: ResponseCache, shard: EvalShard, model: Path
) -> tuple[ShardResult, ServerInfo]:
    settings = server_settings(options)
    folder = options.out / "pieces" / content_digest([shard.histories, shard.seed, settings, str(model)])[:12]
    folder.mkdir(parents=True, exist_ok=True)
    # The server stays down if there is nothing to ask it.
    done = folder / f"done-{content_digest(_decides(options, shard))[:12]}.json"
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
            shard_server = ShardServer(client, cluster, info, settings)
            found = await while_running(server, run_shard(options, shard, shard_server, cache, out))
    if not any(row.outcome == "failed" and row.item for row in found.outcomes):
        kept = {"info": info.model_dump(mode="json"), **asdict(found)}
        done.with_suffix(".part").write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
        done.with_suffix(".part").replace(done)
    return found, info


def _same_base(options: EvalOptions, info: ServerInfo) -> None:
    """Raise EvaluationError if the evaluation began with another base model."""
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
    """Write the tables of all shards as one evaluation, and return its folder.

    Args:
        options: Options of the evaluation.
        users: The users who were asked.
        found: The results of the shards.
        info: What a server said about itself.
    """
    folder = options.out
    rows = [row for shard in found for row in shard.outcomes]
    rows += answer_with_baselines(list(users), 0)  # they know no chance: one seed is all
    results.write_outcomes(rows, folder / "outcomes.jsonl.gz")
    results.write_ndjson((row for shard in found for row in shard.candidates), folder / "candidates.jsonl.gz")
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
        "adapters": [row for shard in found for row in shard.adapters],
    }
    (folder / "evaluation.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


# --- pure -------------------------------------------------------------------------------


def select_users(options: EvalOptions) -> tuple[list[UserDataset], list[UserDataset]]:
    """Return the users who are asked, and others whose answers train the pooled adapter.

    Raises:
        DatasetError: The dataset has too few users, or a file is wrong.
    """
    if not options.ids:
        there = datasets.list_user_ids(options.data)
        part = {"all": there, "tune": there[::2], "report": there[1::2]}[options.part]
        ids = part[: options.users]
        if len(ids) < options.users:
            raise datasets.DatasetError(
                f"{options.data} has {len(ids)} users in part {options.part!r}: ask for fewer than {options.users}"
            )
    else:
        there, ids = datasets.list_user_ids(options.data), [user_name(id) for id in options.ids]
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
    """Yield groups of users: all groups with the first seed, then all with the next.

    Args:
        options: Options of the evaluation.
        users: The users who are asked.
        pool: Other users, the same for each shard.
    """
    for seed in options.numbers:
        for start in range(0, len(users), options.group):
            yield EvalShard(list(users[start : start + options.group]), pool, seed)


def server_settings(options: EvalOptions) -> dict[str, str]:
    """Return the settings of a shard's server, by variable name without prefix.

    Nothing is held out of training but the questions themselves. Nothing trains by itself. No version is withdrawn.
    Adapters start from the base model unless a recipe says otherwise. No engagement is left out or stopped early,
    unless the environment or the options say otherwise.
    """
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
        "START_FROM": "parent" if any(recipe.start_from for recipe in recipes) else "base",
        "GATE": str(options.gate).lower(),
        **options.server,
    }


ELSEWHERE = (
    "MINDPRINT_TRAIN_",
    "MINDPRINT_URL",
    "MINDPRINT_API_KEY",
    "MINDPRINT_ADMIN_KEY",
    "MINDPRINT_DATABASE_URL",
    "MINDPRINT_CACHE",
    "MINDPRINT_DATA",
    "MINDPRINT_TEST",
)
"""Prefixes of variables that do not change how a server answers, or that hold a secret: settings are recorded."""


def _of_server(name: str) -> bool:
    return name.startswith("MINDPRINT_") and not name.startswith(ELSEWHERE)


def _decides(options: EvalOptions, shard: EvalShard) -> list[Any]:
    """Return what decides the outcomes of a shard besides its histories and its server's settings."""
    questions = [[user.user_id, [row.id for row in user.held_out]] for user in shard.users]
    decides = [questions, options.arms, asdict(options.thresholds), dict(options.objective), options.general]
    return [*decides, str(options.embeddings)] if options.embeddings else decides


def dataset_digest(folder: Path) -> str:
    """Return the SHA-256 of the three files of a dataset folder."""
    found = hashlib.sha256()
    for name in datasets.FILE_NAMES:
        found.update((folder / name).read_bytes())
    return "sha256:" + found.hexdigest()


def root_cause(error: BaseException) -> BaseException:
    """Return the error itself, or the first error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
