"""The demo's tables and its JSON: what was made, what it changed, and how sure that is."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mindprint.datasets import UserDataset
from mindprint.model_files import DEFAULT
from mindprint.types import Adapter, Funnel, Mode, Version
from mindprint.types.keys import AdapterKey
from mindprint_demo import gate_tables
from mindprint_demo.comparison import (
    AnswerPair,
    Change,
    Comparison,
    compare_arms,
    hidden_rule_accuracy,
    majority_accuracy,
    pair_answers,
)
from mindprint_demo.options import DemoOptions
from mindprint_demo.results import DemoResults

MODE_LABELS: dict[Mode, str] = {"direct": "answering directly", "personal": "after personal thinking"}


def result_tables(results: DemoResults) -> Iterator[RenderableType]:
    """Everything that is printed at the end, in order."""
    yield production_table(results)
    if versions := gate_tables.list_versions([*results.cohorts, *results.adapters.values()]):
        yield gate_tables.checks_table("What the gate found", versions)
    modes: tuple[Mode, ...] = ("direct", "personal")
    for mode in modes:
        if any(results.before.of(user.user_id, mode) for user in results.users):
            yield change_table(results, mode)
            yield Text(summary_sentence(results, mode) + "\n")
    if results.collapse is not None:
        yield from gate_tables.collapse_tables(results.collapse)
    yield closing_lines(results)


def production_table(results: DemoResults) -> Table:
    """One line a user: engagements, funnel by reason, adapter and its proof; the whole server last."""
    table = Table(title="What was made", title_justify="left")
    names = (
        "user",
        "engagements",
        "written",
        "rejected",
        "accepted",
        "trained",
        "adapter",
        "parity",
        "tokens generated",
    )
    for name in names:
        left = name in ("user", "rejected", "parity")
        table.add_column(name, justify="left" if left else "right", no_wrap=name in ("rejected", "parity"))
    for user in results.users:
        funnel = results.funnels[user.user_id]
        version = live_version(results.adapters.get(user.user_id))
        table.add_row(
            user.user_id,
            str(len(user.engagements)),
            *funnel_cells(funnel),
            adapter_cell(results.adapters.get(user.user_id)),
            parity_cell(version),
            f"{results.tokens[user.user_id]:,}",
        )
    table.add_section()
    table.add_row(
        "all",
        str(sum(len(user.engagements) for user in results.users)),
        *funnel_cells(results.batch.funnel.model_copy(update={"trained": results.accounting.trained})),
        f"{sum(adapter.live is not None for adapter in results.adapters.values())} live",
        "",
        f"{results.batch.generated_tokens:,}\n{results.batch.tokens_per_second:.0f}/s",
    )
    return table


def funnel_cells(funnel: Funnel) -> tuple[str, str, str, str]:
    """Candidates, those rejected by reason, accepted, trained."""
    reasons = sorted(funnel.rejected.items(), key=lambda item: -item[1])
    rejected = "\n".join(f"{count} {reason.replace('_', ' ')}" for reason, count in reasons) or "none"
    return str(funnel.generated), rejected, str(funnel.accepted), str(funnel.trained)


def parity_cell(version: Version | None) -> str:
    """Compare the engine with the trainer and with the base model, in nats a token."""
    if version is None or version.parity is None:
        return ""
    proof = version.parity
    told = f"{proof.against_trainer:.3f} off trainer\n{proof.against_base:.3f} off base"
    return f"{'passed' if proof.passed else 'FAILED'}\n{told}"


def adapter_cell(adapter: Adapter | None) -> str:
    if version := live_version(adapter):
        return f"v{version.version}"
    return "refused" if adapter and gate_tables.refused_versions([adapter]) else "none"


def live_version(adapter: Adapter | None) -> Version | None:
    if adapter is None or adapter.live is None:
        return None
    return next(version for version in adapter.versions if version.version == adapter.live)


def change_table(results: DemoResults, mode: Mode) -> Table:
    """Held-out score before and after, a line a user."""
    known = any(hidden_rule_accuracy(user.held_out) is not None for user in results.users)
    legend = "commonest: right by always giving the answer that the user gave most often before"
    if known:
        legend += "\nrule: right by the user's own hidden rule without noise, the most that can be reached"
    table = Table(title=f"Held-out questions, {MODE_LABELS[mode]}: base model to adapter", title_justify="left")
    table.caption, table.caption_justify = legend, "left"
    names = ("user", "questions", "right", "log p, real answer", "difference (95 %)", "verdict", "commonest")
    for name in (*names, "rule") if known else names:
        table.add_column(name, justify="left" if name in ("user", "verdict") else "right", no_wrap="95" in name)
    for user in results.users:
        rule = hidden_rule_accuracy(user.held_out)
        table.add_row(
            user.user_id,
            *change_cells(compare_arms([user_pairs(results, user, mode)])),
            format_percent(majority_accuracy(user)),
            *([format_percent(rule)] if rule is not None else []),
        )
    scored = sum(bool(user_pairs(results, user, mode)) for user in results.users)
    table.add_section()
    table.add_row(f"mean of {scored}", *change_cells(overall_comparison(results, mode)))
    return table


def change_cells(comparison: Comparison | None) -> tuple[str, str, str, str, str]:
    if comparison is None:
        return "0", "no adapter", "", "", ""
    accuracy, logprob = comparison.accuracy, comparison.logprob
    return (
        str(comparison.rows),
        f"{format_percent(accuracy.before)} to {format_percent(accuracy.after)}",
        f"{logprob.before:.2f} to {logprob.after:.2f}",
        f"{logprob.difference:+.2f} ({logprob.low:+.2f} to {logprob.high:+.2f})",
        logprob.verdict,
    )


def summary_sentence(results: DemoResults, mode: Mode) -> str:
    """Say what the sample allows to say about all users together, and no more."""
    comparison = overall_comparison(results, mode)
    if comparison is None:
        return "No user has both scores, so nothing can be said."
    return (
        f"Over {comparison.rows} questions, {MODE_LABELS[mode]}: the log-probability of the real answer "
        f"{describe_change(comparison.logprob, 'nats', 2)}; "
        f"the share of right answers {describe_change(comparison.accuracy, 'points', 0, 100)}. "
        "The intervals are for these users, not for users at large."
    )


def describe_change(change: Change, unit: str, digits: int, scale: float = 1.0) -> str:
    low, high, difference = (f"{x * scale:+.{digits}f}" for x in (change.low, change.high, change.difference))
    size = f"by {difference} {unit} (95 % interval {low} to {high})"
    if change.verdict == "no telling":
        return f"changed {size}, which chance alone can explain"
    return f"got {change.verdict} {size}, beyond chance"


def closing_lines(results: DemoResults) -> Text:
    """Failures, accounting, profiles that differed, and times."""
    books = results.accounting
    lines = [
        f"failed requests: {results.failed_requests}",
        f"accepted traces: {books.accepted}, trained in exactly one version: {books.trained}, dead: {books.dead}; "
        + ("none lost, none twice" if books.balanced else f"THE COUNTS DO NOT MATCH: {'; '.join(books.problems[:5])}"),
    ]
    if books.in_cohorts:
        lines.append(f"of these, trained in a cohort's adapter as well: {books.in_cohorts}")
    refused = gate_tables.refused_versions([*results.cohorts, *results.adapters.values()])
    lines.append(f"versions refused by the gate: {len(refused)}")
    lines += [f"  {gate_tables.describe_refusal(version)}" for version in refused]
    if results.trainer_killed:
        lines.append(f"the trainer was killed while {results.trainer_killed}, and started again")
    if moved := sum(
        b.profile_version != a.profile_version for user in results.users for b, a in all_pairs(results, user)
    ):
        lines.append(f"note: {moved} questions were answered with another profile after than before")
    lines += [f"no answer: {failure}" for failure in [*results.before.failures, *results.after.failures][:5]]
    lines.append("seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in results.seconds.items()))
    return Text("\n".join(lines))


def find_problems(results: DemoResults) -> list[str]:
    """Why the demo has not done its job, for the exit code; empty if it has.

    To refuse a version is the gate's job; but a parity check that fails says that an adapter did not reach the engine.
    """
    found = list(results.accounting.problems)
    if results.failed_requests:
        found.append(f"{results.failed_requests} requests failed")
    for version in gate_tables.list_versions([*results.cohorts, *results.adapters.values()]):
        if version.parity is not None and not version.parity.passed:
            found.append(f"{gate_tables.version_name(version)} was refused: its parity check failed")
    if not any(live_version(adapter) for adapter in results.adapters.values()):
        found.append("no adapter is live")
    if results.collapse is not None:
        found += results.collapse.problems()
    return found


def results_json(results: DemoResults) -> dict[str, Any]:
    """Return the same figures for programs. Times are in seconds, log-probabilities in nats."""
    modes: tuple[Mode, ...] = ("direct", "personal")
    rows = []
    for user in results.users:
        version = live_version(results.adapters.get(user.user_id))
        rows.append(
            {
                "user": user.user_id,
                "engagements": len(user.engagements),
                "funnel": results.funnels[user.user_id].model_dump(),
                "generated_tokens": results.tokens[user.user_id],
                "version": version.version if version else None,
                "parity": version.parity.model_dump() if version and version.parity else None,
                "gate": [gate_tables.checks_json(v) for v in gate_tables.list_versions(user_adapters(results, user))],
                "commonest_answer": majority_accuracy(user),
                "hidden_rule": hidden_rule_accuracy(user.held_out),
                "scores": {mode: comparison_json(compare_arms([user_pairs(results, user, mode)])) for mode in modes},
            }
        )
    return {
        # Not the model's folder: a kept run says nothing of the machine's paths.
        "server": results.info.model_dump(exclude={"model", "model_path"}),
        "rows": rows,
        "totals": {mode: comparison_json(overall_comparison(results, mode)) for mode in modes},
        "batch": results.batch.model_dump(mode="json"),
        "cohorts": [gate_tables.checks_json(version) for version in gate_tables.list_versions(results.cohorts)],
        "collapse": gate_tables.collapse_json(results.collapse),
        "accounting": asdict(results.accounting),
        "failed_requests": results.failed_requests,
        "trainer_killed": results.trainer_killed,
        "seconds": results.seconds,
        "problems": find_problems(results),
    }


def user_adapters(results: DemoResults, user: UserDataset) -> list[Adapter]:
    """Return the user's own adapter, if there is one."""
    return [results.adapters[user.user_id]] if user.user_id in results.adapters else []


