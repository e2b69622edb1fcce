"""Puts the newest results of the benchmarks into README.md, between its two marks. `--check`: only says if they differ.

Of each file in benchmarks/results/: the command, and each bar with its value in every run kept.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def table(results: Path) -> str:
    """Markdown; runs of one benchmark are files of one name with a number at its end."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(results.glob("*.json")):
        run = json.loads(file.read_text())
        runs[run["command"]].append(run)
    lines = ["| what | runs | wanted | holds |", "|---|---|---|---|"]
    for command, same in sorted(runs.items()):
        lines.append(f"| **`{command}`** | | | |")
        for bars in zip(*(run["bars"] for run in same), strict=True):
            values = ", ".join(f"{bar['value']:.3g}" for bar in bars)
            first = bars[0]
            wanted = f"≥ {first['at_least']}" if "at_least" in first else f"≤ {first['at_most']}"
            held = sum(bar["holds"] for bar in bars)
            lines.append(f"| {first['name']} | {values} | {wanted} | {held} of {len(bars)} |")
    newest = [same[-1] for same in runs.values()]
    told = next((run for run in newest if run["machine"]["device"] != "none"), newest[0])
    machine, versions = told["machine"], told["versions"]
    engine = ", ".join(f"{name} {version}" for name, version in versions.items() if name.startswith(("vllm", "torch")))
    where = f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, device {machine['device']}"
    lines += ["", f"{where}; {engine}."]
    return "\n".join(lines)


def quoted(readme: str, results: Path) -> str:
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(results)}\n{END}{after}"


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text()
    new = quoted(text, RESULTS)
    if "--check" in sys.argv:
        return int(new != text)
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
