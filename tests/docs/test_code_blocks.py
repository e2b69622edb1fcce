"""The python and bash blocks of tutorial and how-to pages run, page by page, on a server with the fake engine.

Blocks that ask for a chat need a real engine: `tests/e2e/test_loop.py` runs those of README and of the tutorial.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import doc_pages
from doc_pages import DOCS, ROOT
from mindprint import MindprintClient, MindprintError, Retries
from tiny import make_model

RUN = [
    page
    for folder in ("tutorial", "how-to")
    for page in sorted((DOCS / folder).glob("*.md"))
    if any(block.language in ("python", "bash") for block in doc_pages.blocks(page))
]
DEFAULT_URL = "http://127.0.0.1:8300"
START_S = 60.0


ADMIN_KEY = "the-admin-key-of-the-server-of-the-page-on-keys"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server process without a real engine and without keys."""
    with serving(tmp_path_factory.mktemp("docs"), {}) as url:
        yield url


@pytest.fixture(scope="module")
def url_with_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another one that asks for a key."""
    with serving(tmp_path_factory.mktemp("docs"), {"MINDPRINT_ADMIN_KEY": ADMIN_KEY}) as url:
        yield url


@contextlib.contextmanager
def serving(folder: Path, variables: dict[str, str]) -> Iterator[str]:
    """Run a server while the block runs, and yield its address."""
    flags = ["--port", "0", "--model", str(make_model(folder / "model")), "--data-dir", str(folder / "data")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mindprint", "serve", *flags, "--set", "engine=fake"],
            env=environment() | variables,
            stderr=log,
            cwd=folder,
        )
        try:
            yield ready(server, folder / "log")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def ready(server: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the server and return its address, which it logs."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"listening.*?(http://127\.0\.0\.1:\d+)", log.read_text(encoding="utf-8")):
            with contextlib.suppress(MindprintError), MindprintClient(found[1], retries=Retries(attempts=1)) as client:
                if client.ready():
                    return found[1]
        time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{log.read_text(encoding='utf-8')}")


def environment() -> dict[str, str]:
    """This environment, with the command and the packages of this checkout."""
    paths = [str(ROOT / part) for part in ("client", "server", "trainer")]
    bin_folder = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
    }


@pytest.mark.parametrize("page", RUN, ids=doc_pages.name)
def test_blocks_of_a_page_run(page: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    keys = page.name in ("use-api-keys.md", "open-to-two-teams.md")
    url = request.getfixturevalue("url_with_keys" if keys else "url")
    variables = {"MINDPRINT_URL": url} | ({"MINDPRINT_API_KEY": ADMIN_KEY} if keys else {})
    for block in doc_pages.blocks(page):
        if block.language not in ("python", "bash") or "openai" in block.code:
            continue
        command = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
        done = subprocess.run(
            [*command, block.code.replace(DEFAULT_URL, url).replace("/tmp/", f"{tmp_path}/")],
            env=environment() | variables,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            timeout=120,
        )
        assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), f"says nothing:\n{block.code}"
