"""Write the report of one evaluation: report.html, which needs no other file, report.md, and figures/*.svg.

All of it is computed from the tables of the folder. The same tables give the same bytes.
"""

from __future__ import annotations

import hashlib
import html
import re
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from mindprint_eval.report import analysis, examples, table
from mindprint_eval.report.analysis import Analysis
from mindprint_eval.report.figures import style
from mindprint_eval.report.figures.captions import report_figures
from mindprint_eval.report.tables import arms, comparisons, provenance

TITLES = (
    "What was asked, and of what",
    "What the claims say",
    "The arms",
    "Comparisons",
    "Plots",
    "Does the answer follow from the thinking?",
    "Traces side by side",
    "Candidates and adapters",
    "Settings, versions, digests",
)
TABLES = ("evaluation.json", "outcomes.jsonl.gz", "candidates.jsonl.gz", "questions.jsonl.gz")
SHOWN_ELSEWHERE = ("arms", "adapters", "settings", "machine", "versions", "name", "command")
"""Entries of evaluation.json that do not stand in the table of what was run."""


def write_report(folder: Path) -> Path:
    """Write the report into an evaluation's folder, and return the path of report.html.

    Raises:
        FileNotFoundError: The folder holds no evaluation.
    """
    shown = template_context(analysis.load_analysis(folder), folder)
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    for plate in shown["plates"]:
        file = figures / f"{plate.name}.svg"
        if plate.drawn:
            file.write_text(style.standalone_svg(plate.drawn), encoding="utf-8")
        else:
            file.unlink(missing_ok=True)  # of an earlier report
    for name in ("report.md", "report.html"):
        page = _environment().get_template(f"{name}.j2").render(shown)
        (folder / name).write_text(page, encoding="utf-8")
    return folder / "report.html"


def template_context(found: Analysis, folder: Path) -> dict[str, Any]:
    """Return what both templates show."""
    about, adapters = found.about, found.about.get("adapters", [])
    return {
        "name": about.get("name", folder.name),
        "made_at": about.get("made_at", "an unknown time"),
        "titles": TITLES,
        "asked": [describe_sample(found), *comparisons.sample_notes(found)],
        "claims": arms.claims_table(found),
        "arms": [
            arms.arms_table(found),
            provenance.missing_table(found.outcomes),
            arms.seen_table(found),
            arms.kinds_table(found),
            comparisons.choice_order_table(found),
        ],
        "comparisons": [comparisons.comparison_table(found), comparisons.anchor_table(found)],
        "plates": report_figures(found),
        "faithfulness": [
            comparisons.faithfulness_table(found),
            comparisons.rationale_table(found),
            *comparisons.similarity_tables(found),
        ],
        "rule": examples.SELECTION_RULE,
        "chosen": examples.select_examples(found.outcomes, about.get("users", []), found.queries),
        "no_traces": f"Not measured: no user has questions that both {examples.ONE} and {examples.OTHER} answered.",
        "whats": found.whats,
        "making": [
            provenance.funnel_table(found.candidates),
            provenance.score_table(found.candidates),
            provenance.adapter_summary(adapters),
        ],
        "adapters": provenance.adapter_table(adapters),
        "settings": [
            provenance.settings_table(
                "Run", {name: value for name, value in about.items() if name not in SHOWN_ELSEWHERE}
            ),
            *(
                provenance.settings_table(part.capitalize(), about.get(part) or {})
                for part in ("settings", "machine", "versions")
            ),
            provenance.settings_table("SHA-256 of the tables", table_digests(folder)),
        ],
        "command": about.get("command") or "not recorded",
        "recompute": recompute_command(folder),
        "figure": table.format_number,
    }


def describe_sample(found: Analysis) -> str:
    """Say in a few sentences what the evaluation was."""
    about, answers = found.about, found.answers
    questions = len(answers[["user", "item"]].drop_duplicates())
    lost = int((~answers["answered"].astype(bool)).sum())
    baselines = f", and by the baselines {', '.join(found.baselines)}" if found.baselines else ""
    return (
        f"{_count(answers['user'].nunique(), 'user')} of {about.get('data', 'unnamed records')} (part: "
        f"{about.get('part', 'not recorded')}), each known by {about.get('engagements', 'an unknown number of')} past "
        f"engagements, were put {_count(questions, 'later question')} in all. They were answered by "
        f"{', '.join(found.arms) or 'no arm'}{baselines}, with {_count(answers['seed'].nunique(), 'seed')}, on the "
        f"model {about.get('model', 'not recorded')}: {_count(len(answers), 'answer')} asked for, {lost} missing. "
        f"The tables hold {_count(len(found.outcomes), 'outcome')} and {_count(len(found.candidates), 'candidate')}."
    )


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def table_digests(folder: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() if (folder / name).exists() else "not there"
        for name in TABLES
    }


def recompute_command(folder: Path) -> str:
    """To be run beside the folder."""
    return f"mindprint eval report {shlex.quote(folder.resolve().name)}"


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("mindprint_eval.report"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"md": escape_markdown, "fenced": fence_text, "together": keep_percent_together}
    return made


def escape_markdown(text: object) -> str:
    """One line that is read as it stands: no markup, no HTML, no end of a table's cell."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*|_]|\[(?=[^\]]*\]\())", r"\\\1", line)


def keep_percent_together(text: str) -> str:
    """No line breaks between a number and its percent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def fence_text(text: str) -> str:
    """As a block that the text cannot end."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text.rstrip()}\n{fence}"
