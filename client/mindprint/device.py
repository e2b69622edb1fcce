"""Choose the dtype that suits this CPU. Server and trainer use it before they load torch, so it imports little."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU has bfloat16 arithmetic; False if that cannot be read."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    lines = (line for line in text.splitlines() if line.lower().startswith(("flags", "features")))
    return any(not _BF16_FLAGS.isdisjoint(line.split()) for line in lines)


def cpu_dtype() -> Literal["bfloat16", "float32"]:
    """Return the fastest dtype on this CPU: emulated bfloat16 is 2.4 times slower than float32 (decisions/001)."""
    return "bfloat16" if cpu_has_bf16() else "float32"
