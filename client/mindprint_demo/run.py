"""Runs the demo: checks what is needed, starts the processes, goes through the stages, reports, ends everything."""

from __future__ import annotations

import asyncio
import json
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
from mindprint_demo import report, run_folders, synthetic
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
    stopped = None if options.resume else run_folders.find_stopped_run(options)
    folder = run_folders.resumed_run_folder(options) if options.resume else run_folders.create_run_folder(options)
    if stopped is not None:
        out.say(f"{stopped} was stopped before its end: to go on with it, stop this run now, and give --resume")
    with run_folders.hold(folder):
        return _run_in(folder, options, out)


def _run_in(folder: Path, options: DemoOptions, out: Output) -> int:
    users = _users(options, folder)
    out.say(Panel(Text(_introduction(options, users, folder)), title="Mindprint demo", title_align="left"))
    results = _results(options, out, folder, users)
    run_folders.mark_finished(folder, options)
    for table in report.result_tables(results):
        out.say(table)
    if options.json_file is not None:
        options.json_file.parent.mkdir(parents=True, exist_ok=True)
        options.json_file.write_text(json.dumps(_document(options, results), indent=2) + "\n", encoding="utf-8")
    problems = report.find_problems(results)
    for problem in problems:
        out.say(f"problem: {problem}")
    out.say(Text(report.next_steps(options, results, folder)))
    return 1 if problems else 0


def _results(options: DemoOptions, out: Output, folder: Path, users: list[datasets.UserDataset]) -> DemoResults:
    """Run all steps; where one ends too early, say how to go on."""
    with LocalCluster(folder, output=out) as cluster:
        try:
            return asyncio.run(cancel_on_signals(_loop(options, out, cluster, users)))
        except (KeyboardInterrupt, asyncio.CancelledError):
            out.say("interrupted: stopping all processes")
            _say_how_to_go_on(options, out, folder)
            raise
        except ProcessFailed:
            _say_how_to_go_on(options, out, folder)
            raise


def _say_how_to_go_on(options: DemoOptions, out: Output, folder: Path) -> None:
    """Say it where the run that --resume takes is this one."""
    if run_folders.has_begun(folder) and run_folders.can_go_on(options):
        out.say(f"what is done stays in {folder}: the same command with --resume goes on with it")


async def _loop(
    options: DemoOptions, out: Output, cluster: LocalCluster, users: list[datasets.UserDataset]
) -> DemoResults:
    model = await _model(options.model, cluster, out)
    server = await cluster.start_server(model, SERVER_SETTINGS, timeout_s=options.start_timeout_s)
    run_folders.mark_begun(cluster.folder, options)
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
