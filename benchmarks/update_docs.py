"""Write the figures of kept results into README.md and docs/. `--check` only says whether they are stale.

README gets five ratios. `docs/benchmarks/index.md` gets, for each file in `benchmarks/results/`, the command and each
bar with its value in every run. `docs/evidence/tables.md` gets the claims and arms of each report in `docs/evidence/`.
`benchmarks/README.md` lists the scripts with their newest values. `docs/reference/architectures.md` shows the newest
row of each architecture. `docs/operations/trust-tests.md` gets the kept reports of `make trust`.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from support import trust_table
from support.architecture_page import render as render_architectures

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
EVIDENCE = ROOT / "docs" / "evidence"
MARKS = "<!-- {0}: begin -->", "<!-- {0}: end -->"

RATIOS = (
    (
        "yield-cpu",
        "unvotes: engagements with an accepted trace a second",
        "engagements with an accepted trace a second, to those of a plain script",
    ),
    ("trainer-cpu", "trained tokens/s", "trained tokens a second, to those of TRL's `SFTTrainer`"),
    ("many_users-cpu", "adapters an hour", "adapters an hour, sixteen users together to one by one"),
    ("throughput-cpu", "(c)/(a)", "generated tokens a second, to those of offline `LLM.generate` without scores"),
    (
        "reload-cpu",
        "p99 time to first token",
        "p99 time to first token while versions go live, to that of a quiet server",
    ),
)
"""The five ratios of README: prefix of the result files, beginning of the bar's name, words for a reader."""


def ratios(results: Path) -> str:
    """Render the ratios of README as a Markdown table, with the values of all kept runs."""
    lines = ["| ratio, on two CPU cores | ratio in each run | target | runs that met it |", "|---|---|---|---|"]
    for prefix, name, words in RATIOS:
        runs = [json.loads(file.read_text()) for file in sorted(results.glob(f"{prefix}-*.json"))]
        bars = [next(bar for bar in run["bars"] if bar["name"].startswith(name)) for run in runs]
        values = ", ".join(f"{bar['value']:.3g}" for bar in bars)
        held = sum(bar["holds"] for bar in bars)
        lines.append(f"| {words} | {values} | {_wanted(bars[0])} | {held} of {len(bars)} |")
    return "\n".join(lines)


OLD_PREFIX = {"prefix_cache": "prefix"}
"""Result files that are named after an earlier name of their script."""
DURATION = re.compile(r'(?:measure\(__doc__, |takes = )"([^"]+)" if quick else "([^"]+)"')


def scripts(folder: Path, results: Path) -> str:
    """Render the page that lists the scripts: question, duration, and the first bar of the newest run on a CPU."""
    lines = [
        "| script | question | duration (`--quick`) | first bar, newest run on two CPU cores |",
        "|---|---|---|---|",
    ]
    for script in sorted(folder.glob("*.py")):
        text = script.read_text(encoding="utf-8")
        if (duration := DURATION.search(text)) is None:
            continue
        question = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
        prefix = OLD_PREFIX.get(script.stem, script.stem)
        runs = numbered(results, prefix)
        bars = runs[-1]["bars"] if runs else []
        value = f"{bars[0]['name']}: {bars[0]['value']:.3g} ({_wanted(bars[0])})" if bars else "none kept"
        lines.append(f"| `{script.name}` | {question} | {duration[2]} ({duration[1]}) | {value} |")
    about = (
        "Each script answers one question and runs alone: `python benchmarks/<script> [--quick] [--json FILE]`.\n"
        "[How to measure](../docs/benchmarks/how-to-measure.md) has the rules, and "
        "[Benchmarks](../docs/benchmarks/index.md) all\nkept runs. `support/` holds what scripts share, `peers/` what "
        "they compare with, `results/` the kept runs.\n"
        "`run_gpu_suite.py` runs those that a GPU is for, `update_docs.py` writes this page."
    )
    return "\n".join(["# Benchmarks", "", about, "", *lines]) + "\n"


def _wanted(bar: dict[str, Any]) -> str:
    return f"≥ {bar['at_least']}" if "at_least" in bar else f"≤ {bar['at_most']}"


ARCHITECTURES = "architecture_matrix"


