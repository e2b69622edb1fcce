"""Check that each accepted trace is trained in exactly one version: none is lost, none is trained twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from mindprint.types import Adapter, Trace
from mindprint.types.keys import AdapterKey, VersionRef


@dataclass(frozen=True)
class TraceAccounting:
    """Counts of accepted traces; `problems` is empty when the counts match."""

    accepted: int
    trained: int
    dead: int
    in_cohorts: int = 0
    """Of the accepted ones, those that a cohort's adapter was trained on as well."""
    problems: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        return not self.problems


def account_for_traces(
    accepted: Iterable[Trace], adapters: Iterable[Adapter], cohorts: Iterable[Adapter] = ()
) -> TraceAccounting:
    """Compare the traces' own states with the manifests of the users' adapters.

    Versions that the gate refused do not count; one that was live before it was withdrawn does. A cohort learns from
    the traces besides, from each once.
    """
    traces = {trace.id: trace for trace in accepted}
    homes: dict[str, list[str]] = {trace_id: [] for trace_id in traces}
    problems: list[str] = []
    for version in (v for adapter in adapters for v in adapter.versions):
        name = VersionRef.of(version.adapter, version.version)
        for trace_id in version.manifest.trace_ids:
            trace = traces.get(trace_id)
            if trace is None:
                problems.append(f"{name} was trained on {trace_id}, which is no accepted trace")
            elif version.state != "refused" or (trace.state, trace.version) == ("trained", version.version):
                homes[trace_id].append(name)
    shared: Counter[str] = Counter()
    for cohort in cohorts:
        once = Counter(id for v in cohort.versions if v.state != "refused" for id in v.manifest.trace_ids)
        problems += [f"{id} stands {count} times in {cohort.key}" for id, count in once.items() if count > 1]
        shared.update(once)
    for trace_id, names in homes.items():
        trace = traces[trace_id]
        expected = (
            [VersionRef.of(AdapterKey.user(trace.user_id), trace.version)]
            if trace.state == "trained" and trace.version
            else []
        )
        if names != expected:
            problems.append(f"{trace_id} is {trace.state} ({expected or 'no version'}) but stands in {names or 'none'}")
        if trace.state not in ("trained", "dead_letter"):
            problems.append(f"{trace_id} is still {trace.state}")
    states = Counter(trace.state for trace in traces.values())
    return TraceAccounting(
        len(traces), states["trained"], states["dead_letter"], len(shared.keys() & traces.keys()), problems
    )
