from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from mindprint.types import Sample, Start
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.reporting.dry_run import preview_table
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.run import TrainingRun


def test_it_counts_samples_tokens_and_what_is_lost_by_kind_and_user(
    base: Base, settings: Settings, lease_of: Any
) -> None:
    lease = lease_of(
        start=Start(adapter="cohort/all", version=3, digest="sha256:1"), held_out={"anna": ["e7"], "ben": ["e8", "e9"]}
    )
    too_long = lease.samples[0].model_copy(update={"thinking": "x" * 300})
    long_prompt = lease.samples[1].model_copy(update={"prompt": "x" * 300})
    replay = Sample(kind="replay", engagement_id="r", prompt="What is tea?", thinking="Hm.", answer=" A drink.")
    lease.samples = [too_long, long_prompt, *lease.samples[2:], replay]
    training = TrainingRun(base, lease, settings, None, 0)
    out = io.StringIO()
    Console(file=out, width=120).print(preview_table(training))
    rows = {}
    for line in out.getvalue().splitlines():
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        rows[cells[0]] = cells[1:]
    assert rows["fast"][:2] == ["anna", "6"]
    assert rows["fast"][4:] == ["1", "0"]
    assert rows["slow"][:2] == ["anna", "5"]
    assert rows["slow"][4:] == ["0", "1"]
    assert rows["replay"] == ["-", "1", "12", "13", "0", "0"]
    tokens = sum(
        int(row[number]) for name, row in rows.items() if name in ("slow", "fast", "replay") for number in (2, 3)
    )
    assert training.total_tokens == settings.epochs * tokens
    text = out.getvalue()
    assert "6 traces, attempt 1, starts from cohort/all@3" in text
    assert f"{len(training.plan)} steps in 3 epochs, {training.total_tokens} tokens" in text
    assert "held out for the gate: 3 engagements of 2 users" in text