def comparison_json(comparison: Comparison | None) -> dict[str, Any] | None:
    return None if comparison is None else asdict(comparison)


def overall_comparison(results: DemoResults, mode: Mode) -> Comparison | None:
    return compare_arms([user_pairs(results, user, mode) for user in results.users])


def user_pairs(results: DemoResults, user: UserDataset, mode: Mode) -> list[AnswerPair]:
    return pair_answers(results.before.of(user.user_id, mode), results.after.of(user.user_id, mode))


def all_pairs(results: DemoResults, user: UserDataset) -> list[AnswerPair]:
    return user_pairs(results, user, "direct") + user_pairs(results, user, "personal")


def format_percent(share: float) -> str:
    return f"{share:.0%}"


def next_steps(options: DemoOptions, results: DemoResults, folder: Path) -> str:
    """Say how to go on with what a run has made.

    Args:
        options: Options of the run.
        results: Its results.
        folder: The run's folder.
    """
    live = [user for user, adapter in results.adapters.items() if adapter.live is not None]
    model = shlex.quote(AdapterKey.user(live[0] if live else results.users[0].user_id))
    served = "" if options.model == DEFAULT else f" --model {shlex.quote(options.model)}"
    return (
        f"next: mindprint serve --data-dir {shlex.quote(str(folder / 'server'))}{served}    # serves these users\n"
        f"      mindprint chat --model {model}    # in another terminal\n"
        f"      mindprint adapters show {model}\n"
        "      mindprint demo --data FOLDER    # your own records: docs/reference/data-formats.md\n"
        f"the newest {options.keep_runs} runs are kept: copy {folder} to keep this one"
    )
