"""Where every accepted trace ended: exactly one version each, none lost, none twice. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from mindprint.types import Adapter, Trace


@dataclass(frozen=True)
class Accounting:
    """Counts of accepted traces; `problems` is empty when the books balance."""

    accepted: int
    trained: int
    dead: int
    problems: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        return not self.problems


def account(accepted: Iterable[Trace], adapters: Iterable[Adapter]) -> Accounting:
    """Holds the traces' own states against the manifests of the versions that were not refused."""
    traces = {trace.id: trace for trace in accepted}
    homes: dict[str, list[str]] = {trace_id: [] for trace_id in traces}
    problems: list[str] = []
    for version in (v for adapter in adapters for v in adapter.versions if v.state != "refused"):
        name = f"{version.adapter}@{version.version}"
        for trace_id in version.manifest.trace_ids:
            if trace_id not in homes:
                problems.append(f"{name} was trained on {trace_id}, which is no accepted trace")
                continue
            homes[trace_id].append(name)
    for trace_id, names in homes.items():
        trace = traces[trace_id]
        expected = [f"user/{trace.user_id}@{trace.version}"] if trace.state == "trained" else []
        if names != expected:
            problems.append(f"{trace_id} is {trace.state} ({expected or 'no version'}) but stands in {names or 'none'}")
        if trace.state not in ("trained", "dead"):
            problems.append(f"{trace_id} is still {trace.state}")
    states = Counter(trace.state for trace in traces.values())
    return Accounting(len(traces), states["trained"], states["dead"], problems)
