"""Whatever trainers do, in whatever order: no trace is lost, and none is in two versions."""

from __future__ import annotations

import asyncio
import shutil
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

from mindprint.types import Lease
from mindprint_server.store import LeaseLost, Store

USERS = st.sampled_from(["ann", "bob"])
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
            self.trained: dict[str, tuple[str, int]] = {}

        def run(self, call: Any) -> Any:
            return self.runner.run(call)

        @initialize()
        def users(self) -> None:
            for user in ("ann", "bob"):
                self.run(make.user(self.store, user, 1))

        @rule(user=USERS, count=st.integers(1, 3))
        def write(self, user: str, count: int) -> None:
            for _ in range(count):
                self.made.add(self.run(self.store.add_trace(make.trace(user))).id)

        @rule(user=st.none() | USERS, ttl=st.integers(1, 3), max_traces=st.integers(1, 4))
        def claim(self, user: str | None, ttl: int, max_traces: int) -> None:
            terms = {"ttl_s": ttl, "max_traces": max_traces, "max_attempts": MAX_ATTEMPTS, "now": self.now}
            lease = self.run(make.claim(self.store, adapter=user and f"user/{user}", **terms))
            if lease is not None:
                self.leases.append(lease)

        @rule(seconds=st.integers(1, 3))
        def wait(self, seconds: int) -> None:
            self.now += timedelta(seconds=seconds)

        @precondition(lambda self: self.leases)
        @rule(pick=st.integers(0), how=st.sampled_from(["heartbeat", "release", "complete", "refuse"]))
        def end(self, pick: int, how: str) -> None:
            lease = self.leases[pick % len(self.leases)]
            holds = self.run(self.store.lease(lease.id))
            alive = holds.state == "active" and self.now < holds.deadline
            try:
                if how == "heartbeat":
                    self.run(self.store.heartbeat(lease.id, 2, now=self.now))
                elif how == "release":
                    self.run(self.store.release(lease.id, now=self.now))
                    alive = alive or holds.state == "released"
                else:
                    number = self.run(self.store.next_version(lease.adapter))
                    version = make.version(lease, number, digest=lease.id)
                    if how == "refuse":
                        self.run(self.store.refuse(lease.id, version, max_attempts=MAX_ATTEMPTS, now=self.now))
                        alive = True  # also a repeat, which changes nothing
                    else:
                        stored = self.run(self.store.complete(lease.id, version, now=self.now))
                        if alive:
                            assert not self.trained.keys() & set(lease.trace_ids)
                            self.trained |= dict.fromkeys(lease.trace_ids, (lease.adapter, stored.version))
                        alive = alive or holds.state == "completed"
            except LeaseLost:
                assert not alive
            else:
                assert alive

        @precondition(lambda self: self.made)
        @rule()
        def revive(self) -> None:
            self.run(self.store.revive(sorted(self.made)))

        @rule()
        def restart(self) -> None:
            self.run(self.store.close())
            self.store = self.run(Store.open(url))

        @invariant()
        def every_trace_is_in_one_place(self) -> None:
            traces = self.run(self.store.traces(limit=10_000))
            assert {t.id for t in traces} == self.made
            assert {t.id: (f"user/{t.user_id}", t.version) for t in traces if t.version} == self.trained
            active = (lease for lease in self.leases if self.run(self.store.lease(lease.id)).state == "active")
            held = [id for lease in active for id in lease.trace_ids]
            assert sorted(held) == [t.id for t in traces if t.state == "leased"]

        def teardown(self) -> None:
            self.run(self.store.close())
            self.runner.close()

    run_state_machine_as_test(
        LeaseLife,
        settings=settings(
            max_examples=8,
            stateful_step_count=20,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
