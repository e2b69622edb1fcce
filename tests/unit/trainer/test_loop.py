from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mindprint.types import Lease, LoraLimits, Manifest
from mindprint_trainer import lora
from mindprint_trainer.base import Base
from mindprint_trainer.errors import CannotTrain, LeaseEnded, NotFinite
from mindprint_trainer.loop import StepReport, train, warm
from mindprint_trainer.settings import Settings

LeaseOf = Callable[..., Lease]


@pytest.fixture
def run(base: Base, settings: Settings, tmp_path: Path) -> Callable[..., tuple[Manifest, dict[str, torch.Tensor]]]:
    numbers = itertools.count()

    def go(lease: Lease, **changes: Any) -> tuple[Manifest, dict[str, torch.Tensor]]:
        folder = tmp_path / str(next(numbers))
        asked = settings.model_copy(update=changes)
        manifest = train(base, lease, asked, folder, lambda: None, lambda _: None)
        return manifest, load_file(folder / lora.WEIGHTS)

    return go


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_loss_goes_down_in_every_part(run: Any, lease_of: LeaseOf) -> None:
    manifest, weights = run(lease_of(), epochs=6)
    for name in ("slow_thinking", "slow_answer", "fast_answer"):
        assert manifest.losses[f"{name}_last"] < manifest.losses[f"{name}_first"] - 0.5
    assert any(tensor.any() for name, tensor in weights.items() if "lora_B" in name)


def test_training_after_another_user_gives_the_same_bits_as_training_alone(
    run: Any, lease_of: LeaseOf, base: Base
) -> None:
    ids = torch.arange(60).unsqueeze(0)

    def answers() -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = base.model(input_ids=ids).logits
            return logits.clone()

    before = answers()
    _, alone = run(lease_of("ben"))
    _, other = run(lease_of("anna"))
    manifest, after = run(lease_of("ben"))
    assert same(alone, after)
    assert not same(alone, other)
    assert torch.equal(before, answers())
    assert manifest.adapter == "user/ben"


def test_the_seed_decides_and_another_attempt_takes_another(run: Any, lease_of: LeaseOf) -> None:
    _, one = run(lease_of(), seed=3)
    assert same(one, run(lease_of(), seed=3)[1])
    assert not same(one, run(lease_of(), seed=4)[1])
    manifest, again = run(lease_of(attempt=1), seed=3)
    assert not same(one, again)
    assert manifest.settings["seed"] == 4


def test_dropout_is_decided_by_the_seed_too(run: Any, lease_of: LeaseOf) -> None:
    torch.manual_seed(1)
    _, one = run(lease_of(), dropout=0.2)
    torch.manual_seed(2)
    assert same(one, run(lease_of(), dropout=0.2)[1])
    assert not same(one, run(lease_of())[1])


def test_how_a_step_is_cut_into_passes_does_not_matter(run: Any, lease_of: LeaseOf) -> None:
    _, one = run(lease_of(), epochs=1)
    _, other = run(lease_of(), epochs=1, micro_batch_tokens=100, logit_chunk=5, share_prompts=False)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-3, rtol=1e-2)


def test_the_manifest_says_what_was_done(run: Any, lease_of: LeaseOf, base: Base) -> None:
    lease = lease_of()
    too_long = lease.samples[0].model_copy(update={"thinking": "x" * 300})
    long_prompt = lease.samples[1].model_copy(update={"prompt": "x" * 300})
    lease.samples = [too_long, long_prompt, *lease.samples[2:]]
    manifest, _ = run(lease, rank=64)
    assert manifest.trace_ids == lease.trace_ids
    assert manifest.samples == {"slow": 5, "fast": 6, "cut": 1, "dropped": 1}
    assert manifest.base_digest == base.digest
    assert manifest.settings["rank"] == 8
    assert manifest.settings["learning_rate"] == 5e-3
    assert not {"server", "api_key", "work_dir", "owner", "model"} & manifest.settings.keys()
    assert manifest.tokens % 3 == 0
    assert manifest.tokens > 3 * 500
    assert manifest.seconds > 0
    assert "torch" in manifest.trainer
    assert 1 <= len(manifest.canary) <= 3


def test_progress_is_told_after_each_step(base: Base, settings: Settings, lease_of: LeaseOf, tmp_path: Path) -> None:
    told: list[StepReport] = []
    manifest = train(base, lease_of(), settings, tmp_path / "a", lambda: None, told.append)
    assert [report.step for report in told] == list(range(1, 10))
    assert {report.steps for report in told} == {9}
    assert told[-1].tokens == told[-1].total_tokens == manifest.tokens
    assert set(told[-1].losses) == {"slow_thinking", "slow_answer", "fast_answer"}


def test_a_loss_that_is_not_a_number_stops_and_leaves_the_base_alone(
    base: Base, settings: Settings, lease_of: LeaseOf, tmp_path: Path
) -> None:
    wild = settings.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(NotFinite, match="user/anna was not finite in step"):
        train(base, lease_of(), wild, tmp_path / "a", lambda: None, lambda _: None)
    assert not (tmp_path / "a").exists()
    assert not any("lora" in name for name, _ in base.model.named_modules())


def test_a_check_ends_it_between_two_passes(base: Base, settings: Settings, lease_of: LeaseOf, tmp_path: Path) -> None:
    calls = itertools.count(1)

    def check() -> None:
        if next(calls) == 3:
            raise LeaseEnded

    with pytest.raises(LeaseEnded):
        train(base, lease_of(), settings, tmp_path / "a", check, lambda _: None)
    assert next(calls) == 4
    assert not (tmp_path / "a").exists()


def test_a_lease_with_nothing_that_fits_is_refused(run: Any, lease_of: LeaseOf) -> None:
    with pytest.raises(CannotTrain, match="none of the 12 samples of user/anna fits into 4 tokens"):
        run(lease_of(), max_length=4)
    with pytest.raises(CannotTrain, match="none of the layers"):
        run(lease_of(limits=LoraLimits(max_rank=8, target_modules=["c_attn"])))


def test_the_rate_rises_in_the_first_share_of_the_steps_and_stays() -> None:
    assert [warm(step, 20, 0.2) for step in range(1, 7)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warm(1, 5, 0.1) == 1
    assert warm(1, 5, 0) == 1
