"""Environments of the clients: their pins conflict with each other's, so that each has a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLACE = ROOT / ".mindprint" / "clients"
NODE_FILES = ("package.json", "package-lock.json", "openai_node.mjs")


class MissingProgram(Exception):
    """A program that a client needs is not installed."""


@dataclass(frozen=True)
class Environment:
    """Where one client runs.

    Attributes:
        title: The client's name, for a reader.
        module: Its module here.
        pins: The file with its pinned packages, without `.txt`; None is this process's own environment.
        settings: What it needs of the server, by variable name without `MINDPRINT_`.
    """

    title: str
    module: str
    pins: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def install(self) -> list[str]:
        """Install what is not there yet, and return the command that tries the client.

        Raises:
            subprocess.CalledProcessError: The packages could not be installed.
        """
        python = Path(sys.executable) if self.pins is None else _install(self.pins)
        return [str(python), str(HERE / "one_client.py"), self.module]


class NodeEnvironment(Environment):
    """Where the client for Node runs."""

    def install(self) -> list[str]:
        """Copy the program beside its packages, and return the command that tries the client.

        Raises:
            MissingProgram: There is no `npm`.
        """
        if shutil.which("npm") is None:
            raise MissingProgram("npm is not installed")
        folder = PLACE / "node"
        if _has_changed(folder, HERE / "node" / "package-lock.json"):
            folder.mkdir(parents=True)
            for name in NODE_FILES:
                shutil.copy(HERE / "node" / name, folder)
            subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True)
            _finish(folder, HERE / "node" / "package-lock.json")
        shutil.copy(HERE / "node" / "openai_node.mjs", folder)
        return ["node", str(folder / "openai_node.mjs")]


ENVIRONMENTS: Mapping[str, Environment] = {
    "openai-python": Environment("openai (Python)", "openai_python"),
    "openai-node": NodeEnvironment("openai (Node)", "openai_node"),
    "litellm": Environment("LiteLLM", "litellm_sdk", "litellm"),
    "langchain": Environment("LangChain", "langchain_chat", "langchain"),
    "llm": Environment("llm", "llm_command", "llm"),
    "lm-eval": Environment("lm-eval", "lm_eval_harness", "lm_eval"),
    # It loses the events behind a comment: `findings/vllm-bench-comment.sh`.
    "vllm-bench": Environment("vLLM bench", "vllm_bench", settings={"STREAM_MAX_SILENCE_S": "600"}),
    "guidellm": Environment("GuideLLM", "guidellm_bench", "guidellm"),
}


def _install(pins: str) -> Path:
    folder, wanted = PLACE / pins, HERE / "pins" / f"{pins}.txt"
    python = folder / "bin" / "python"
    if _has_changed(folder, wanted):
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", "--no-deps", "-r", str(wanted)], check=True)
        _finish(folder, wanted)
    return python


def _has_changed(folder: Path, wanted: Path) -> bool:
    """Return whether a folder was not made from a file of pins; if so, what lies there is removed."""
    made_from = folder / "made-from"
    if made_from.exists() and made_from.read_text() == wanted.read_text():
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _finish(folder: Path, wanted: Path) -> None:
    (folder / "made-from").write_text(wanted.read_text())
