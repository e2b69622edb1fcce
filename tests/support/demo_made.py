"""Small results of a demo, made by hand, for the tests beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from mindprint.datasets import HeldOutQuestion, UserDataset
from mindprint.types import (
    Adapter,
    Batch,
    BatchRequest,
    Check,
    Engagement,
    Funnel,
    LoraLimits,
    Manifest,
    ParityItem,
    ParityResult,
    Provenance,
    ServerInfo,
    Trace,
    TraceState,
    Version,
    VersionState,
)
from mindprint_demo.comparison import ScoredAnswer
from mindprint_demo.results import DemoResults
from mindprint_demo.scoring import Arm, ArmScores
from mindprint_demo.trace_accounting import account_for_traces

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def person(user_id: str, *, best: str | None = "a", held_out: int = 4) -> UserDataset:
    return UserDataset(
        user_id,
        [
            Engagement(id=f"{user_id}/t{n}", prompt="?", response="ab"[n % 3 > 0], occurred_at=NOW, choices=["a", "b"])
            for n in range(6)
        ],
        [
            HeldOutQuestion(f"{user_id}/e{n}", f"q{n}", ["a", "b"], "a", NOW + timedelta(days=n), best=best)
            for n in range(held_out)
        ],
    )


def provenance(profile_version: int | None = 1) -> Provenance:
    return Provenance(
        model="base",
        adapter_digest=None,
        base_digest="sha256:0",
        prompt_version="1",
        mode="personal",
        sampling={},
        seed=None,
        engine="fake",
        profile_version=profile_version,
    )


def trace(
    name: str,
    user_id: str = "u-0",
    *,
    state: TraceState = "trained",
    version: int | None = 1,
    target: float | None = None,
) -> Trace:
    """`target`: the log-probability of `a`."""
    return Trace(
        id=name,
        user_id=user_id,
        mode="personal",
        query="?",
        thinking="...",
        answer="a",
        choice_logprobs=None if target is None else {"a": target, "b": -3.0},
        verdict="accepted",
        state=state,
        version=version,
        provenance=provenance(),
        created_at=NOW,
    )


def version(
    traces: Sequence[str],
    number: int = 1,
    user_id: str = "u-0",
    *,
    state: VersionState = "live",
    passed: bool = True,
    checks: Sequence[Check] = (),
    key: str | None = None,
) -> Version:
    key = key or f"user/{user_id}"
    return Version(
        adapter=key,
        version=number,
        state=state,
        digest=f"sha256:{number}",
        base_digest="sha256:0",
        traces=len(traces),
        parity=ParityResult(passed=passed, against_trainer=0.012, against_base=0.6, tokens=40),
        checks=list(checks),
        manifest=Manifest(
            adapter=key,
            base_digest="sha256:0",
            weights_sha256="0" * 64,
            trace_ids=list(traces),
            samples={"slow": len(traces)},
            settings={},
            losses={},
            tokens=1,
            seconds=1.0,
            trainer="test",
            parity_items=[ParityItem(prompt_ids=[1], target_ids=[2], logprobs=[-1.0], base_logprobs=[-2.0])],
        ),
        created_at=NOW,
    )


THINKS = Check(name="collapse", value=0.05, bound=0.12, passed=True, detail="1 of 20 thinkings, the base 1")
COLLAPSED = Check(name="collapse", value=1.0, bound=0.12, passed=False, detail="20 of 20 thinkings, the base [1]")
UNSEEN = Check(name="personal_live", detail="2 engagements held out, 8 wanted")


def adapter(*versions: Version) -> Adapter:
    live = [v.version for v in versions if v.state == "live"]
    return Adapter(key=versions[0].adapter, live=live[-1] if live else None, versions=list(versions))


def scores(arm: Arm, users: Sequence[UserDataset], logprob: float, right: bool) -> ArmScores:
    made = ArmScores(arm)
    for user in users:
        for mode in ("direct", "personal"):
            made.answers[user.user_id, mode] = [ScoredAnswer(row.id, right, logprob, 1) for row in user.held_out]
    return made


def results(*, failed: int = 0) -> DemoResults:
    """Two users; only the first one has an adapter."""
    users = [person("u-0"), person("u-1")]
    kept = [trace("t1"), trace("t2")]
    adapters = {"u-0": adapter(version(["t1", "t2"]))}
    funnel = Funnel(attempted=6, generated=12, rejected={"wrong_answer": 8, "loop": 2}, accepted=2, trained=2, live=2)
    batch = Batch(
        id="b",
        state="done",
        request=BatchRequest(),
        items=12,
        done=12,
        funnel=funnel,
        generated_tokens=900,
        tokens_per_second=123.4,
        created_at=NOW,
    )
    return DemoResults(
        users=users,
        info=ServerInfo(
            mindprint="0",
            engine="fake",
            device="cpu",
            model="default",
            model_path="m",
            base_digest="sha256:0",
            prompt_version="1",
            max_model_len=2048,
            limits=LoraLimits(max_rank=16, target_modules=[]),
        ),
        batch=batch,
        funnels={"u-0": funnel, "u-1": Funnel(attempted=6, generated=12, rejected={"wrong_answer": 12})},
        tokens={"u-0": 500, "u-1": 400},
        before=scores("base", users, -1.0, False),
        after=scores("adapter", users[:1], -0.25, True),
        adapters=adapters,
        cohorts=[],
        accounting=account_for_traces(kept, adapters.values()),
        failed_requests=failed,
        trainer_killed=None,
        seconds={"traces": 12.0},
    )
