"""Runs the demo: checks what is needed, starts the processes, goes through the stages, reports, ends everything."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.panel import Panel
from rich.text import Text

from mindprint import AsyncMindprintClient, MindprintError, datasets, doctor, model_files
from mindprint.local.cluster import POLL_S, LocalCluster
from mindprint.local.console import Output, opened
from mindprint.local.processes import ProcessFailed, cancel_on_signals, while_running
from mindprint_demo import report, synthetic
from mindprint_demo.collapse import run_collapse
from mindprint_demo.errors import DemoError
from mindprint_demo.options import DemoOptions
from mindprint_demo.pipeline import SERVER_SETTINGS, DemoPipeline
from mindprint_demo.results import DemoResults

T = TypeVar("T")
INTERRUPTED = 130


def run_demo(options: DemoOptions) -> int:
    """Run the whole loop once. Return 0, 1 (failed, or a trace is lost or trained twice) or 130 (interrupted).

    However it ends, no process is left running; the logs and the store stay in `work_dir`.
    """
    with opened(options.transcript) as out:
        try:
            return _run(options, out)
        except (KeyboardInterrupt, asyncio.CancelledError):
            out.say("all processes have been stopped")
            return INTERRUPTED
        except (datasets.DatasetError, model_files.MissingModel, DemoError, ProcessFailed, MindprintError) as error:
            out.say(f"error: {error}")
            return 1


def _run(options: DemoOptions, out: Output) -> int:
    if missing := doctor.missing_packages():
        raise DemoError(f"{', '.join(missing)} not installed: run `make setup`")
    folder = create_run_folder(options.work_dir, options.keep_runs)
    users = _users(options, folder)
    out.say(Panel(Text(_introduction(options, users, folder)), title="Mindprint demo", title_align="left"))
    with LocalCluster(folder, output=out) as cluster:
        try:
            results = asyncio.run(cancel_on_signals(_loop(options, out, cluster, users)))
        except (KeyboardInterrupt, asyncio.CancelledError):
            out.say("interrupted: stopping all processes")
            raise
    for table in report.result_tables(results):
        out.say(table)
    if options.json_file is not None:
        options.json_file.parent.mkdir(parents=True, exist_ok=True)
        options.json_file.write_text(json.dumps(_document(options, results), indent=2) + "\n", encoding="utf-8")
    problems = report.find_problems(results)
    for problem in problems:
        out.say(f"problem: {problem}")
    return 1 if problems else 0


async def _loop(
    options: DemoOptions, out: Output, cluster: LocalCluster, users: list[datasets.UserDataset]
) -> DemoResults:
    model = await _model(options.model, cluster, out)
    server = await cluster.start_server(model, SERVER_SETTINGS, timeout_s=options.start_timeout_s)
    async with AsyncMindprintClient(cluster.url) as client:
        pipeline = DemoPipeline(options, out, client, cluster)
        return await while_running(server, pipeline.run(users, run_collapse if options.collapse else None))


async def _model(name: str, cluster: LocalCluster, out: Output) -> Path:
    """Return the model's folder. Another process prepares the default one, so that torch takes no memory here."""
    if name == model_files.DEFAULT and not model_files.default_path().is_dir():
        child = cluster.processes.start("model", ["mindprint.model_files"], {})
        with out.bar("model") as bar:
            while child.running():
                bar.update(0, "preparing the default model (once)")
                await asyncio.sleep(POLL_S)
            if not model_files.default_path().is_dir():
                child.check()
            bar.finish("prepared")
    return model_files.resolve(name)


def _users(options: DemoOptions, folder: Path) -> list[datasets.UserDataset]:
    data = options.data
    if data is None:
        data = folder / "data"
        synthetic.write_dataset(data, options.users, options.engagements, options.held_out, options.seed)
    return datasets.load_users(
        data,
        users=options.users,
        engagements=options.engagements,
        held_out=options.held_out,
        seed=options.seed,
        ids=options.ids,
    )


def _introduction(options: DemoOptions, users: list[datasets.UserDataset], folder: Path) -> str:
    source = f"records of {options.data}" if options.data else f"users made from seed {options.seed}"
    return (
        f"{len(users)} users ({', '.join(user.user_id for user in users)}), {source}\n"
        f"{options.engagements} engagements and {options.held_out} later questions each; model {options.model}\n"
        + ("then one user's adapter is trained by answers only, for the gate to refuse\n" if options.collapse else "")
        + f"logs, store and adapters: {folder}"
    )


def create_run_folder(work_dir: Path, keep: int) -> Path:
    """Create a folder for this run, and keep only the newest `keep - 1` of the older ones."""
    older = sorted(work_dir.glob("run-*"))
    for folder in older[: max(0, len(older) - max(keep, 1) + 1)]:
        shutil.rmtree(folder, ignore_errors=True)
    folder = work_dir / f"run-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    folder.mkdir(parents=True)
    return folder


def _document(options: DemoOptions, results: DemoResults) -> dict[str, Any]:
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    return {
        "name": "demo",
        "command": " ".join(["mindprint", *sys.argv[1:]]),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": doctor.machine(),
        "versions": doctor.versions(),
        "options": settings,
        **report.results_json(results),
    }
