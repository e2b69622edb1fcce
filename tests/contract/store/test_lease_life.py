"""Whatever trainers do, in whatever order: no trace is lost, and none is in two versions of one adapter."""

from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mindprint.types import Check, Lease
from mindprint_server.store import LeaseLost, Store

USERS = st.sampled_from(["ann", "bob"])
ADAPTERS = st.sampled_from(["user/ann", "user/bob", "cohort/everyone"])
MAX_ATTEMPTS = 2


def test_no_trace_is_lost_or_trained_twice(tmp_path: Path, make: Any) -> None:
    empty, path = tmp_path / "empty.db", tmp_path / "life.db"  # a copy takes less time than to migrate
    url = f"sqlite+aiosqlite:///{path}"

    async def migrate() -> None:
        await (await Store.open(f"sqlite+aiosqlite:///{empty}")).close()

    asyncio.run(migrate())

    class LeaseLife(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            shutil.copy(empty, path)
            self.store: Store = self.runner.run(Store.open(url))
            self.now = make.T0
            self.leases: list[Lease] = []
            self.made: set[str] = set()
            self.trained: dict[str, dict[str, int]] = defaultdict(dict)  # by adapter: which version a trace is in
            self.versions: dict[str, set[str]] = defaultdict(set)  # by trace, refused ones too

        def run(self, call: Any) -> Any:
            return self.runner.run(call)

        @initialize()
        def users(self) -> None:
            for user in ("ann", "bob"):
                self.run(make.user(self.store, user, 1))

        @rule(user=USERS, count=st.integers(1, 3))
        def write(self, user: str, count: int) -> None:
            for _ in range(count):
                self.made.add(self.run(self.store.traces.add(make.trace(user))).id)

        @rule(
            adapter=st.none() | ADAPTERS,
            ttl=st.integers(1, 3),
            max_traces=st.integers(1, 4),
            cohort_min_traces=st.none() | st.integers(1, 3),
        )
        def claim(self, adapter: str | None, **terms: Any) -> None:
            terms |= {"ttl_s": terms.pop("ttl"), "max_attempts": MAX_ATTEMPTS, "now": self.now}
            lease = self.run(make.claim(self.store, adapter=adapter, **terms))
            if lease is not None:
                assert not self.trained[lease.adapter].keys() & set(lease.trace_ids)
                assert lease.attempt <= MAX_ATTEMPTS
                self.leases.append(lease)

        @rule(key=ADAPTERS, max_traces=st.integers(1, 4), share=st.none() | st.just(0.5))
        def train(self, key: str, max_traces: int, share: float | None) -> None:
            known = len(self.leases)
            self.claim(key, ttl=1, max_traces=max_traces, cohort_min_traces=1)
            for lease in self.leases[known:]:
                version = self.run(make.completed(self.store, lease, canary_share=share, now=self.now))
                self.trained[key] |= dict.fromkeys(lease.trace_ids, version.version)
                for id in lease.trace_ids:
                    self.versions[id].add(f"{key}@{version.version}")

        @rule(seconds=st.integers(1, 3))
        def wait(self, seconds: int) -> None:
            self.now += timedelta(seconds=seconds)

        @precondition(lambda self: self.leases)
        @rule(pick=st.integers(0), how=st.sampled_from(["heartbeat", "release", "complete", "refuse"]))
        def end(self, pick: int, how: str) -> None:
            lease = self.leases[pick % len(self.leases)]
            holds = self.run(self.store.leases.get(lease.id))
            alive = holds.state == "active" and self.now < holds.deadline
            try:
                if how == "heartbeat":
                    alive = holds.state == "active"  # late, but no claim has ended it
                    self.run(self.store.leases.heartbeat(lease.id, 2, now=self.now))
                elif how == "release":
                    self.run(self.store.leases.release(lease.id, now=self.now))
                    alive = alive or holds.state == "released"
                else:
                    number = self.run(self.store.versions.allocate(lease.adapter)).version
                    version = make.version(lease, number, digest=lease.id)
                    if how == "refuse":
                        terms = {"max_attempts": MAX_ATTEMPTS, "now": self.now}
                        stored = self.run(self.store.publication.refuse(lease.id, version, **terms))
                        alive = True  # also a repeat, which changes nothing
                    else:
                        share = 0.5 if pick % 2 else None
                        terms = {"canary_share": share, "now": self.now}
                        stored = self.run(self.store.publication.publish(lease.id, version, **terms))
                        if alive:
                            assert not self.trained[lease.adapter].keys() & set(lease.trace_ids)
                            self.trained[lease.adapter] |= dict.fromkeys(lease.trace_ids, stored.version)
                        alive = alive or holds.state == "completed"
                    for id in lease.trace_ids:
                        self.versions[id].add(f"{lease.adapter}@{stored.version}")
            except LeaseLost:
                assert not alive
            else:
                assert alive

        @rule(key=ADAPTERS, off=st.booleans())
        def take_out(self, key: str, off: bool) -> None:
            if live := self.run(self.store.live_versions.get(key)).live:
                check = Check(name="loop rate", passed=False)
                self.run(
                    self.store.live_versions.set_live(key, None)
                    if off
                    else self.store.live_versions.withdraw(key, live.version, check)
                )

        @rule()
        def prune(self) -> None:
            for adapter in self.run(self.store.adapters.list_page()):
                for number in self.run(self.store.retention.list_prunable(adapter.key, 0)):
                    assert self.run(self.store.retention.mark_files_removed(adapter.key, number))

        @precondition(lambda self: self.made)
        @rule()
        def revive(self) -> None:
            self.run(self.store.traces.requeue(sorted(self.made)))

        @rule()
        def restart(self) -> None:
            self.run(self.store.close())
            self.store = self.run(Store.open(url))

        @invariant()
        def every_trace_is_in_one_place(self) -> None:
            traces = self.run(self.store.traces.find(limit=10_000))
            assert {t.id for t in traces} == self.made
            own = self.trained["user/ann"] | self.trained["user/bob"]
            assert {t.id: t.version for t in traces if t.version} == own
            assert {t.id: set(t.versions) for t in traces if t.versions} == self.versions
            active = self.active()
            held = [id for lease in active if lease.adapter != "cohort/everyone" for id in lease.trace_ids]
            assert sorted(held) == [t.id for t in traces if t.state == "leased"]
            assert len({lease.adapter for lease in active}) == len(active)

        @invariant()
        def what_is_needed_has_files(self) -> None:
            starts = [(s.adapter, s.version) for s in (lease.start for lease in self.active()) if s]
            with_files = self.run(make.stored_versions(self.store, with_files=True))
            assert with_files >= set(starts)
            for adapter in self.run(self.store.adapters.list_page()):
                assert with_files >= {(adapter.key, n) for n in (adapter.live, adapter.canary) if n}
                assert (adapter.canary is None) == (adapter.canary_share is None)

        def active(self) -> list[Lease]:
            found = [self.run(self.store.leases.get(lease.id)) for lease in self.leases]
            return [lease for lease in found if lease.state == "active"]

        def teardown(self) -> None:
            self.run(self.store.close())
            self.runner.close()

    run_state_machine_as_test(
        LeaseLife,
        settings=settings(
            max_examples=10,
            stateful_step_count=25,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
