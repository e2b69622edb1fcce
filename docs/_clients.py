"""Render the page of the clients that were run, from the file that `make clients` keeps."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from _markdown import page, table

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "clients")]

from surface import FEATURES  # noqa: E402

KEPT = ROOT / "docs" / "evidence" / "clients.json"
ABOUT = (
    "Each client called a real server, with a tiny model of random weights. `make clients` installs each client in an "
    "environment of its own, runs all features again and rewrites this page's figures. "
    "[Call it with OpenAI's clients](../how-to/call-with-openai-clients.md) says how to set a client up.\n\n"
    "The figures are of several runs on one day: each cell is the last one that was seen. "
    "`yes`: seen to work. `partly`: answered, but not seen whole. `refused`: the server refused it, and the client "
    "showed the reason. **`no`**: did not work. `not run`: not seen yet. An empty cell: the client has no such call."
)


def clients(file: Path = KEPT) -> str:
    """Render the matrix of clients and features, the versions, and the reasons."""
    found = json.loads(file.read_text(encoding="utf-8"))
    return page("Clients", ABOUT, _parts(found["clients"], found["server"]))


def _parts(seen: Mapping[str, Any], server: Mapping[str, str]) -> Iterator[str]:
    columns = " | ".join(["feature", *(client["title"] for client in seen.values())])
    rows = ((words, *(_cell(client, name) for client in seen.values())) for name, words in FEATURES.items())
    yield table(columns, rows)
    yield "## Versions"
    yield table("client | packages", ((client["title"], _versions(client["versions"])) for client in seen.values()))
    yield f"Server: {_versions(server)}."
    yield "## What is not a yes"
    yield table(
        "client | feature | seen | why",
        (
            (client["title"], FEATURES[name], _cell(client, name), result["why"])
            for client in seen.values()
            for name, result in client["features"].items()
            if "why" in result
        ),
    )


def _cell(client: Mapping[str, Any], feature: str) -> str:
    result = client["features"].get(feature, {"result": ""})["result"]
    return "**no**" if result == "no" else result


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
