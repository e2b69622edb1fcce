"""The results of a demo, and of its optional collapse step."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindprint import gate_report
from mindprint.datasets import UserDataset
from mindprint.types import Adapter, Batch, Funnel, ServerInfo, Version
from mindprint.types.keys import VersionRef
from mindprint_demo.scoring import ArmScores
from mindprint_demo.trace_accounting import TraceAccounting


@dataclass
class CollapseResult:
    """What came of training one user on answers alone."""

    user_id: str
    live: Version
    """The version that was live before."""
    batches: list[Batch] = field(default_factory=list)
    version: Version | None = None
    """The version that was trained on answers alone."""
    live_after: int | None = None
    """Number of the live version after the gate evaluated `version`."""
    answered: int = 0
    """Number of questions that the live version answered during the training."""
    failures: list[str] = field(default_factory=list)
    """Questions without an answer, or answered by another version."""
    later: Version | None = None
    """Newest version that ordinary settings made of the same traces."""
    failed: str | None = None
    """Why the step failed; None if it did not."""

    def problems(self) -> list[str]:
        """Return why it is not shown that the gate refused the collapsed version; empty if it is."""
        found = [self.failed] if self.failed else []
        if self.version is not None:
            name, speaks = VersionRef.of(self.version.adapter, self.version.version), gate_report.failed(self.version)
            if self.version.state != "refused":
                found.append(f"the gate let {name} pass, which was trained by answers only")
            elif all(check.startswith("parity") for check in speaks):
                found.append(f"{name} was refused, but not for its thinking: {', '.join(speaks) or 'no check failed'}")
            if self.live_after != self.live.version:
                found.append(f"version {self.live.version} was live before, {self.live_after or 'none'} after")
        return found + [f"while {self.user_id} was trained: {failure}" for failure in self.failures[:3]]


@dataclass
class DemoResults:
    """All results of a demo."""

    users: list[UserDataset]
    info: ServerInfo
    batch: Batch
    funnels: dict[str, Funnel]
    tokens: dict[str, int]
    """Generated thinking tokens by user id."""
    before: ArmScores
    after: ArmScores
    adapters: dict[str, Adapter]
    """Adapters by user id."""
    cohorts: list[Adapter]
    accounting: TraceAccounting
    failed_requests: int
    """Error replies of the server, and questions without an answer."""
    trainer_killed: str | None
    """What the trainer was doing when it was killed."""
    seconds: dict[str, float] = field(default_factory=dict)
    collapse: CollapseResult | None = None