def table(results: Path) -> str:
    """Markdown; runs of one benchmark are files of one name with a number at its end."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(results.glob("*.json")):
        run = json.loads(file.read_text())
        if run.get("name") == ARCHITECTURES:
            continue  # a later run replaces rows of earlier ones, on a page of its own
        early = " (ended early)" if run.get("ended_early") else ""
        runs[run["command"], _device(run) + early].append(run)
    lines = ["| what | value in each run | target | runs that met it |", "|---|---|---|---|"]
    for (command, device), same in sorted(runs.items(), key=lambda item: item[0][::-1]):
        lines.append(f"| **`{command}`**{device} | | | |")
        for bars in zip(*(run["bars"] for run in same), strict=True):
            values = ", ".join(f"{bar['value']:.3g}" for bar in bars)
            first = bars[0]
            held = sum(bar["holds"] for bar in bars)
            lines.append(f"| {first['name']} | {values} | {_wanted(first)} | {held} of {len(bars)} |")
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
    """Render the evidence page from the reports, the one with the most outcomes first.

    Folders below `tuning/` are not shown: they chose settings, or were reported before.
    """
    parts = [
        "# Evidence tables",
        "Generated from the reports by the script that writes all quoted figures. "
        "[Evidence](index.md) says what they mean, [Method](../explanation/method.md) what each arm is.",
    ]
    reports = sorted(folder.glob("*/report.md"), key=lambda report: -_outcomes(report.parent))
    for report in reports:
        text, name = report.read_text(encoding="utf-8"), report.parent.name
        parts += [f"## [{name}]({name}/report.md)", claims_paragraphs(text)]
        parts += ["### Claims", rows(text, "Claims"), "### Arms", rows(text, "Arms")]
        plot = report.parent / "figures" / "collapse.svg"
        if plot.exists():
            parts.append(f"![Accuracy against collapse, {name}]({name}/figures/{plot.name})")
    return "\n\n".join(parts) + "\n"


def _outcomes(folder: Path) -> int:
    file = folder / "outcomes.jsonl.gz"
    return file.stat().st_size if file.exists() else 0


def claims_paragraphs(report: str) -> str:
    """Return the first paragraph of the report's first section: what was measured, and on what."""
    _, _, rest = report.partition("## 1. ")
    return rest.split("\n\n")[1].strip()


def rows(report: str, title: str) -> str:
    """Return the table under a heading."""
    _, _, rest = report.partition(f"### {title}\n")
    lines = rest.strip().splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return "\n".join(line.rstrip() for line in lines[:end])


def between(readme: str, name: str, content: str) -> str:
    begin, end = (mark.format(name) for mark in MARKS)
    before, _, rest = readme.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{content}\n{end}{after}"


def pages(results: Path = RESULTS, evaluations: Path = EVIDENCE) -> dict[Path, str]:
    """Render every file that quotes figures, by its path."""
    readme, benchmarks = ROOT / "README.md", ROOT / "docs" / "benchmarks" / "index.md"
    trust = ROOT / "docs" / "operations" / "trust-tests.md"
    return {
        readme: between(readme.read_text(encoding="utf-8"), "benchmarks", ratios(results)),
        benchmarks: between(benchmarks.read_text(encoding="utf-8"), "benchmarks", table(results)),
        trust: between(trust.read_text(encoding="utf-8"), "kills", trust_table.kills(evaluations / "trust")),
        EVIDENCE / "tables.md": evidence(evaluations),
        ROOT / "benchmarks" / "README.md": scripts(ROOT / "benchmarks", results),
        ROOT / "docs" / "reference" / "architectures.md": render_architectures(numbered(results, ARCHITECTURES)),
    }


def numbered(results: Path, prefix: str) -> list[dict[str, Any]]:
    """Return the kept runs of a script on a CPU, the oldest first."""
    files = sorted(results.glob(f"{prefix}-cpu-*.json"), key=lambda file: int(file.stem.rpartition("-")[2]))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def stale(written: dict[Path, str]) -> list[Path]:
    """Return the files whose text differs from what is rendered now."""
    return [path for path, text in written.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main() -> int:
    written = pages()
    for path in (old := stale(written)):
        print(f"{'stale' if '--check' in sys.argv else 'written'}: {path.relative_to(ROOT)}")
        if "--check" not in sys.argv:
            path.write_text(written[path], encoding="utf-8")
    return int("--check" in sys.argv and bool(old))


if __name__ == "__main__":
    sys.exit(main())
