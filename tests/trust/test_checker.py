"""The checker finds each kind of violation, and none where all is as it was acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from kills.actions import make_engagement
from kills.checker import Observed, count_violations, find_violations
from kills.facts import Claimed, Facts, Published, Register
from mindprint.types import (
    Adapter,
    ApiKey,
    Batch,
    BatchRequest,
    Funnel,
    Manifest,
    ParityItem,
    Provenance,
    Trace,
    Version,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = BatchRequest(users=["ann"], idempotency_key="k")
OTHER_REQUEST = BatchRequest(users=["ben"], idempotency_key="k")
KEY = ("user/ann", 1)


def make_trace(id: str, seed: int | None = 1, batch: str | None = "b", **changes: Any) -> Trace:
    provenance = Provenance(
        model="base", adapter_digest=None, base_digest="b", prompt_version="1", mode="personal", sampling={},
        seed=seed, engine="fake",
    )  # fmt: skip
    trace = Trace(
        id=id, user_id="ann", engagement_id="e00001", batch_id=batch, mode="personal", query="q",
        thinking=f"thought {id}", answer="yes", verdict="accepted", state="trained", provenance=provenance,
        created_at=NOW,
    )  # fmt: skip
    return trace.model_copy(update=changes)


def make_batch(id: str = "b", **changes: Any) -> Batch:
    batch = Batch(
        id=id, state="done", request=REQUEST, items=1, done=1, funnel=Funnel(), created_at=NOW,
    )  # fmt: skip
    return batch.model_copy(update=changes)


def make_version(number: int = 1, **changes: Any) -> Version:
    item = ParityItem(prompt_ids=[1], target_ids=[1], logprobs=[-1.0], base_logprobs=[-1.0])
    manifest = Manifest(
        adapter=KEY[0], base_digest="b", weights_sha256="0" * 64, trace_ids=["t1"], samples={}, settings={}, losses={},
        tokens=1, seconds=1, trainer="t", parity_items=[item],
    )  # fmt: skip
    version = Version(
        adapter=KEY[0], version=number, state="live", digest="sha256:d", base_digest="b", traces=1, manifest=manifest,
        created_at=NOW,
    )  # fmt: skip
    return version.model_copy(update=changes)


def make_adapter(*versions: Version) -> Adapter:
    return Adapter(key=KEY[0], live=1, versions=list(versions))


def make_key(**changes: Any) -> ApiKey:
    return ApiKey(tenant="default", id="k", name="n", scopes=["read"], created_at=NOW).model_copy(update=changes)


def register(value: str, *also: str) -> Register:
    return Register(value, {value, *also})


@pytest.fixture
def facts() -> Facts:
    first, second = make_engagement("ann", 1), make_engagement("ann", 2)
    return Facts(
        engagements={("ann", first.id): first, ("ann", second.id): second},
        sent_together=[("ann", (first.id, second.id)), ("ann", ("e00003", "e00004"))],
        imported={"thought t2": ("ann", "e00001")},
        traces={"t3": make_trace("t3", batch=None)},
        batches={"b": REQUEST},
        leases={"l": Claimed(KEY[0], ("t1",))},
        versions={KEY: Published("sha256:d", ("t1",))},
        pins={KEY: register("true")},
        cohorts={"c": register("new", "newer")},
        keys={"k": register("revoked")},
    )


@pytest.fixture
def observed(facts: Facts) -> Observed:
    """All of it, as it was acknowledged."""
    return Observed(
        engagements=dict(facts.engagements),
        traces={
            "t1": make_trace("t1"),
            "t2": make_trace("t2", batch=None),
            "t3": make_trace("t3", batch=None),
        },
        batches={"b": make_batch()},
        adapters=[make_adapter(make_version(pinned=True))],
        trained_on={KEY: ("t1",)},
        leases={"l": KEY[0]},
        cohorts={"c": "newer", "everyone": ""},
        keys={"k": make_key(revoked_at=NOW)},
        artifacts={"a"},
        archives={KEY: "d"},
    )


def test_what_was_acknowledged_is_no_violation(facts: Facts, observed: Observed) -> None:
    assert find_violations(facts, observed) == []
    assert set(count_violations([]).values()) == {0}


def lose_engagements(facts: Facts, observed: Observed) -> None:
    observed.engagements.clear()


def lose_batches(facts: Facts, observed: Observed) -> None:
    observed.batches.clear()


def lose_leases(facts: Facts, observed: Observed) -> None:
    observed.leases.clear()


def lose_cohorts(facts: Facts, observed: Observed) -> None:
    observed.cohorts.clear()


def lose_keys(facts: Facts, observed: Observed) -> None:
    observed.keys.clear()


def lose_files(facts: Facts, observed: Observed) -> None:
    observed.archives.clear()


def lose_versions(facts: Facts, observed: Observed) -> None:
    observed.adapters.clear()
    observed.artifacts.clear()


def replace_weights(facts: Facts, observed: Observed) -> None:
    observed.adapters = [make_adapter(make_version(pinned=True, digest="sha256:x"))]
    observed.archives[KEY] = "x"


def train_again(facts: Facts, observed: Observed) -> None:
    second = make_version(2, state="standby", files=False)
    observed.adapters = [make_adapter(make_version(pinned=True), second)]
    observed.trained_on["user/ann", 2] = ("t1",)


def leave_folder(facts: Facts, observed: Observed) -> None:
    observed.artifacts.add("b")


def leave_upload(facts: Facts, observed: Observed) -> None:
    observed.leftovers.append("uploads/x")


def cancel(facts: Facts, observed: Observed) -> None:
    facts.cancelled.add("b")


def answer_500(facts: Facts, observed: Observed) -> None:
    facts.unexpected.append("GET /: 500")


Break = Callable[[Facts, Observed], object]
BREAKS: dict[str, tuple[str, Break]] = {
    "engagement lost": ("lost", lose_engagements),
    "engagement changed": (
        "changed",
        lambda f, o: o.engagements.update({("ann", "e00001"): make_engagement("ann", 7)}),
    ),
    "half of a request": ("torn", lambda f, o: o.engagements.update({("ann", "e00003"): make_engagement("ann", 3)})),
    "imported trace lost": ("lost", lambda f, o: o.traces.pop("t2")),
    "single trace lost": ("lost", lambda f, o: o.traces.pop("t3")),
    "single trace changed": ("changed", lambda f, o: o.traces.update(t3=make_trace("t3", batch=None, answer="no"))),
    "batch lost": ("lost", lose_batches),
    "batch changed": ("changed", lambda f, o: o.batches.update(b=make_batch(request=OTHER_REQUEST))),
    "cancelled batch goes on": ("changed", cancel),
    "batch failed": ("unfinished", lambda f, o: o.batches.update(b=make_batch(state="failed"))),
    "batch done too early": ("unfinished", lambda f, o: o.batches.update(b=make_batch(items=2))),
    "key with two batches": ("worked_twice", lambda f, o: o.batches.update(c=make_batch("c"))),
    "candidate written twice": ("worked_twice", lambda f, o: o.traces.update(t4=make_trace("t4"))),
    "thinking accepted twice": (
        "worked_twice",
        lambda f, o: o.traces.update(t4=make_trace("t4", batch="c", thinking="thought t1")),
    ),
    "version lost": ("lost", lose_versions),
    "version with other weights": ("changed", replace_weights),
    "version of other traces": ("changed", lambda f, o: o.trained_on.update({KEY: ("t2",)})),
    "trace in two versions": ("trained_twice", train_again),
    "lease lost": ("lost", lose_leases),
    "cohort lost": ("lost", lose_cohorts),
    "cohort with an old value": ("changed", lambda f, o: o.cohorts.update(c="old")),
    "key lost": ("lost", lose_keys),
    "key valid again": ("changed", lambda f, o: o.keys.update(k=make_key())),
    "folder without a version": ("orphan_files", leave_folder),
    "upload left": ("orphan_files", leave_upload),
    "version without files": ("missing_files", lose_files),
    "files of another version": ("changed", lambda f, o: o.archives.update({KEY: "x"})),
    "answer with 500": ("unexpected_answers", answer_500),
}


@pytest.mark.parametrize(("check", "break_it"), BREAKS.values(), ids=BREAKS)
def test_each_violation_is_found(facts: Facts, observed: Observed, check: str, break_it: Break) -> None:
    break_it(facts, observed)
    counts = count_violations(find_violations(facts, observed))
    assert {name for name, count in counts.items() if count} == {check}


def test_refused_version_may_hold_traces_of_a_later_one(facts: Facts, observed: Observed) -> None:
    refused = make_version(2, state="refused", files=False)
    observed.adapters[0].versions.append(refused)
    observed.trained_on["user/ann", 2] = ("t1",)
    assert find_violations(facts, observed) == []
