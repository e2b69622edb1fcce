"""Puts the newest results into README.md, between its marks. `--check`: only says if they differ.

Of each file in benchmarks/results/: the command, and each bar with its value in every run kept. Of each evaluation in
docs/evidence/: what its report says of the claims and of the arms.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
EVIDENCE = ROOT / "docs" / "evidence"
MARKS = "<!-- {0}: begin -->", "<!-- {0}: end -->"


def table(results: Path) -> str:
    """Markdown; runs of one benchmark are files of one name with a number at its end."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(results.glob("*.json")):
        run = json.loads(file.read_text())
        early = " (ended early)" if run.get("ended_early") else ""
        runs[run["command"], _device(run) + early].append(run)
    lines = ["| what | runs | wanted | holds |", "|---|---|---|---|"]
    for (command, device), same in sorted(runs.items(), key=lambda item: item[0][::-1]):
        lines.append(f"| **`{command}`**{device} | | | |")
        for bars in zip(*(run["bars"] for run in same), strict=True):
            values = ", ".join(f"{bar['value']:.3g}" for bar in bars)
            first = bars[0]
            wanted = f"≥ {first['at_least']}" if "at_least" in first else f"≤ {first['at_most']}"
            held = sum(bar["holds"] for bar in bars)
            lines.append(f"| {first['name']} | {values} | {wanted} | {held} of {len(bars)} |")
    lines += ["", "; ".join(dict.fromkeys(_machine(run) for same in runs.values() for run in same)) + "."]
    return "\n".join(lines)


def _machine(run: dict[str, Any]) -> str:
    machine, versions = run["machine"], run["versions"]
    engine = ", ".join(f"{name} {version}" for name, version in versions.items() if name.startswith(("vllm", "torch")))
    return f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB{_device(run)} ({engine})"


def _device(run: dict[str, Any]) -> str:
    device = run["machine"]["device"]
    return "" if device in ("cpu", "none") else f", {device}"


def evidence(folder: Path) -> str:
    """Markdown, from the reports, the one with the most outcomes first.

    What settings were chosen by (`tuning/tuning-...`), and earlier reports (`tuning/former-...`), are only named.
    """
    parts: list[str] = []
    tuning: list[str] = []
    former: list[str] = []
    for report in sorted(folder.glob("tuning/*/report.md")):
        named = tuning if report.parent.name.startswith("tuning-") else former
        named.append(f"[{report.parent.name}](docs/evidence/tuning/{report.parent.name}/report.md)")
    quoted = folder.glob("*/report.md")
    for report in sorted(quoted, key=lambda report: -(report.parent / "outcomes.jsonl.gz").stat().st_size):
        text, where = report.read_text(encoding="utf-8"), f"docs/evidence/{report.parent.name}"
        parts += [f"**[{report.parent.name}]({where}/report.md)**", told(text)]
        parts += [rows(text, "Claims"), rows(text, "Arms")]
        plot = report.parent / "figures" / "collapse.svg"
        if plot.exists():
            parts.append(f"![Accuracy against collapse, {report.parent.name}]({where}/figures/{plot.name})")
    if former:
        parts.append(f"Reported before, with other settings and on other users: {', '.join(former)}.")
    if tuning:
        parts.append(f"What the settings were chosen by: {', '.join(tuning)}.")
    return "\n\n".join(parts)


def told(report: str) -> str:
    """What was asked, and of what: the first paragraph."""
    _, _, rest = report.partition("## 1. ")
    return rest.split("\n\n")[1].strip()


def rows(report: str, title: str) -> str:
    """The table under a heading."""
    _, _, rest = report.partition(f"### {title}\n")
    lines = rest.strip().splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return "\n".join(line.rstrip() for line in lines[:end])


def between(readme: str, name: str, content: str) -> str:
    begin, end = (mark.format(name) for mark in MARKS)
    before, _, rest = readme.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{content}\n{end}{after}"


def quoted(readme: str, results: Path, evaluations: Path) -> str:
    return between(between(readme, "benchmarks", table(results)), "evidence", evidence(evaluations))


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    new = quoted(text, RESULTS, EVIDENCE)
    if "--check" in sys.argv:
        return int(new != text)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
