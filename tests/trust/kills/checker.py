"""Compares what was acknowledged with what a server and its disk hold at the end. Pure functions: no I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from kills.facts import Facts, Register, VersionKey
from mindprint.types import Adapter, ApiKey, Batch, Engagement, Trace

FINAL = ("done", "cancelled")
Name = TypeVar("Name")
CHECKS = (
    "lost",
    "changed",
    "torn",
    "unfinished",
    "trained_twice",
    "worked_twice",
    "orphan_files",
    "missing_files",
    "unexpected_answers",
)
"""What a violation may be of."""


@dataclass
class Observed:
    """What is read back after the last kill.

    Attributes:
        engagements: By user and id.
        traces: By id.
        batches: By id.
        adapters: With all versions.
        trained_on: Ids of the traces of each version, by its lineage.
        leases: Adapter of each acknowledged lease that is there.
        cohorts: Descriptions by name.
        keys: By id.
        artifacts: Digests of the folders in the artifact store. Each version has one of its own.
        archives: SHA-256 of the weights in the download of each version that has files; None if there was none.
        leftovers: Files that belong to no version: of uploads and of unfinished writes.
    """

    engagements: dict[tuple[str, str], Engagement] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    adapters: list[Adapter] = field(default_factory=list)
    trained_on: dict[VersionKey, tuple[str, ...]] = field(default_factory=dict)
    leases: dict[str, str] = field(default_factory=dict)
    cohorts: dict[str, str] = field(default_factory=dict)
    keys: dict[str, ApiKey] = field(default_factory=dict)
    artifacts: set[str] = field(default_factory=set)
    archives: dict[VersionKey, str | None] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Violation:
    """One thing that does not hold. `check` is one of `CHECKS`."""

    check: str
    detail: str


def find_violations(facts: Facts, observed: Observed) -> list[Violation]:
    """Return everything that does not hold."""
    found = [
        *_engagements(facts, observed),
        *_traces(facts, observed),
        *_batches(facts, observed),
        *_versions(facts, observed),
        *_registers(facts, observed),
        *_work(observed),
        *_files(observed),
    ]
    return [*found, *(Violation("unexpected_answers", answer) for answer in facts.unexpected)]


def count_violations(found: list[Violation]) -> dict[str, int]:
    """Return the number of violations of every check, zeros too."""
    counts = Counter(violation.check for violation in found)
    return {check: counts[check] for check in CHECKS}


def _engagements(facts: Facts, observed: Observed) -> Iterator[Violation]:
    for key, sent in facts.engagements.items():
        if key not in observed.engagements:
            yield Violation("lost", f"engagement {key}")
        elif observed.engagements[key] != sent:
            yield Violation("changed", f"engagement {key}")
    for user, ids in facts.sent_together:
        there = sum((user, id) in observed.engagements for id in ids)
        if 0 < there < len(ids):
            yield Violation("torn", f"{there} of {len(ids)} engagements of one request of {user}: {ids}")


def _traces(facts: Facts, observed: Observed) -> Iterator[Violation]:
    for id, returned in facts.traces.items():
        stored = observed.traces.get(id)
        if stored is None:
            yield Violation("lost", f"trace {id}")
        elif (stored.thinking, stored.answer, stored.verdict) != (returned.thinking, returned.answer, returned.verdict):
            yield Violation("changed", f"trace {id}")
    accepted = {
        trace.thinking: (trace.user_id, trace.engagement_id)
        for trace in observed.traces.values()
        if trace.verdict == "accepted"
    }
    for thinking, about in facts.imported.items():
        if accepted.get(thinking) != about:
            yield Violation("lost", f"imported trace {thinking!r} of {about}")


def _batches(facts: Facts, observed: Observed) -> Iterator[Violation]:
    for id, request in facts.batches.items():
        batch = observed.batches.get(id)
        if batch is None:
            yield Violation("lost", f"batch {id}")
        elif batch.request != request:
            yield Violation("changed", f"batch {id}")
        elif id in facts.cancelled and batch.state != "cancelled":
            yield Violation("changed", f"batch {id} is {batch.state}: it was cancelled")
    for batch in observed.batches.values():
        if batch.state not in FINAL:
            yield Violation("unfinished", f"batch {batch.id} is {batch.state} ({batch.error})")
        elif batch.state == "done" and batch.done != batch.items:
            yield Violation("unfinished", f"batch {batch.id} is done with {batch.done} of {batch.items} items")
    keys = Counter(batch.request.idempotency_key for batch in observed.batches.values())
    for key, count in keys.items():
        if key is not None and count > 1:
            yield Violation("worked_twice", f"{count} batches of the idempotency key {key}")


def _versions(facts: Facts, observed: Observed) -> Iterator[Violation]:
    stored = {(each.key, one.version): one for each in observed.adapters for one in each.versions}
    for key, published in facts.versions.items():
        if key not in stored:
            yield Violation("lost", f"version {key}")
        elif stored[key].digest != published.digest:
            yield Violation("changed", f"version {key}: {published.digest} became {stored[key].digest}")
        elif sorted(observed.trained_on.get(key, ())) != sorted(published.trace_ids):
            yield Violation("changed", f"version {key} was trained on other traces than it was acknowledged with")
    for lease, claimed in facts.leases.items():
        if observed.leases.get(lease) != claimed.adapter:
            yield Violation("lost", f"lease {lease}")
    for adapter in observed.adapters:
        numbers = Counter(one.version for one in adapter.versions)
        if adapter.live is not None and numbers[adapter.live] != 1:
            yield Violation("lost", f"the live version of {adapter.key}")
    refused = {key for key, one in stored.items() if one.state == "refused"}
    trained: dict[tuple[str, str], list[int]] = defaultdict(list)
    for (adapter_key, number), traces in observed.trained_on.items():
        for trace in traces if (adapter_key, number) not in refused else ():
            trained[adapter_key, trace].append(number)
    for (adapter_key, trace), versions in trained.items():
        if len(versions) > 1:
            yield Violation("trained_twice", f"trace {trace} in versions {versions} of {adapter_key}")


def _registers(facts: Facts, observed: Observed) -> Iterator[Violation]:
    pinned = {(each.key, one.version): str(one.pinned).lower() for each in observed.adapters for one in each.versions}
    keys = {id: "revoked" if key.revoked_at else "valid" for id, key in observed.keys.items()}
    yield from _compare("pin", facts.pins, pinned)
    yield from _compare("cohort", facts.cohorts, observed.cohorts)
    yield from _compare("key", facts.keys, keys)


def _compare(kind: str, registers: Mapping[Name, Register], stored: Mapping[Name, str]) -> Iterator[Violation]:
    for name, register in registers.items():
        if register.acknowledged is None:
            continue
        value = stored.get(name)
        if value is None:
            yield Violation("lost", f"{kind} {name}")
        elif value not in register.possible:
            yield Violation("changed", f"{kind} {name} is {value!r}: possible were {sorted(register.possible)}")


def _work(observed: Observed) -> Iterator[Violation]:
    """A candidate is known by its batch, engagement and seed: work that is done twice stores it twice."""
    candidates: Counter[tuple[str | None, ...]] = Counter()
    texts: Counter[tuple[str | None, ...]] = Counter()
    for trace in observed.traces.values():
        if trace.batch_id is not None:
            candidates[trace.batch_id, trace.user_id, trace.engagement_id, str(trace.provenance.seed)] += 1
        if trace.verdict == "accepted" and trace.state != "stored":
            texts[trace.user_id, trace.engagement_id, trace.thinking] += 1
    for what, counts in (("candidate", candidates), ("accepted thinking", texts)):
        yield from (
            Violation("worked_twice", f"{count} times the {what} {key}") for key, count in counts.items() if count > 1
        )


def _files(observed: Observed) -> Iterator[Violation]:
    with_files = {(each.key, one.version): one for each in observed.adapters for one in each.versions if one.files}
    if (surplus := len(observed.artifacts) - len(with_files)) > 0:
        yield Violation("orphan_files", f"{surplus} artifacts more than versions with files")
    for name in observed.leftovers:
        yield Violation("orphan_files", name)
    for key, version in with_files.items():
        if observed.archives.get(key) is None:
            yield Violation("missing_files", f"{key}")
        elif f"sha256:{observed.archives[key]}" != version.digest:
            yield Violation("changed", f"the files of {key}")


def is_clean(counts: Mapping[str, int]) -> bool:
    """Return whether nothing was violated."""
    return not any(counts.values())
